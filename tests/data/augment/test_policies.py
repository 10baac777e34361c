"""The policies and their operations, against torchvision's own on one image at a time.

N: images; C: channels; H, W: rows and columns; K: operations an image.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import chi2_contingency, ks_2samp
from torch import Tensor
from torch._subclasses import FakeTensorMode
from torchvision import transforms
from torchvision.transforms.autoaugment import _apply_op

from tcl_train.data.augment import AutoAugment, RandAugment, TrivialAugment
from tcl_train.data.augment.policies import (
    CHOICES,
    NAMES,
    RANDOM_SIGN,
    apply_operations,
    magnitudes,
)

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
    "trivialaugment": (TrivialAugment(), transforms.TrivialAugmentWide()),
}
every_kind = pytest.mark.parametrize("kind", KINDS)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def images(count: int, channels: int = 3) -> Tensor:
    """Smooth, so that every operation shows: noise has no contrast to stretch."""
    coarse_NCHW = torch.rand(count, channels, 3, 3, generator=seeded(7)) * 200 + 20
    return torch.nn.functional.interpolate(coarse_NCHW, (16, 16), mode="bilinear").to(torch.uint8)


# ------------------------------------------------------------------ each operation


def theirs(image_CHW: Tensor, name: str, magnitude: float) -> Tensor:
    """torchvision's, by the function that its policies call."""
    return _apply_op(image_CHW, name, magnitude, transforms.InterpolationMode.NEAREST, None)


def their_space(wide: bool) -> dict[str, tuple[Tensor, bool]]:
    if wide:
        return transforms.TrivialAugmentWide()._augmentation_space(31)
    return {
        **transforms.AutoAugment()._augmentation_space(31, (16, 24)),
        **transforms.RandAugment()._augmentation_space(31, (16, 24)),
    }


def test_torchvision_draws_from_the_same_operations() -> None:
    assert their_space(wide=False).keys() == set(NAMES)
    assert their_space(wide=True).keys() == set(CHOICES)


@pytest.mark.parametrize(
    ("name", "wide"), [(name, False) for name in NAMES] + [(name, True) for name in CHOICES]
)
def test_magnitudes_are_torchvisions(name: str, wide: bool) -> None:
    expected, has_sign = their_space(wide)[name]
    found_B = magnitudes(name, 31, 16, 24, wide=wide)
    torch.testing.assert_close(found_B, expected.float().expand(31), rtol=0, atol=0)
    assert (name in RANDOM_SIGN) == has_sign


