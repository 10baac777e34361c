"""Studies of the losses on CIFAR-100 with a small encoder, for two CPU cores.

    python scripts/studies.py losses DIR        # CE, SupCon and TCL, settings chosen on validation
    python scripts/studies.py temperature DIR   # uniformity and tolerance over tau
    python scripts/studies.py gradients DIR     # mean gradients over training, by k1 and k2
    python scripts/studies.py k1 DIR            # accuracy against k1, 10 and 100 classes, warm-up

DIR holds train/CLASS and test/CLASS. Runs are written to outputs/studies/NAME, and a report of them
to results/studies/NAME. An interrupted study continues when it is called again.
"""

from __future__ import annotations

import argparse
import csv
import json
import re
import shutil
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

SEEDS = "seed=1,2,3"
TRIALS = 8  # of each loss's settings, as many for one as for another
LR = "lr=tag(log,interval(0.02,0.3))"
TAU = "tau=tag(log,interval(0.05,0.5))"
SPACES = {
    "ce": (LR,),
    "supcon": (LR, TAU),
    "tcl": (LR, TAU, "k1=tag(log,interval(100,50000))", "k2=1,2,3"),
}
FEW = 10  # classes

RUNS, RESULTS = Path("outputs/studies"), Path("results/studies")


def sweep(folder: Path, *words: str) -> None:
    """A sweep whose values come after those of its experiment."""
    command = [sys.executable, "-m", "tcl_train", "-m", *words, f"hydra.sweep.dir={folder}"]
    print(*command[1:], flush=True)
    subprocess.run(command, check=True)


def best_of(search: Path, keys: Sequence[str]) -> list[str]:
    """The words of the settings with the best validation accuracy."""
    with (search / "sweep.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["val_top1"]]
    best = max(rows, key=lambda row: float(row["val_top1"]))
    return [f"{key}={best[key]}" for key in keys]


def losses(folder: Path, images: Path) -> None:
    common = ("experiment=cpu/supervised", f"dataset.root={images}")
    for loss, space in SPACES.items():
        search = folder / "search" / loss
        trials = ("hydra/sweeper=optuna", f"hydra.sweeper.n_trials={TRIALS}", *space)
        sweep(search, *common, f"loss={loss}", "epochs=2", "seed=11", "validation=0.1", *trials)
        chosen = best_of(search, [word.partition("=")[0] for word in space])
        sweep(folder / "runs" / loss, *common, f"loss={loss}", "epochs=4", *chosen, SEEDS)


def temperature(folder: Path, images: Path) -> None:
    common = ("experiment=cpu/temperature", f"dataset.root={images}", "epochs=2")
    sweep(folder / "runs", *common, "loss=supcon,tcl", "tau=0.05,0.07,0.1,0.2,0.5,1.0")


def gradients(folder: Path, images: Path) -> None:
    common = (f"dataset.root={images}", "epochs=2", "log_every=10")
    sweep(folder / "runs" / "k1", "experiment=cpu/k1", *common, "k1=0,5000,50000")
    sweep(folder / "runs" / "k2", "experiment=cpu/k2", *common, "k2=0.5,3")


def k1(folder: Path, images: Path) -> None:
    few = folder / f"{FEW}-classes"
    if not few.is_dir():
        first_classes(images, few, FEW)
    for name, root, epochs, warm_up in (("many", images, 3, 1), ("few", few, 20, 5)):
        words = (f"dataset.root={root}", f"epochs={epochs}", f"k1_warmup_epochs=0,{warm_up}")
        sweep(folder / "runs" / name, "experiment=cpu/k1", *words, "k1=0,1000,5000,20000,50000")


def first_classes(images: Path, target: Path, count: int) -> None:
    """Links to the first classes by name."""
    unfinished = target.with_name(f"{target.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    for split in ("train", "test"):
        (unfinished / split).mkdir(parents=True)
        for folder in sorted((images / split).iterdir())[:count]:
            (unfinished / split / folder.name).symlink_to(folder.resolve())
    unfinished.rename(target)


STUDIES: dict[str, Callable[[Path, Path], None]] = {
    "losses": losses,
    "temperature": temperature,
    "gradients": gradients,
    "k1": k1,
}


FIGURES = {
    "losses": ("top1_by_group", "training"),
    "temperature": ("uniformity_tolerance", "top1_over_tau"),
    "gradients": ("gradients",),
    "k1": ("top1_over_k1",),
}
PARTS = {"k1": ("many", "few")}  # sets of images, each with its own report
FIGURE = re.compile(r"!\[[^\]]*\]\(figures/(\w+)\.png\)\n\n\*.*\n\n?")  # with its caption


def report(runs: Path, made: Path, out: Path, figures: Sequence[str]) -> None:
    """The tables, and of the figures these."""
    command = Path(sys.executable).with_name("tcl-report")
    subprocess.run([command, runs, f"out={made}"], check=True)
    out.mkdir(parents=True, exist_ok=True)
    shutil.copy(made / "report.csv", out)
    for name in figures:
        shutil.copy(made / "figures" / f"{name}.png", out)
    text = (made / "report.md").read_text(encoding="utf-8")
    text = FIGURE.sub(lambda found: found[0] if found[1] in figures else "", text)
    (out / "report.md").write_text(text.replace("(figures/", "("), encoding="utf-8")


MEANS = {
    "positives": "gradient_from_positives",
    "negatives": "gradient_from_negatives",
    "similarity of positives": "positive_similarity",
}
LINES = 10  # of the metrics, at the beginning and at the end of a run


def write_means(folder: Path, out: Path) -> None:
    """Of what each run logged of its gradients, over its first and its last lines."""
    with (out / "means.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(
            ["run", *(f"{name}, {when}" for name in MEANS for when in ("first", "last"))]
        )
        for metrics in sorted((folder / "runs").rglob("metrics.jsonl")):
            lines = [json.loads(line) for line in metrics.read_text().splitlines()]
            lines = [line for line in lines if MEANS["positives"] in line]
            means = [
                statistics.mean(line[key] for line in part)
                for key in MEANS.values()
                for part in (lines[:LINES], lines[-LINES:])
            ]
            writer.writerow([metrics.parent.name, *(f"{mean:.4g}" for mean in means)])


TRIED = ("lr", "tau", "k1", "k2", "val_top1", "wall_seconds")  # of a trial


def write_searches(folder: Path, out: Path) -> None:
    """Which settings were tried, and what they gave on validation images."""
    with (out / "search.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["loss", *TRIED])
        for loss in SPACES:
            with (folder / "search" / loss / "sweep.csv").open(newline="") as table:
                for row in csv.DictReader(table):
                    writer.writerow([loss, *(row.get(key, "") for key in TRIED)])


FURTHER = {"gradients": write_means, "losses": write_searches}  # tables


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("study", choices=STUDIES)
    parser.add_argument("images", type=Path, metavar="DIR")
    given = parser.parse_args()
    if not (given.images / "train").is_dir():
        parser.error(f"{given.images}: there is no train/ in it")
    folder = RUNS / given.study
    STUDIES[given.study](folder, given.images)
    for part in PARTS.get(given.study, ("",)):
        out = RESULTS / given.study / part
        report(folder / "runs" / part, folder / "report" / part, out, FIGURES[given.study])
    if given.study in FURTHER:
        FURTHER[given.study](folder, RESULTS / given.study)


if __name__ == "__main__":
    main()
