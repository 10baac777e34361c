"""How long a user waits for the first training step, and for a folder of images to be read.

    python scripts/bench_start.py --root ../data/cifar100

Reads a folder of CIFAR-100's images (ROOT/train/CLASS/*.png, ROOT/test/CLASS/*.png) with an empty
cache and with a full one, then starts `tcl-train` with the full one: until training begins, and
until its first step is done.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from time import perf_counter, sleep

import torch
from bench_record import Table

from tcl_train.data.dataset import ReadOptions
from tcl_train.data.folder import image_folder
from tcl_train.runtime.device import available_cpus

WORDS = (
    *("loss=tcl", "dataset=cifar100", "k1=50000", "encoder=resnet8", "augment=simaug"),
    *("probe=lbfgs", "batch_size=256", "epochs=1", "log_every=1", "device=cpu"),
)


def read_seconds(root: str, cache: Path) -> float:
    """Of mean and standard deviation given, as the recipe does."""
    options = ReadOptions(
        cache_dir=cache, memory_limit_gb=4, workers=available_cpus(), supervised=True
    )
    begin = perf_counter()
    image_folder(root, options=options, image_size=32, mean=[0.5] * 3, std=[0.25] * 3)
    return perf_counter() - begin


def start_seconds(root: str, cache: Path, run: Path) -> tuple[float, float]:
    """Until training begins (the plan is printed), and until its first step is written down."""
    folders = (f"dataset.root={root}", f"data.cache_dir={cache}", f"hydra.run.dir={run}")
    begin = perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "tcl_train", *WORDS, *folders], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    try:
        for line in process.stdout:
            if line.startswith("cifar100: "):
                break
        begun = perf_counter() - begin
        metrics = run / "metrics.jsonl"
        while process.poll() is None and not (metrics.exists() and metrics.stat().st_size):
            sleep(0.01)
        done = perf_counter() - begin
        if process.poll() is not None:
            raise SystemExit("the run ended before its first step")
    finally:
        process.kill()
        process.communicate()
    return begun, done


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", required=True)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("results/bench_start.csv"))
    given = parser.parse_args()

    folder = Path(tempfile.mkdtemp(prefix="bench-start-"))
    try:
        cache = folder / "cache"
        rows = [{"what": "read, empty cache", "seconds": read_seconds(given.root, cache)}]
        again = min(read_seconds(given.root, cache) for _ in range(given.turns))
        rows.append({"what": "read, full cache", "seconds": again})
        starts = [start_seconds(given.root, cache, folder / f"run{i}") for i in range(given.turns)]
        rows.append({"what": "training begins", "seconds": min(begun for begun, _ in starts)})
        rows.append({"what": "first step done", "seconds": min(done for _, done in starts)})
    finally:
        shutil.rmtree(folder)
    images = sum(1 for _ in Path(given.root).glob("*/*/*.*"))
    table = Table(given.out, torch.device("cpu"))
    for row in rows:
        table.add(row | {"images": images, "cpus": available_cpus()})


if __name__ == "__main__":
    main()
