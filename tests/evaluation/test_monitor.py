"""Watching an encoder while it is trained."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import DictConfig

from tcl_train.building.run import build_run
from tcl_train.evaluation import monitor
from tcl_train.evaluation.features import extract
from tcl_train.evaluation.geometry import rankme
from tcl_train.evaluation.knn import knn_top1
from tcl_train.run.directory import RunDir

WORDS = ("validation=0.2", "monitor=knn")


def test_it_scores_the_images_that_were_kept_out(compose_tiny: Callable[..., DictConfig]) -> None:
    run = build_run(compose_tiny(*WORDS))
    watch, encoder = run.trainer.monitor, run.trainer.method.encoder
    assert isinstance(watch, monitor.Monitor)
    found = watch(encoder, 1)
    train, held_out = (
        extract(encoder, split, watch.normalize, watch.runtime)
        for split in (run.data.train, run.data.validation)
        if split is not None
    )
    assert found["monitor/knn_top1"] == knn_top1(train, held_out, num_classes=10)
    assert found["monitor/rankme"] == pytest.approx(rankme(train.x_ND))


def test_it_looks_after_every_so_many_epochs(compose_tiny: Callable[..., DictConfig]) -> None:
    run = build_run(compose_tiny(*WORDS, "monitor_every=3"))
    looked = [bool(run.trainer.monitor(run.trainer.method.encoder, n)) for n in range(1, 7)]
    assert looked == [False, False, True] * 2


def test_of_many_images_it_takes_the_same_sample(
    compose_tiny: Callable[..., DictConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(monitor, "MOST_TRAINING_IMAGES", 50)
    watch = build_run(compose_tiny(*WORDS)).trainer.monitor
    assert isinstance(watch, monitor.Monitor)
    one, other = watch._sample(), watch._sample()
    assert len(one) == 50
    assert one.labels_N is not None
    assert other.labels_N is not None
    assert torch.equal(one.labels_N, other.labels_N)


def test_a_run_is_the_same_with_it_and_without(
    command: Callable[..., Any], tiny_words: Callable[..., list[str]]
) -> None:
    weights = []
    for name, words in (("with", WORDS), ("without", WORDS[:1])):
        run_dir = RunDir(Path(name))
        outcome = command(*tiny_words("epochs=2", *words, f"hydra.run.dir={name}"))
        assert outcome.status == 0, outcome.err
        weights.append(torch.load(run_dir.last_checkpoint, weights_only=False)["method"])
        records = [json.loads(line) for line in run_dir.metrics.read_text().splitlines()]
        looks = [record["epoch"] for record in records if "monitor/knn_top1" in record]
        assert looks == ([0, 1] if name == "with" else [])
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("monitor=knn",), "monitor=knn scores training images .*; give validation=0.1"),
        (("monitor=other", "validation=0.1"), "monitor .* must be one of knn, got 'other'"),
        ((*WORDS, "monitor_every=0"), "monitor_every must be a whole number >= 1"),
    ],
)
def test_what_cannot_be_watched_is_refused(
    words: tuple[str, ...], said: str, compose_tiny: Callable[..., DictConfig]
) -> None:
    with pytest.raises(Exception, match=said):
        build_run(compose_tiny(*words))