def special_images(channels: int) -> Tensor:
    """Smooth ones, noise, one of a single level, one of two, and one that is dark."""
    x_NCHW = images(8, channels)
    x_NCHW[0] = torch.randint(256, x_NCHW[0].shape, generator=seeded(1), dtype=torch.uint8)
    x_NCHW[1] = 77
    x_NCHW[2] = (x_NCHW[2] > 120).to(torch.uint8) * 255
    x_NCHW[3] //= 16
    return torch.nn.functional.pad(x_NCHW, (3, 5, 0, 0), value=9)  # as wide as high no longer


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("wide", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_an_operation_does_what_torchvisions_does(name: str, wide: bool, channels: int) -> None:
    x_NCHW = special_images(channels)
    off = []
    for magnitude in magnitudes(name, 31, 16, 24, wide=wide)[::5].unique().tolist():
        for sign in (1, -1) if name in RANDOM_SIGN else (1,):
            found_NCHW = apply_operations(
                x_NCHW, np.full(8, NAMES.index(name)), np.full(8, sign * magnitude)
            )
            expected_NCHW = torch.stack([theirs(x, name, sign * magnitude) for x in x_NCHW])
            assert found_NCHW.dtype == torch.uint8
            off.append((found_NCHW.int() - expected_NCHW.int()).abs())
    off_ONCHW = torch.stack(off)
    if name.startswith("Shear"):  # positions halfway between pixels may be rounded otherwise
        assert (off_ONCHW > 0).float().mean() < 0.003
    else:  # but for a level, where float sums end near a whole one
        assert off_ONCHW.max() <= (1 if name in ("Color", "Contrast", "Sharpness") else 0)


@pytest.mark.parametrize("channels", [1, 3])
def test_each_image_has_an_operation_and_a_magnitude_of_its_own(channels: int) -> None:
    x_NCHW = images(60, channels)
    draw = RandAugment(1, 20).draw(60, 16, 16, seeded(2))
    operation_N, magnitude_N = (draw[key][:, 0].numpy() for key in ("operation", "magnitude"))
    found_NCHW = apply_operations(x_NCHW, operation_N, magnitude_N)
    for i in range(60):
        expected_CHW = theirs(x_NCHW[i], NAMES[operation_N[i]], float(magnitude_N[i]))
        assert (found_NCHW[i].int() - expected_CHW.int()).abs().max() <= 1


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", NAMES)
def test_an_operation_asks_nothing_of_the_device(
    name: str, channels: int, no_waiting_copies: Callable[[], AbstractContextManager[Any]]
) -> None:
    with FakeTensorMode(allow_non_fake_inputs=True), no_waiting_copies():
        x_NCHW = torch.empty(4, channels, 16, 24, dtype=torch.uint8, device="cuda")
        found_NCHW = apply_operations(x_NCHW, np.full(4, NAMES.index(name)), np.full(4, 0.3))
    assert (found_NCHW.device.type, found_NCHW.shape) == ("cuda", x_NCHW.shape)


@every_kind
def test_operations_come_one_after_the_other(kind: str) -> None:
    ours, _ = KINDS[kind]
    x_NCHW = images(24)
    parameters = ours.draw(24, 16, 16, seeded(3))
    expected_NCHW = x_NCHW
    for k in range(parameters["operation"].shape[1]):
        expected_NCHW = apply_operations(
            expected_NCHW,
            parameters["operation"][:, k].numpy(),
            parameters["magnitude"][:, k].numpy(),
        )
    assert torch.equal(ours.apply(x_NCHW, parameters, 16), expected_NCHW)


@pytest.mark.parametrize("side", [1, 2, 3])
def test_tiny_images_are_no_trouble(side: int) -> None:
    x_NCHW = torch.randint(256, (30, 3, side, side), generator=seeded(0), dtype=torch.uint8)
    for kind in (RandAugment(), TrivialAugment()):
        found_NCHW = kind.apply(x_NCHW, kind.draw(30, side, side, seeded(1)), side)
        assert found_NCHW.shape == x_NCHW.shape


# ------------------------------------------------------------------ what is drawn


class Recorder:
    """Stands in for torchvision's operations: notes which are called, with which magnitude."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, float]] = []

    def __call__(self, image: Tensor, name: str, magnitude: float, **_: Any) -> Tensor:
        self.calls.append((name, magnitude))
        return image


@every_kind
def test_operations_and_magnitudes_are_drawn_as_by_torchvision(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A chi-squared two-sample test over the pairs that occur."""
    ours, their_policy = KINDS[kind]
    count, recorder = 1500, Recorder()
    monkeypatch.setattr("torchvision.transforms.autoaugment._apply_op", recorder)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for _ in range(count):
            their_policy(torch.zeros(3, 16, 16, dtype=torch.uint8))
    drawn = ours.draw(count, 16, 16, seeded(0))
    drawn_pairs = (drawn[key].flatten().tolist() for key in ("operation", "magnitude"))
    pairs = zip(*drawn_pairs, strict=True)
    found = Counter((NAMES[o], round(m, 3) + 0.0) for o, m in pairs)
    expected = Counter((name, round(m, 3) + 0.0) for name, m in recorder.calls)
    if kind.startswith("autoaugment"):  # what is not carried out is not called
        del found["Identity", 0.0]
    keys = sorted({*found, *expected})
    table_2P = np.array([[counts[key] + 0.5 for key in keys] for counts in (found, expected)])
    if "trivial" in kind:  # too many pairs for the test: names and signs
        names = sorted({(name, m > 0) for name, m in keys})
        table_2P = np.array(
            [
                [sum(n for (o, m), n in c.items() if (o, m > 0) == key) for key in names]
                for c in (found, expected)
            ]
        )
    assert chi2_contingency(table_2P).pvalue > 0.005
    magnitude = [[m for (_, m), n in c.items() for _ in range(n)] for c in (found, expected)]
    assert ks_2samp(*magnitude).pvalue > 0.005


@every_kind
def test_parameters_stay_in_their_ranges(kind: str) -> None:
    ours, _ = KINDS[kind]
    drawn = ours.draw(500, 16, 16, seeded(1))
    assert drawn["operation"].shape == drawn["magnitude"].shape
    assert 0 <= drawn["operation"].min() <= drawn["operation"].max() < len(NAMES)


@pytest.mark.parametrize("kind", [RandAugment, TrivialAugment])
def test_the_operations_to_draw_from_may_be_chosen(kind: Any) -> None:
    chosen = ["Invert", "Rotate"]
    drawn = kind(operations=chosen).draw(50, 16, 16, seeded(0))["operation"]
    assert {NAMES[o] for o in drawn.flatten().tolist()} == set(chosen)


@every_kind
def test_a_magnitude_is_by_the_size_of_the_image(kind: str) -> None:
    ours, _ = KINDS[kind]
    small, large = (ours.draw(400, s, s, seeded(0)) for s in (16, 32))
    assert torch.equal(small["operation"], large["operation"])
    moves = torch.isin(
        small["operation"], torch.tensor([NAMES.index(f"Translate{a}") for a in "XY"])
    )
    factor = 1 if "trivial" in kind else 2
    torch.testing.assert_close(small["magnitude"][moves] * factor, large["magnitude"][moves])
    assert torch.equal(small["magnitude"][~moves], large["magnitude"][~moves])


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
        (RandAugment, {"operations": ["Rotate", "Twist"]}, "operations"),
        (RandAugment, {"operations": []}, "operations"),
        (TrivialAugment, {"operations": "Rotate"}, "operations"),
    ],
)
def test_a_setting_out_of_range_is_named(kind: Any, keys: dict[str, Any], name: str) -> None:
    with pytest.raises((ValueError, TypeError), match=rf"^{name} must be .*got "):
        kind(**keys)


def test_an_unknown_operation_is_answered_with_the_list() -> None:
    with pytest.raises(ValueError, match=r"ShearX, .*Equalize, Invert, got 'Twist'"):
        RandAugment(operations=["Twist"])


def test_an_unknown_policy_is_answered_with_the_list() -> None:
    with pytest.raises(ValueError, match="cifar10, imagenet, svhn"):
        AutoAugment("cifar100")
