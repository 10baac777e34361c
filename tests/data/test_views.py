"""Groups of views of several sizes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from omegaconf import DictConfig

from tcl_train.building.run import build_run
from tcl_train.errors import RequestError

WORDS = ("multicrop=small", "multicrop.small.count=3", "multicrop.small.size=5", "batch_size=8")


def test_a_step_trains_on_all_groups(compose_tiny: Callable[..., DictConfig]) -> None:
    trainer = build_run(compose_tiny(*WORDS, "views=2", "loss=supcon")).trainer
    seen: list[tuple[int, ...]] = []
    trainer.method.encoder.register_forward_pre_hook(lambda _, x: seen.append(tuple(x[0].shape)))
    output = trainer.train_step(next(trainer.loader.epoch(0)))
    side = trainer.views.groups[0].side(0)
    assert seen == [(16, 3, side, side), (24, 3, 5, 5)]
    assert len(output.rows_ND) == 8 * 5
    assert torch.equal(output.labels_N[:8], output.labels_N[-8:])
    assert trainer.views.pixels(0) == 2 * side**2 + 3 * 25
    assert trainer.pixels_seen() == 8 * trainer.views.pixels(0)


def test_further_views_leave_the_draws_of_the_first_alone(
    compose_tiny: Callable[..., DictConfig],
) -> None:
    views: list[list[torch.Tensor]] = []
    for words in ((), WORDS[:3]):
        trainer = build_run(compose_tiny("batch_size=8", *words)).trainer
        batch = next(trainer.loader.epoch(0))
        drawn = trainer.views.draw(batch.images, torch.arange(8), batch_size=8, epoch=0, step=0)
        views.append(drawn.of(slice(0, 8)))
    assert torch.equal(views[0][0], views[1][0])


def test_small_views_are_half_as_wide_as_the_others_in_each_epoch(
    compose_tiny: Callable[..., DictConfig],
) -> None:
    words = "multicrop=small", "epochs=2", "view_size=[[0,4],[1,8]]", "augment=crop"
    trainer = build_run(compose_tiny(*words)).trainer
    assert [group.side(epoch) for group in trainer.views.groups for epoch in (0, 1)] == [4, 8, 2, 4]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("multicrop.small.count=0",), "multicrop.small: count must be a whole number >= 1, got 0"),
        (("multicrop.small.size=0",), r"multicrop.small: size \(or null\) must be a whole number"),
        (("multicrop.small.size=1.5",), r"multicrop.small: size \(or null\) must be"),
        (("+multicrop.small.colour=1",), "multicrop.small must hold count, size and augment"),
        (("+multicrop.other={count:3}",), "multicrop.other must hold count, size and augment"),
        (("multicrop.small.augment.crop.scale=7",), "multicrop.small.augment.crop: "),
    ],
)
def test_a_wrong_group_is_named(
    words: tuple[Any, ...], said: str, compose_tiny: Callable[..., DictConfig]
) -> None:
    with pytest.raises(RequestError, match=said):
        build_run(compose_tiny("multicrop=small", *words))
