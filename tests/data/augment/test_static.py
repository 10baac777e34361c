"""The form that accelerators use: the same images as by groups, few kernels, one copy.

V: views; B: images; C: channels; H, W: rows and columns; N = V x B; S: side of the output.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from torch import Tensor
from torch._subclasses import FakeTensorMode

from tcl_train.cli.choices import choices, config_dir
from tcl_train.data.augment import (
    Augment,
    ColorJitter,
    HorizontalFlip,
    PadCrop,
    RandomErasing,
    RandomResizedCrop,
    pipeline,
)
from tcl_train.data.augment.block import Block, columns_of, numbers_of, on_device
from tcl_train.data.augment.policies import (
    NAMES,
    RANDOM_SIGN,
    RandAugment,
    apply_operations,
    magnitudes,
)
from tcl_train.data.augment.transform import Transform
from tcl_train.data.normalize import Normalize
from tcl_train.data.views import ViewGroup, ViewPlan

PRESETS = choices("augment")
every_preset = pytest.mark.parametrize("preset", PRESETS)
every_number_of_channels = pytest.mark.parametrize("channels", [1, 3])


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def images(b: int, c: int, height: int, width: int | None = None) -> Tensor:
    shape = (b, c, height, width or height)
    return torch.randint(256, shape, generator=seeded(0), dtype=torch.uint8)


def transforms_of(preset: str) -> dict[str, Transform]:
    config = OmegaConf.load(config_dir() / "augment" / f"{preset}.yaml")
    return {name: instantiate(node) for name, node in config.items()}


def build(preset: str, c: int, size: int, second: str | None = None) -> Augment:
    normalize = Normalize(size=size, mean=(0.45, 0.5, 0.4)[:c], std=(0.2, 0.25, 0.3)[:c])
    return Augment(transforms_of(preset), normalize, second and transforms_of(second))


def both(
    monkeypatch: pytest.MonkeyPatch, make: Callable[[], Tensor | list[Tensor]]
) -> tuple[Any, Any]:
    """By groups, and in the static form, on the CPU."""
    grouped = make()
    with monkeypatch.context() as patch:
        patch.setattr(pipeline, "GROUPED_ON", ())
        return grouped, make()


# ------------------------------------------------------------------ the same images, bit for bit


@pytest.mark.parametrize(
    ("b", "height", "width", "size"),
    [(64, 12, 12, 12), (7, 20, 20, 16), (7, 14, 18, 14), (1, 32, 32, 32)],
)
@every_number_of_channels
@every_preset
def test_a_preset_gives_the_same_in_both_forms(
    preset: str,
    channels: int,
    b: int,
    height: int,
    width: int,
    size: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    augment, x_BCHW = build(preset, channels, size), images(b, channels, height, width)
    grouped, static = both(monkeypatch, lambda: augment(x_BCHW, views=3, generator=seeded(2)))
    assert static.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(static, grouped)


@pytest.mark.parametrize("views", [1, 2, 3, 4])
@pytest.mark.parametrize("presets", [("simaug", "autoaugment"), ("byol", "crop"), ("none", "byol")])
def test_views_of_two_kinds_give_the_same_in_both_forms(
    presets: tuple[str, str], views: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    augment, x_BCHW = build(presets[0], 3, 16, second=presets[1]), images(5, 3, 16)
    grouped, static = both(monkeypatch, lambda: augment(x_BCHW, views=views, generator=seeded(2)))
    assert torch.equal(static, grouped)


def test_views_that_are_cut_already_give_the_same_in_both_forms(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for augment in (build("byol", 3, 16), build("simaug", 3, 16, second="byol")):
        rest, x_NCHW = augment.without_crops(), images(3 * 5, 3, 16)
        grouped, static = both(
            monkeypatch, lambda rest=rest, x=x_NCHW: rest(x, views=3, generator=seeded(2))
        )
        assert torch.equal(static, grouped)


@every_number_of_channels
def test_a_jitter_in_any_order_is_the_same_in_both_forms(channels: int) -> None:
    orders = torch.tensor(list(itertools.permutations(range(4)))).repeat(2, 1)
    x_NCHW = images(48, channels, 9, 7) / 255
    jitter = ColorJitter(0.8, 0.8, 0.8, 0.4, p=0.8)
    parameters = {**jitter.draw(48, 9, 7, seeded(1)), "order": orders}
    static_NCHW = jitter.apply_static(x_NCHW, jitter.columns(parameters, 9, 7, 9), 9)
    assert torch.equal(static_NCHW, jitter.apply(x_NCHW, parameters, 9))


@pytest.mark.parametrize("wide", [False, True])
@every_number_of_channels
@pytest.mark.parametrize("name", NAMES)
def test_an_operation_of_a_policy_is_the_same_in_both_forms(
    name: str, channels: int, wide: bool
) -> None:
    coarse_NCHW = torch.rand(9, channels, 3, 3, generator=seeded(7)) * 200 + 20
    x_NCHW = torch.nn.functional.interpolate(coarse_NCHW, (16, 24), mode="bilinear")
    x_NCHW = x_NCHW.to(torch.uint8)
    x_NCHW[0] = images(1, channels, 16, 24)
    x_NCHW[1] = 77  # no contrast
    x_NCHW[2] = (x_NCHW[2] > 120).to(torch.uint8) * 255  # two levels
    x_NCHW[3] //= 16  # dark
    signs = (1, -1) if name in RANDOM_SIGN else (1,)
    policy, operation_N = RandAugment(), np.full(9, NAMES.index(name))
    for magnitude in magnitudes(name, 31, 16, 24, wide=wide)[::5].unique().tolist():
        for sign in signs:
            magnitude_N = np.full(9, sign * magnitude)
            drawn = {"operation": operation_N[:, None], "magnitude": magnitude_N[:, None]}
            parameters = {key: torch.from_numpy(value) for key, value in drawn.items()}
            columns = policy.columns(parameters, 16, 24, 16)
            static_NCHW = policy.apply_static(x_NCHW, columns, 16)
            assert torch.equal(static_NCHW, apply_operations(x_NCHW, operation_N, magnitude_N))


@pytest.mark.parametrize("side", [1, 2, 3])
def test_tiny_images_are_the_same_in_both_forms(side: int) -> None:
    policy, x_NCHW = RandAugment(), images(60, 3, side)
    parameters = policy.draw(60, side, side, seeded(1))
    static_NCHW = policy.apply_static(x_NCHW, policy.columns(parameters, side, side, side), side)
    assert torch.equal(static_NCHW, policy.apply(x_NCHW, parameters, side))


def test_only_a_flip_right_after_a_crop_is_part_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    x_BCHW = images(9, 3, 12)
    erase, flip, crop = RandomErasing(p=1.0), HorizontalFlip(p=1.0), RandomResizedCrop()
    rows: list[list[Transform]] = [
        [crop, flip, flip],
        [crop, erase, flip],
        [flip, crop],
        [PadCrop(2), flip, crop, flip],
    ]
    for row in rows:
        transforms = {str(i): transform for i, transform in enumerate(row)}
        augment = Augment(transforms, Normalize(size=12, mean=[0.5], std=[0.5]))
        drawn = augment.draw(9, 12, 12, views=1, generator=seeded(0))
        expected_NCHW = x_BCHW
        for transform, values in zip(row, drawn[0], strict=True):
            expected_NCHW = transform.apply(expected_NCHW, values, 12)
        expected_NCHW = augment.normalize(expected_NCHW)
        make = partial(augment.apply, x_BCHW, drawn, views=1)
        for found_NCHW in both(monkeypatch, make):
            assert torch.equal(found_NCHW, expected_NCHW)


# ------------------------------------------------------------------ the block of numbers


def test_a_block_holds_parameters_of_any_type() -> None:
    drawn = [
        {
            "chosen": torch.tensor([True, False, True, False]),
            "place": torch.tensor([9, 8, 2**24, 0]),
        },
        {},
        {"table": torch.rand(4, 2, 3), "end": torch.tensor([torch.inf, 0.0, 1.0, -torch.inf])},
    ]
    block = Block(numbers_of(drawn, 4).unflatten(0, (2, 2)), columns_of(drawn))
    assert block.numbers_VBK.dtype == torch.float32
    for rows, of_rows in ((slice(0, 2), [0, 1, 2, 3]), (slice(1, 2), [1, 3])):
        found = block.of(rows).parameters()
        assert [list(values) for values in found] == [list(values) for values in drawn]
        for values, given in zip(found, drawn, strict=True):
            for name, value in values.items():
                assert value.dtype == given[name].dtype
                assert torch.equal(value, given[name][of_rows])


def test_blocks_travel_together() -> None:
    drawn = [{"a": torch.rand(4)}, {"a": torch.rand(6)}]
    blocks = [
        Block(numbers_of([values], len(values["a"])).unflatten(0, (2, -1)), columns_of([values]))
        for values in drawn
    ]
    copies = on_device(blocks, torch.device("cpu"))
    assert len({copy.numbers_VBK.untyped_storage().data_ptr() for copy in copies}) == 1
    for values, copy in zip(drawn, copies, strict=True):
        assert torch.equal(copy.parameters()[0]["a"], values["a"])


def plan(preset: str, seed: int = 3) -> ViewPlan:
    """Two views, and three smaller ones of another preset."""
    small = ViewGroup(augment=build("simaug", 3, 16), count=3, size=lambda _: 8, name="small")
    return ViewPlan([ViewGroup(augment=build(preset, 3, 16), count=2), small], seed=seed)


def drawn_by(views: ViewPlan, x_BCHW: Tensor, places_B: Tensor, step: int = 5) -> Any:
    return views.draw([x_BCHW], places_B, batch_size=8, epoch=0, step=step)


@pytest.mark.parametrize("preset", ["byol", "autoaugment", "stacked_randaugment"])
def test_groups_of_views_chunks_and_shares_are_the_same_in_both_forms(
    preset: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    x_BCHW, views, all_B = images(8, 3, 16), plan(preset), torch.arange(8)

    def whole() -> list[Tensor]:
        return drawn_by(views, x_BCHW, all_B).of(slice(0, 8))

    def in_chunks() -> list[Tensor]:
        drawn = drawn_by(views, x_BCHW, all_B)
        return put_together([drawn.of(rows) for rows in (slice(0, 3), slice(3, 8))])

    def in_shares() -> list[Tensor]:
        shares = all_B.split([3, 5])
        drawn = [drawn_by(views, x_BCHW[share], share) for share in shares]
        return put_together([d.of(slice(0, len(s))) for d, s in zip(drawn, shares, strict=True)])

    def put_together(parts: list[list[Tensor]]) -> list[Tensor]:
        return [
            torch.cat([part.unflatten(0, (group.count, -1)) for part in of_group], 1).flatten(0, 1)
            for group, of_group in zip(views.groups, zip(*parts, strict=True), strict=True)
        ]

    expected = whole()
    with monkeypatch.context() as patch:
        patch.setattr(pipeline, "GROUPED_ON", ())
        for found in (whole(), whole(), in_chunks(), in_shares()):
            for found_NCSS, expected_NCSS in zip(found, expected, strict=True):
                assert torch.equal(found_NCSS, expected_NCSS)
        other = drawn_by(views, x_BCHW, all_B, step=6).of(slice(0, 8))
        assert not torch.equal(other[0], expected[0])
        other = drawn_by(plan(preset, seed=4), x_BCHW, all_B).of(slice(0, 8))
        assert not torch.equal(other[0], expected[0])


# ------------------------------------------------------------------ what a step asks of a GPU

MOST_LAUNCHES = {
    "simaug": 150,
    "autoaugment": 150,
    "randaugment": 150,
    "trivialaugment": 90,
    "byol": 250,
    "self_supervised": 250,
    "stacked_randaugment": 320,
    "crop_flip": 20,
    "crop": 30,
    "none": 6,
}


@pytest.mark.parametrize(
    ("preset", "channels", "b"),
    [(preset, 3, 64) for preset in PRESETS]
    + [(preset, 1, 256) for preset in ("simaug", "autoaugment")],
)
def test_a_preset_starts_few_kernels(
    preset: str,
    channels: int,
    b: int,
    count_launches: Any,
) -> None:
    """The first step also makes the constants of the normalisation."""
    augment = build(preset, channels, 32)
    drawn = augment.draw(b, 32, 32, views=2, generator=seeded(0))
    with FakeTensorMode(allow_non_fake_inputs=True):
        x_BCHW = torch.empty(b, channels, 32, 32, dtype=torch.uint8, device="cuda")
        with count_launches() as first:
            augment.apply(x_BCHW, drawn, views=2)
        with count_launches() as found:
            views_NCSS = augment.apply(x_BCHW, drawn, views=2)
    assert views_NCSS.device.type == "cuda"
    assert first.copies == [True, True]
    assert found.copies == [True]
    assert found.launches.total() <= MOST_LAUNCHES[preset], found.launches


def test_groups_of_views_in_chunks_need_one_copy(
    count_launches: Any,
) -> None:
    views = plan("simaug")
    places_B = torch.arange(8)
    with FakeTensorMode(allow_non_fake_inputs=True):
        x_BCHW = torch.empty(8, 3, 16, 16, dtype=torch.uint8, device="cuda")
        for group in views.groups:
            group.augment.normalize.constants(x_BCHW.device)
        with count_launches() as found:
            drawn = drawn_by(views, x_BCHW, places_B)
            for _ in range(2):
                for chunk in (slice(0, 4), slice(4, 8)):
                    drawn.of(chunk)
    assert found.copies == [True]


def test_the_counter_notices_copies_that_wait(count_launches: Any) -> None:
    with FakeTensorMode(), count_launches() as found:
        x = torch.ones(3).to("cuda")
        x.copy_(torch.ones(3))
        x.copy_(torch.ones(3), True)
        (x + 1).view(3, 1).mul_(2)
    assert found.copies == [False, False, True]
    assert found.launches == {"add": 1, "mul_": 1}
