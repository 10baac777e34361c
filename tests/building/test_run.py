"""Whole runs, built."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from omegaconf import DictConfig

from tcl_train.building.run import build_run
from tcl_train.data.dataset import DataSet
from tcl_train.errors import RequestError


def test_batches_by_class_have_positives(
    compose_tiny: Callable[..., DictConfig], few_digits: DataSet
) -> None:
    config = compose_tiny("data.sampler=classes", "data.images_per_class=8", "batch_size=32")
    loader = build_run(config, data=few_digits).trainer.loader
    for batch in loader.epoch(0):
        groups_GK = batch.labels_B.view(-1, 8)
        assert (groups_GK == groups_GK[:, :1]).all()


@pytest.mark.parametrize(
    ("words", "who"),
    [(["loss=ce"], "method=cross_entropy"), (["data.sampler=balanced"], "data.sampler=balanced")],
)
def test_what_needs_every_label_is_refused_where_some_are_missing(
    words: list[str],
    who: str,
    compose_tiny: Callable[..., DictConfig],
    few_digits: DataSet,
) -> None:
    data = few_digits.with_labels_of(0.5, torch.Generator().manual_seed(0))
    with pytest.raises(RequestError, match=f"{who} needs a label for each image, and 8. of 167"):
        build_run(compose_tiny("batch_size=32", *words), data=data)
    build_run(compose_tiny("batch_size=32"), data=data)
