"""Runs whose views are cut out of whole files by workers."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tcl_train.run.directory import RunDir


@pytest.fixture
def words(tmp_path: Path, tiny_words: Callable[..., list[str]]) -> list[str]:
    rng = np.random.default_rng(0)
    for split, count in (("train", 12), ("test", 4)):
        for c, name in enumerate(("blue", "red")):
            for i in range(count):
                path = tmp_path / "images" / split / name / f"{i}.jpg"
                path.parent.mkdir(parents=True, exist_ok=True)
                pixels = rng.integers(0, 100, (20, 20 + 4 * i, 3))
                pixels[:, :, 2 * c] += 150
                Image.fromarray(pixels.astype(np.uint8)).save(path)
    return tiny_words(
        "dataset=image_folder",
        f"dataset.root={tmp_path / 'images'}",
        "dataset.image_size=16",
        "data.memory_limit_gb=0",
        "data.workers=2",
        "augment=simaug",
        "batch_size=8",
        "epochs=2",
    )


def losses(run_dir: RunDir) -> list[float]:
    lines = map(json.loads, run_dir.metrics.read_text().splitlines())
    return [line["loss"] for line in lines if "loss" in line]


def test_an_interrupted_run_ends_bit_for_bit_as_the_whole_one(
    words: list[str], command: Callable[..., Any], signalled: Callable[..., Any]
) -> None:
    assert command(*words, "hydra.run.dir=whole", "data.workers=0").status == 0
    with signalled(4):
        assert command(*words, "hydra.run.dir=part").status == 130
    assert command("resume=part").status == 0
    assert losses(RunDir("part")) == losses(RunDir("whole"))
    assert RunDir("part").read_result()["top1"] == RunDir("whole").read_result()["top1"]


def test_the_published_probe_trains_on_cut_views_too(
    words: list[str], command: Callable[..., Any]
) -> None:
    words = [word for word in words if not word.startswith("probe")]
    probe = ("probe=sgd", "probe.epochs=2", "probe.batch_size=8")
    outcome = command(*words, *probe, "hydra.run.dir=run")
    assert (outcome.status, outcome.err) == (0, "")
    assert RunDir("run").read_result()["top1"] >= 50
