"""A sweep of six jobs of which one fails, with real processes and real images."""

from __future__ import annotations

import csv
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tcl_train.run.directory import RunDir

ROOTS = "abcdef"
FAILING = 2
WORDS = (
    *("dataset=image_folder", "dataset.image_size=8", "encoder=resnet8", "encoder.width=4"),
    *("epochs=1", "batch_size=8", "random_encoder_baseline=false", "probe.l2=[1e-3]"),
    *("device=cpu", "precision=fp32"),
)
SWEEP = ("-m", *WORDS, f"dataset.root={','.join(ROOTS)}", "hydra.sweep.dir=sweep")
TIMES = {"images_per_second", "wall_seconds", "pretrain_seconds", "overrides", "data_wait_percent"}


def run(*words: str) -> tuple[int, str]:
    """The status, and both streams in the order in which they were written."""
    command = [sys.executable, "-m", "tcl_train", *words]
    done = subprocess.run(command, stdout=-1, stderr=subprocess.STDOUT, text=True, check=False)
    return done.returncode, done.stdout


def rows() -> list[dict[str, str]]:
    with Path("sweep/sweep.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def weights_and_numbers(folder: str) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    run_dir = RunDir(folder)
    weights = torch.load(run_dir.last_checkpoint, weights_only=False)["method"]
    result = {k: v for k, v in run_dir.read_result().items() if k not in TIMES}
    return weights, result


@pytest.mark.slow
def test_five_finish_and_the_failed_one_alone_is_run_again(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    write_images: Callable[..., Path],
    contents: Callable[[Path], dict[str, Any]],
) -> None:
    monkeypatch.chdir(tmp_path)
    for root in ROOTS:
        counts = {f"{split}/{name}": 9 for split in ("train", "test") for name in ("red", "blue")}
        write_images(tmp_path / root, counts)
    shutil.move("c", "elsewhere")

    status, said = run(*SWEEP)
    assert status == 2
    lines = said.splitlines()
    failed = [
        i for i, line in enumerate(lines) if "dataset.root=c: there is no such folder" in line
    ]
    next_job = next(
        i for i, line in enumerate(lines) if line.startswith("--- ") and "root=d" in line
    )
    assert len(failed) == 1
    assert failed[0] < next_job
    table = rows()
    assert [row["status"] for row in table] == [
        "bad request" if i == FAILING else "finished" for i in range(len(ROOTS))
    ]
    finished = [row["dir"] for i, row in enumerate(table) if i != FAILING]
    assert all(RunDir(folder).read_result()["top1"] is not None for folder in finished)

    weights, result = weights_and_numbers(table[1]["dir"])
    alone_status, _ = run(*WORDS, "dataset.root=b", "hydra.run.dir=alone")
    alone_weights, alone_result = weights_and_numbers("alone")
    assert alone_status == 0
    assert all(torch.equal(weights[name], alone_weights[name]) for name in alone_weights)
    assert result == alone_result

    shutil.move("elsewhere", "c")
    before = {folder: contents(Path(folder)) for folder in finished}
    status, said = run(*SWEEP)
    assert (status, said.count("already finished, skipped")) == (0, 5)
    assert [row["status"] for row in rows()] == ["finished"] * len(ROOTS)
    assert {folder: contents(Path(folder)) for folder in finished} == before
