"""Transforms in a row, views, and every preset in configs/augment.

V: views; B: images; C: channels; H, W: rows and columns; N = V x B; S: side of the output.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from hydra.utils import instantiate
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf
from torch import Tensor
from torch._subclasses import FakeTensorMode
from torch._subclasses.fake_tensor import DataDependentOutputException

from tcl_train.cli.choices import choices, config_dir
from tcl_train.data.augment import (
    Augment,
    AutoAugment,
    ColorJitter,
    GaussianBlur,
    HorizontalFlip,
    PadCrop,
    RandAugment,
    RandomErasing,
    RandomGrayscale,
    RandomResizedCrop,
    Solarize,
    TrivialAugment,
    pipeline,
)
from tcl_train.data.augment.transform import Parameters, Transform
from tcl_train.data.normalize import Normalize

PRESETS = choices("augment")
every_preset = pytest.mark.parametrize("preset", PRESETS)
few = settings(max_examples=40)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def images(b: int, c: int, side: int, seed: int = 0) -> Tensor:
    return torch.randint(256, (b, c, side, side), generator=seeded(seed), dtype=torch.uint8)


def normalize(c: int, size: int) -> Normalize:
    return Normalize(size=size, mean=(0.45, 0.5, 0.4)[:c], std=(0.2, 0.25, 0.3)[:c])


@cache
def transforms_of(preset: str) -> dict[str, Transform]:
    config = OmegaConf.load(config_dir() / "augment" / f"{preset}.yaml")
    return {name: instantiate(node) for name, node in config.items()}


def build(preset: str, c: int, size: int) -> Augment:
    return Augment(transforms_of(preset), normalize(c, size))


# ------------------------------------------------------------------ every preset


@every_preset
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("side", "size"), [(8, 8), (28, 28), (40, 32)])
def test_every_preset_gives_finite_views_for_encoders(
    preset: str, channels: int, side: int, size: int
) -> None:
    x_BCHW = images(5, channels, side)
    before_BCHW = x_BCHW.clone()
    found_NCSS = build(preset, channels, size)(x_BCHW, views=3, generator=seeded(1))
    assert found_NCSS.shape == (15, 3, size, size)
    assert found_NCSS.dtype == torch.float32
    assert found_NCSS.is_contiguous(memory_format=torch.channels_last)
    assert found_NCSS.isfinite().all()
    # Within what black and white become, but for rounding.
    assert found_NCSS.min() >= -0.5 / 0.2 - 1e-4
    assert found_NCSS.max() <= 0.6 / 0.2 + 1e-4
    assert found_NCSS.std() > 0.1
    if channels == 1:
        assert torch.equal(found_NCSS, found_NCSS[:, :1].expand_as(found_NCSS))
    assert torch.equal(x_BCHW, before_BCHW)  # the data set is not written to


@every_preset
@pytest.mark.parametrize("channels", [1, 3])
def test_a_preset_depends_on_its_generator_alone(preset: str, channels: int) -> None:
    augment, x_BCHW = build(preset, channels, 16), images(6, channels, 16)
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    first_NCSS = augment(x_BCHW, views=2, generator=seeded(4))
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.manual_seed(2)
    assert torch.equal(augment(x_BCHW, views=2, generator=seeded(4)), first_NCSS)
    if preset != "none":
        assert not torch.equal(augment(x_BCHW, views=2, generator=seeded(5)), first_NCSS)


@pytest.mark.parametrize("preset", [preset for preset in PRESETS if preset != "none"])
def test_equal_images_differ_within_a_batch_and_between_views(preset: str) -> None:
    x_BCHW = images(1, 3, 32).expand(16, -1, -1, -1)
    found_VBCSS = build(preset, 3, 32)(x_BCHW, views=2, generator=seeded(0)).unflatten(0, (2, 16))
    for view_BCSS in found_VBCSS:
        assert len({image_CSS.numpy().tobytes() for image_CSS in view_BCSS}) > 12
    same_B = (found_VBCSS[0] == found_VBCSS[1]).flatten(1).all(1)
    assert same_B.sum() <= 2


def test_the_preset_none_gives_the_images_as_they_are() -> None:
    x_BCHW = images(4, 3, 10)
    found_NCSS = build("none", 3, 10)(x_BCHW, views=2, generator=seeded(0))
    assert torch.equal(found_NCSS, normalize(3, 10)(x_BCHW).repeat(2, 1, 1, 1))


# ------------------------------------------------------------------ every transform

TRANSFORMS: dict[str, Transform] = {
    "resized crop": RandomResizedCrop(),
    "pad crop": PadCrop(),
    "flip": HorizontalFlip(),
    "jitter": ColorJitter(),
    "grey": RandomGrayscale(0.5),
    "autoaugment": AutoAugment(),
    "randaugment": RandAugment(),
    "trivialaugment": TrivialAugment(),
    "blur": GaussianBlur(),
    "solarize": Solarize(p=0.5),
    "erasing": RandomErasing(),
}
every_transform = pytest.mark.parametrize("name", TRANSFORMS)


@every_transform
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_a_transform_leaves_its_input_alone(name: str, channels: int, dtype: torch.dtype) -> None:
    transform, x_NCHW = TRANSFORMS[name], images(8, channels, 12)
    if dtype == torch.float32:
        x_NCHW = x_NCHW / 255
    before_NCHW = x_NCHW.clone()
    found_NCSS = transform.apply(x_NCHW, transform.draw(8, 12, 12, seeded(0)), 12)
    assert found_NCSS.shape == x_NCHW.shape
    assert torch.equal(x_NCHW, before_NCHW)


@every_transform
def test_parameters_have_a_row_for_each_image_and_come_from_the_generator(name: str) -> None:
    transform = TRANSFORMS[name]
    torch.manual_seed(1)
    first = transform.draw(64, 12, 12, seeded(3))
    torch.manual_seed(2)
    again, other = transform.draw(64, 12, 12, seeded(3)), transform.draw(64, 12, 12, seeded(4))
    assert first.keys() == again.keys()
    for key, value in first.items():
        assert len(value) == 64
        assert value.device.type == "cpu"
        assert torch.equal(value, again[key])
    assert any(not torch.equal(value, other[key]) for key, value in first.items())


@every_transform
def test_processes_may_share_a_batch_out(name: str) -> None:
    """Parameters are drawn for the whole batch; each process applies its rows."""
    transform, x_NCHW = TRANSFORMS[name], images(9, 3, 12)
    parameters = transform.draw(9, 12, 12, seeded(0))
    whole_NCSS = transform.apply(x_NCHW, parameters, 12)
    for rows in (slice(0, 4), slice(4, 5), slice(5, 9)):
        part = {key: value[rows] for key, value in parameters.items()}
        found_MCSS = transform.apply(x_NCHW[rows], part, 12)
        torch.testing.assert_close(found_MCSS, whole_NCSS[rows], rtol=0, atol=1e-6)


# ------------------------------------------------------------------ the pipeline itself


class Note(Transform):
    """Notes what it is asked, and adds a number to each image."""

    def __init__(self, asked: list[Any], number: int, cut: int = 0) -> None:
        self.asked, self.number, self.cut = asked, number, cut

    def output_size(self, height: int, width: int, size: int) -> tuple[int, int]:
        return height - self.cut, width

    def draw(self, count: int, height: int, width: int, g: torch.Generator) -> Parameters:
        assert isinstance(g, torch.Generator)
        self.asked.append((self.number, count, height, width))
        return {"add": torch.arange(count) * self.number}

    def apply(self, x_NCHW: Tensor, parameters: Parameters, size: int) -> Tensor:
        self.asked.append(size)
        added_NCHW = x_NCHW + parameters["add"].view(-1, 1, 1, 1).to(x_NCHW.dtype)
        return added_NCHW[:, :, : added_NCHW.shape[2] - self.cut]


def test_transforms_run_in_the_order_of_their_names_on_what_the_last_one_left() -> None:
    asked: list[Any] = []
    transforms = {"z": Note(asked, 1, cut=3), "a": Note(asked, 2)}
    augment = Augment(transforms, Normalize(size=4, mean=[0.0], std=[1 / 255]))
    x_BCHW = torch.tensor([10, 20], dtype=torch.uint8).view(2, 1, 1, 1).expand(2, 1, 9, 7)
    found_NCSS = augment(x_BCHW, views=2, generator=seeded(0))
    assert asked == [(1, 4, 9, 7), (2, 4, 6, 7), 4, 4]
    # The first B rows are the first view of each image, the next B the second.
    torch.testing.assert_close(found_NCSS[:, 0, 0, 0], torch.tensor([10.0, 23.0, 16.0, 29.0]))


@pytest.mark.parametrize("most", [1, 2 * 3 * 144, 5 * 3 * 144, 10**9])
@every_preset
def test_parts_of_a_batch_are_what_the_whole_is(
    preset: str, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    augment, x_BCHW = build(preset, 3, 12), images(7, 3, 12)
    whole_NCSS = augment(x_BCHW, views=3, generator=seeded(0))
    monkeypatch.setattr(pipeline, "VALUES_A_THREAD", most / torch.get_num_threads())
    found_NCSS = augment(x_BCHW, views=3, generator=seeded(0))
    torch.testing.assert_close(found_NCSS, whole_NCSS, rtol=0, atol=1e-5)


@few
@given(
    b=st.integers(1, 5),
    c=st.sampled_from([1, 3]),
    views=st.integers(1, 4),
    side=st.integers(2, 12),
    data=st.data(),
)
def test_views_are_normalised_centre_crops_view_by_view(
    b: int, c: int, views: int, side: int, data: st.DataObject
) -> None:
    size = data.draw(st.integers(1, side))
    mean = data.draw(st.lists(st.floats(0, 1), min_size=c, max_size=c))
    std = data.draw(st.lists(st.floats(0.05, 1), min_size=c, max_size=c))
    x_BCHW = images(b, c, side)
    augment = Augment({}, Normalize(size=size, mean=mean, std=std))
    found_NCSS = augment(x_BCHW, views=views, generator=seeded(0))
    start = (side - size) // 2
    cut = x_BCHW.numpy()[:, :, start : start + size, start : start + size] / 255
    shape = (c, 1, 1)
    expected_BCSS = (cut - np.reshape(mean, shape)) / np.reshape(std, shape)
    expected_NCSS = np.tile(np.broadcast_to(expected_BCSS, (b, 3, size, size)), (views, 1, 1, 1))
    np.testing.assert_allclose(found_NCSS, expected_NCSS, rtol=1e-4, atol=1e-4)


# ------------------------------------------------------------------ views that differ in kind


def test_a_list_of_probabilities_holds_one_a_view() -> None:
    """As byol has them; a third view takes the first one again."""
    x_BCHW = images(20, 3, 8)
    augment = Augment({"flip": HorizontalFlip(p=[1.0, 0.0])}, normalize(3, 8))
    found_NCSS = augment(x_BCHW, views=3, generator=seeded(0))
    same_BCSS = normalize(3, 8)(x_BCHW)
    expected = [same_BCSS.flip(3), same_BCSS, same_BCSS.flip(3)]
    assert torch.equal(found_NCSS, torch.cat(expected))
    assert torch.equal(augment(x_BCHW, views=1, generator=seeded(0)), same_BCSS.flip(3))


def test_every_second_view_may_have_transforms_of_its_own() -> None:
    x_BCHW = images(5, 3, 8)
    first, second = {"flip": HorizontalFlip(p=1.0)}, {"crop": PadCrop(2)}
    augment = Augment(first, normalize(3, 8), second)
    found_NCSS = augment(x_BCHW, views=4, generator=seeded(0))
    flipped_BCSS = normalize(3, 8)(x_BCHW.flip(3))
    for view, view_BCSS in enumerate(found_NCSS.chunk(4)):
        assert torch.equal(view_BCSS, flipped_BCSS) == (view % 2 == 0)
    assert not torch.equal(found_NCSS[5:10], found_NCSS[15:])


def test_byols_views_are_blurred_and_solarized_unequally() -> None:
    kinds = build("byol", 3, 32)._kinds(2)
    (first, _), (second, _) = kinds
    assert [transform.p for transform in first][-2:] == [1.0, 0.0]
    assert [transform.p for transform in second][-2:] == [0.1, 0.2]
    assert kinds[0][1] == range(0, 2, 2)


def test_processes_may_draw_for_all_and_apply_their_share() -> None:
    """Of each view, its images."""
    augment, x_BCHW = build("simaug", 3, 12), images(6, 3, 12)
    whole_NCSS = augment(x_BCHW, views=2, generator=seeded(0))
    drawn = augment.draw(6, 12, 12, views=2, generator=seeded(0))
    share = torch.tensor([2, 3, 4, 8, 9, 10])
    mine = [[{k: v[share] for k, v in values.items()} for values in kind] for kind in drawn]
    found_NCSS = augment.apply(x_BCHW[2:5], mine, views=2)
    torch.testing.assert_close(found_NCSS, whole_NCSS[share], rtol=0, atol=1e-5)


# ------------------------------------------------------------------ never waiting for the device


@pytest.fixture
def on_a_fake_gpu(
    no_waiting_copies: Callable[[], AbstractContextManager[Any]],
) -> Callable[[Augment, int], Tensor]:
    """Fake tensors have shapes and no values: whatever asks for one of a device's fails. Copies
    that wait for the device fail, too."""

    def apply(augment: Augment, channels: int) -> Tensor:
        drawn = augment.draw(6, 40, 40, views=2, generator=seeded(0))
        with FakeTensorMode(allow_non_fake_inputs=True), no_waiting_copies():
            x_BCHW = torch.empty(6, channels, 40, 40, dtype=torch.uint8, device="cuda")
            return augment.apply(x_BCHW, drawn, views=2)

    return apply


@pytest.mark.parametrize("channels", [1, 3])
@every_preset
def test_applying_a_preset_asks_nothing_of_the_device(
    preset: str, channels: int, on_a_fake_gpu: Callable[[Augment, int], Tensor]
) -> None:
    found_NCSS = on_a_fake_gpu(build(preset, channels, 32), channels)
    assert found_NCSS.shape == (12, 3, 32, 32)
    assert found_NCSS.device.type == "cuda"


@every_transform
def test_applying_a_transform_asks_nothing_of_the_device(
    name: str, no_waiting_copies: Callable[[], AbstractContextManager[Any]]
) -> None:
    transform = TRANSFORMS[name]
    parameters = transform.draw(16, 40, 40, seeded(0))
    with FakeTensorMode(allow_non_fake_inputs=True), no_waiting_copies():
        x_NCHW = torch.empty(16, 3, 40, 40, dtype=torch.uint8, device="cuda")
        assert transform.apply(x_NCHW, parameters, 32).device.type == "cuda"


class Asking(Note):
    def apply(self, x_NCHW: Tensor, parameters: Parameters, size: int) -> Tensor:
        return x_NCHW[: int(x_NCHW.max())]


class Copying(Note):
    def apply(self, x_NCHW: Tensor, parameters: Parameters, size: int) -> Tensor:
        return x_NCHW + torch.arange(len(x_NCHW)).to(x_NCHW.device).view(-1, 1, 1, 1)


@pytest.mark.parametrize("kind", [Asking, Copying])
def test_a_transform_that_waits_is_noticed(
    kind: type[Note], on_a_fake_gpu: Callable[[Augment, int], Tensor]
) -> None:
    augment = Augment({"waiting": kind([], 1)}, normalize(3, 32))
    with pytest.raises((DataDependentOutputException, AssertionError), match=r"scalar|to cuda"):
        on_a_fake_gpu(augment, 3)


# ------------------------------------------------------------------ what cannot be carried out


@every_preset
@pytest.mark.parametrize(("side", "size"), [(8, 9), (8, 16), (8, 32), (28, 32)])
def test_images_smaller_than_encoders_see_are_scaled_or_refused(
    preset: str, side: int, size: int
) -> None:
    """As for `dataset=mnist dataset.image_size=32`: resized crops scale them, and padding may make
    room for a crop."""
    augment, x_BCHW = build(preset, 1, size), images(2, 1, side)
    crop = augment.transforms.get("crop")
    padding = crop.padding if isinstance(crop, PadCrop) else 0
    if isinstance(crop, RandomResizedCrop) or side + 2 * padding >= size:
        found_NCSS = augment(x_BCHW, views=2, generator=seeded(0))
        assert found_NCSS.shape == (4, 3, size, size)
        return
    message = f"images of {side} x {side} pixels have no crop of {size}"
    if padding:
        message = (
            f"augment.crop: images of {side} x {side} pixels, padded by {padding}, "
            f"have no crop of {size}"
        )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        augment(x_BCHW, views=2, generator=seeded(0))


def test_a_size_that_only_the_second_view_cannot_have_names_it() -> None:
    augment = Augment({"crop": RandomResizedCrop()}, normalize(3, 32), {"crop": PadCrop(2)})
    with pytest.raises(ValueError, match=r"^second_view\.crop: images of 16 x 16 pixels, padded"):
        augment(images(2, 3, 16), views=2, generator=seeded(0))


def test_views_may_be_made_of_another_size() -> None:
    """The same crops, at another resolution."""
    augment, x_BCHW = build("crop", 3, 16), images(4, 3, 16)
    smaller = augment.with_size(8)
    found_NCSS = smaller(x_BCHW, views=2, generator=seeded(0))
    assert torch.equal(found_NCSS, build("crop", 3, 8)(x_BCHW, views=2, generator=seeded(0)))
    assert augment(x_BCHW, views=2, generator=seeded(0)).shape == (8, 3, 16, 16)
    assert augment.with_size(None) is augment
    second = Augment({}, normalize(3, 16), {"flip": HorizontalFlip(1.0)}).with_size(8)
    same_BCSS, flipped_BCSS = second(x_BCHW, views=2, generator=seeded(0)).chunk(2)
    assert torch.equal(flipped_BCSS, same_BCSS.flip(3))
