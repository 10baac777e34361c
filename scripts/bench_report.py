"""How long a report over many runs takes, in how much memory, and how large its page is.

    python scripts/bench_report.py

Makes synthetic runs (settings of TCL with random numbers, 100 classes, 200 lines of metrics; some
with predictions) below a temporary folder, has `tcl-report` report them, and stores what it took.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from time import perf_counter

import numpy as np
import torch
import yaml
from bench_record import Table

BASE = Path(__file__).parents[1] / "tests/earlier_runs/9d5e053-whole"
LINES, CLASSES, TESTED, SAMPLE, FEATURES = 200, 100, 10_000, 1_000, 512
SEEDS, WITH_PREDICTIONS = 5, 20
# The command, and then what it took: seconds of its processor, and the most memory (Linux).
START = """
import resource
from tcl_train.cli.main import main_report
assert main_report() == 0
used = resource.getrusage(resource.RUSAGE_SELF)
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
print(used.ru_utime + used.ru_stime, status["VmHWM"].split()[0])
"""


def make_runs(folder: Path, count: int) -> None:
    """Five seeds of each setting: four temperatures, k2 1 and 3, and as many k1 as it takes."""
    config = yaml.safe_load((BASE / "config.yaml").read_text())
    result = json.loads((BASE / "result.json").read_text())
    settings = [(tau, k2) for tau in (0.05, 0.1, 0.2, 0.5) for k2 in (1.0, 3.0)]
    for number in range(count):
        seed, rest = number % SEEDS + 1, number // SEEDS
        tau, k2 = settings[rest % len(settings)]
        k1 = 100.0 * 2 ** (rest // len(settings))
        rng = np.random.default_rng(number)
        top1 = 60 + 4 * np.log10(k1) - 10 * abs(tau - 0.1) + k2 + rng.normal()
        run = folder / f"{number}_k1-{k1:g}_k2-{k2:g}_tau-{tau:g}_seed-{seed}"
        run.mkdir(parents=True)
        own = {"seed": seed, "k1": k1, "k2": k2, "tau": tau}
        words = ["dataset=cifar100", "loss=tcl", *(f"{key}={own[key]}" for key in own)]
        names = config["names"] | {"dataset": "cifar100"}
        whole = config | own | {"names": names, "overrides": words, "epochs": 100}
        (run / "config.yaml").write_text(yaml.dump(whole))
        measured = {
            "top1": top1,
            "knn_top1": top1 - 3,
            "calibration_error": 5.0 + rng.normal(),
            "geometry": {
                "uniformity": -3 + 2 * tau + 0.02 * rng.normal(),
                "tolerance": 0.3 + tau + 0.01 * rng.normal(),
                "alignment": 0.3,
                "rankme": 80.0,
            },
            "per_class_top1": {f"class {k}": float(rng.uniform(40, 100)) for k in range(CLASSES)},
        }
        of_data = {"dataset": "cifar100", "num_classes": CLASSES, "num_test": TESTED}
        steps = {"steps": 10 * LINES, "epochs": 100, "seed": seed}
        (run / "result.json").write_text(json.dumps(result | measured | of_data | steps))
        (run / "metrics.jsonl").write_text("".join(_lines(rng, k1, k2)))
        if number < WITH_PREDICTIONS or number >= count - WITH_PREDICTIONS:
            _write_predictions(run / "predictions.npz", rng)


def _lines(rng: np.random.Generator, k1: float, k2: float) -> list[str]:
    lines = []
    for i in range(LINES):
        progress = i / LINES
        record = {
            "step": 10 * (i + 1),
            "epoch": i // 2,
            "loss": 6 - 2 * progress**0.5 + 0.1 * rng.normal(),
            "chance_level": 6.2,
            "positive_similarity": progress,
            "negative_similarity": 0.1 * rng.random(),
            "embedding_spread": 0.5 + 0.4 * progress,
            "gradient_from_positives": 0.3 + 0.1 * np.log10(k1) * (1 - progress),
            "gradient_from_negatives": 0.03 * k2 * (1 - progress) + 0.01,
            "lr": 0.1 * (1 - progress),
            "images_per_second": 900.0,
            "monitor/knn_top1": 60 * progress**0.5,
        }
        lines.append(json.dumps(record) + "\n")
    return lines


def _write_predictions(path: Path, rng: np.random.Generator) -> None:
    labels_N = rng.integers(0, CLASSES, TESTED)
    near_N = (labels_N // 5) * 5 + rng.integers(0, 5, TESTED)
    centres_KD = rng.normal(size=(CLASSES, FEATURES))
    sample_n = rng.choice(TESTED, SAMPLE, replace=False)
    features_nD = centres_KD[labels_N[sample_n]] + rng.normal(size=(SAMPLE, FEATURES))
    colours_K3 = rng.integers(0, 255, (CLASSES, 1, 1, 3))
    thumbnails = colours_K3[labels_N[sample_n]] * rng.random((SAMPLE, 32, 32, 1))
    np.savez_compressed(
        path,
        labels=labels_N,
        predicted=np.where(rng.random(TESTED) < 0.7, labels_N, near_N),
        confidence=rng.random(TESTED).astype(np.float32),
        classes=np.array([f"class {k}" for k in range(CLASSES)]),
        sample=sample_n,
        sample_features=features_nD.astype(np.float16),
        thumbnails=thumbnails.astype(np.uint8),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, nargs="+", default=[10, 1000])
    parser.add_argument("--keep", type=Path, help="a new folder for the runs, which stay there")
    parser.add_argument("--out", type=Path, default=Path("results/bench_report.csv"))
    given = parser.parse_args()

    table = Table(given.out, torch.device("cpu"))
    folder = given.keep or Path(tempfile.mkdtemp(prefix="bench-report-"))
    try:
        for count in given.runs:
            runs, report = folder / f"runs-{count}", folder / f"report-{count}"
            make_runs(runs, count)
            begin = perf_counter()
            command = [sys.executable, "-c", START, str(runs), f"out={report}"]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            seconds = perf_counter() - begin
            cpu_seconds, peak_kib = map(float, done.stdout.splitlines()[-1].split())
            table.add(
                {
                    "runs": count,
                    "seconds": seconds,
                    "cpu_seconds": cpu_seconds,
                    "peak_mib": peak_kib / 2**10,
                    "page_mib": (report / "report.html").stat().st_size / 2**20,
                    "figures": len(list((report / "figures").glob("*.png"))),
                }
            )
    finally:
        if given.keep is None:
            shutil.rmtree(folder)


if __name__ == "__main__":
    main()
