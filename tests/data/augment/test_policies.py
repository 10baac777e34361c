"""AutoAugment and RandAugment, against torchvision's own on one image at a time.

N: images; C: channels; H, W: rows and columns.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torchvision import transforms

from tcl_train.data.augment import AutoAugment, RandAugment

KINDS: dict[str, tuple[Any, Any]] = {
    **{
        f"autoaugment {policy.value}": (
            AutoAugment(policy.value),
            transforms.AutoAugment(policy),
        )
        for policy in transforms.AutoAugmentPolicy
    },
    "randaugment": (RandAugment(), transforms.RandAugment(2, 14)),
    "randaugment 3 of 30": (RandAugment(3, 30), transforms.RandAugment(3, 30)),
}
every_kind = pytest.mark.parametrize("kind", KINDS)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def images(count: int, channels: int = 3) -> Tensor:
    """Smooth, so that every operation shows: noise has no contrast to stretch."""
    coarse_NCHW = torch.rand(count, channels, 3, 3, generator=seeded(7)) * 200 + 20
    return torch.nn.functional.interpolate(coarse_NCHW, (16, 16), mode="bilinear").to(torch.uint8)


@every_kind
@pytest.mark.parametrize("channels", [1, 3])
def test_each_image_is_what_torchvision_makes_of_it_with_the_images_seed(
    kind: str, channels: int
) -> None:
    ours, theirs = KINDS[kind]
    x_NCHW = images(24, channels)
    parameters = ours.draw(24, 16, 16, seeded(3))
    found_NCHW = ours.apply(x_NCHW, parameters, 16)
    assert found_NCHW.dtype == torch.uint8
    for image_CHW, seed, found_CHW in zip(
        x_NCHW, parameters["seed"].tolist(), found_NCHW, strict=True
    ):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            assert torch.equal(found_CHW, theirs(image_CHW))


@every_kind
def test_equal_images_come_out_in_many_ways(kind: str) -> None:
    ours, _ = KINDS[kind]
    x_NCHW = images(1).expand(24, -1, -1, -1)
    found_NCHW = ours.apply(x_NCHW, ours.draw(24, 16, 16, seeded(0)), 16)
    # Not all 24: an operation may not be chosen, or change nothing.
    assert len({image_CHW.numpy().tobytes() for image_CHW in found_NCHW}) > 6


@every_kind
def test_the_global_random_state_neither_matters_nor_changes(kind: str) -> None:
    ours, _ = KINDS[kind]
    found = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        before = torch.random.get_rng_state()
        found.append(ours.apply(images(8), ours.draw(8, 16, 16, seeded(5)), 16))
        assert torch.equal(torch.random.get_rng_state(), before)
    assert torch.equal(*found)


@every_kind
def test_an_image_does_not_depend_on_the_others(kind: str) -> None:
    """So that processes may share a batch out."""
    ours, _ = KINDS[kind]
    parameters = ours.draw(8, 16, 16, seeded(5))
    whole_NCHW = ours.apply(images(8), parameters, 16)
    part = {name: value[3:6] for name, value in parameters.items()}
    assert torch.equal(ours.apply(images(8)[3:6], part, 16), whole_NCHW[3:6])


@every_kind
def test_floats_are_rounded_to_the_nearest_level(kind: str) -> None:
    """As after a resized crop."""
    ours, _ = KINDS[kind]
    parameters = ours.draw(8, 16, 16, seeded(5))
    expected_NCHW = ours.apply(images(8), parameters, 16)
    for off in (-0.4, 0.4):
        floats_NCHW = (images(8) + off) / 255
        assert torch.equal(ours.apply(floats_NCHW, parameters, 16), expected_NCHW)


@every_kind
@pytest.mark.parametrize("value", [0.0, 1.0])
def test_black_and_white_do_not_wrap_round(kind: str, value: float) -> None:
    """Resampling leaves values a rounding error outside [0, 1]."""
    ours, _ = KINDS[kind]
    parameters = ours.draw(8, 16, 16, seeded(5))
    exact_NCHW = torch.full((8, 3, 16, 16), value)
    off_NCHW = exact_NCHW + (1e-6 if value else -1e-6)
    assert torch.equal(ours.apply(off_NCHW, parameters, 16), ours.apply(exact_NCHW, parameters, 16))


@pytest.mark.parametrize(
    ("kind", "keys", "name"),
    [
        (AutoAugment, {"policy": "cifar100"}, "policy"),
        (AutoAugment, {"policy": None}, "policy"),
        (RandAugment, {"num_ops": 0}, "num_ops"),
        (RandAugment, {"num_ops": 1.5}, "num_ops"),
        (RandAugment, {"num_ops": True}, "num_ops"),
        (RandAugment, {"magnitude": -1}, "magnitude"),
        (RandAugment, {"magnitude": 31}, "magnitude"),
        (RandAugment, {"magnitude": 3.5}, "magnitude"),
    ],
)
def test_a_setting_out_of_range_is_named(kind: Any, keys: dict[str, Any], name: str) -> None:
    with pytest.raises((ValueError, TypeError), match=rf"^{name} must be .*got "):
        kind(**keys)


def test_an_unknown_policy_is_answered_with_the_list() -> None:
    with pytest.raises(ValueError, match="imagenet, cifar10, svhn"):
        AutoAugment("cifar100")
