"""Run directories of earlier commits stay usable.

tests/earlier_runs/COMMIT-whole is a finished run, COMMIT-part the same one interrupted at step 15
of 22; their config.yaml has the command. What is not needed was taken out (TensorBoard, the log,
the finished run's checkpoint).
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tcl_train import load_encoder
from tcl_train.cli.main import main_eval
from tcl_train.run.directory import RunDir

EARLIER = Path(__file__).with_name("earlier_runs")
COMMITS = sorted({path.name.split("-")[0] for path in EARLIER.iterdir()})


@pytest.fixture(params=COMMITS)
def whole(request: pytest.FixtureRequest) -> RunDir:
    return RunDir(EARLIER / f"{request.param}-whole")


@pytest.fixture
def part(whole: RunDir, tmp_path: Path) -> RunDir:
    source = whole.path.with_name(whole.path.name.replace("whole", "part"))
    return RunDir(shutil.copytree(source, tmp_path / "run"))


def final_loss(run_dir: RunDir) -> float:
    lines = map(json.loads, run_dir.metrics.read_text().splitlines())
    return [line["loss"] for line in lines if "loss" in line][-1]


def test_an_interrupted_run_is_resumed_to_the_same_end(
    whole: RunDir, part: RunDir, command: Callable[..., Any]
) -> None:
    outcome = command(f"resume={part}")
    assert (outcome.status, outcome.err) == (0, "")
    assert "resuming at step 15 of 22" in outcome.out
    result, before = part.read_result(), whole.read_result()
    # The run was made on another processor, which sums in another order.
    assert final_loss(part) == pytest.approx(final_loss(whole), rel=1e-3)
    assert result["top1"] == pytest.approx(before["top1"], abs=4 * 100 / 360)
    for key in ("steps", "image_views_seen", "dataset", "encoder", "loss", "overrides"):
        assert result[key] == before[key], key


def test_a_run_is_evaluated_again(part: RunDir, command: Callable[..., Any]) -> None:
    outcome = command(f"run={part}", "probe.max_iter=5", main=main_eval)
    assert (outcome.status, outcome.err) == (0, "")
    evaluation = json.loads((part.path / "evaluations" / "digits-lbfgs.json").read_text())
    assert evaluation["top1"] > 30
    assert evaluation["step"] == 15


def test_its_encoder_is_loaded(part: RunDir) -> None:
    encoder = load_encoder(part.path)
    assert encoder(torch.zeros(2, 3, 8, 8)).shape == (2, 16)
