"""Views that are cut out of whole files where they are read.

V: views; B: images; S: side of a view; K: numbers that decide a box.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from torchvision.transforms import functional

from tcl_train.data import decode as decode_module
from tcl_train.data.augment import Augment, HorizontalFlip, PadCrop, RandomResizedCrop
from tcl_train.data.dataset import Split
from tcl_train.data.decode import Box, UnreadableImage, cut
from tcl_train.data.images import ArrayImages, FileImages
from tcl_train.data.loader import Loader, cut_where_read
from tcl_train.data.normalize import Normalize
from tcl_train.data.views import ViewGroup, ViewPlan
from tcl_train.runtime.randomness import generator

CPU = torch.device("cpu")
SIDE = 8
ORIENTATION = 0x0112


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Smooth, so that decoding at a reduced size is nearly the same."""
    y, x = np.mgrid[0:height, 0:width]
    waves = [np.sin((y * a + x * b + seed) / 17) for a, b in ((1, 2), (2, -1), (1, 1))]
    return (127 * (1 + np.stack(waves, 2))).astype(np.uint8)


@pytest.fixture
def wide_files(tmp_path: Path) -> list[Path]:
    paths = [tmp_path / f"{i}.png" for i in range(12)]
    for i, path in enumerate(paths):
        Image.fromarray(picture(20, 60, 10 * i)).save(path)
    return paths


def augment(second: bool = False) -> Augment:
    def transforms() -> dict[str, object]:
        return {"crop": RandomResizedCrop(scale=(0.05, 0.2)), "flip": HorizontalFlip(p=0.5)}

    normalize = Normalize(size=SIDE, mean=[0.5] * 3, std=[0.25] * 3)
    return Augment(transforms(), normalize, transforms() if second else None)  # type: ignore[arg-type]


# ------------------------------------------------------------------ one file


@pytest.mark.parametrize("box", [(0, 0, 20, 20), (5, 3, 31, 17), (40, 0, 20, 20), (0, 0, 60, 20)])
def test_a_box_is_what_torchvision_crops_and_resizes(
    wide_files: list[Path], box: tuple[int, int, int, int]
) -> None:
    left, top, width, height = box
    image = Image.open(wide_files[0])
    expected = functional.resized_crop(image, top, left, height, width, [SIDE, SIDE])
    (found,) = cut(wide_files[0], [SIDE], lambda *_: [Box(left, top, width, height)])
    np.testing.assert_array_equal(found.transpose(1, 2, 0), np.asarray(expected))


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_boxes_are_of_the_upright_image(tmp_path: Path, orientation: int) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    Image.fromarray(picture(400, 1200)).save(tmp_path / "a.jpg", exif=exif, quality=95)
    seen = []

    def boxes_of(height: int, width: int) -> list[Box]:
        seen.append((height, width))
        return [Box(0, 0, width, height), Box(width / 2, height / 4, width / 3, height / 3)]

    views = cut(tmp_path / "a.jpg", [SIDE] * 2, boxes_of)
    lying = orientation in (6, 8)
    assert seen == [(1200, 400) if lying else (400, 1200)]
    upright = ImageOps.exif_transpose(Image.open(tmp_path / "a.jpg"))
    for view, box in zip(views, boxes_of(*seen[0]), strict=True):
        corners = (box.left, box.top, box.left + box.width, box.top + box.height)
        expected = upright.resize((SIDE, SIDE), Image.Resampling.BILINEAR, box=corners)
        difference = view.transpose(1, 2, 0).astype(int) - np.asarray(expected)
        assert np.abs(difference).mean() < 4


@pytest.mark.parametrize(("side", "decoded"), [(1600, 400), (800, 800), (400, 1600), (150, 1600)])
def test_a_large_jpeg_is_decoded_at_a_reduced_size_where_the_boxes_allow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, side: int, decoded: int
) -> None:
    """At least twice the size of the views, in steps of a half."""
    Image.fromarray(picture(1600, 1600)).save(tmp_path / "a.jpg")
    widths = []
    convert = decode_module.rgb

    def note(image: Image.Image) -> Image.Image:
        widths.append(image.width)
        return convert(image)

    monkeypatch.setattr(decode_module, "rgb", note)
    whole = Box(0, 0, 1600, 1600)
    cut(tmp_path / "a.jpg", [200, 200], lambda *_: [whole, Box(10, 10, side, side)])
    assert widths == [decoded]


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"no image")
    with pytest.raises(UnreadableImage, match=r"a\.png"):
        cut(tmp_path / "a.png", [SIDE], lambda h, w: [Box(0, 0, w, h)])


# ------------------------------------------------------------------ batches


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("second", [False, True])
def test_a_batch_holds_the_boxes_that_the_step_drew(
    wide_files: list[Path], workers: int, second: bool
) -> None:
    split = Split(FileImages(wide_files, SIDE, workers), torch.arange(12))
    made, (rest,) = cut_where_read([ViewGroup(augment=augment(second), count=2)], split)
    assert made is not None
    assert rest.augment.cut
    loader = Loader(split, batch_size=4, supervised=True, seed=3, device=CPU, cut=made)
    batches = list(loader.epoch(1))
    assert len(batches) == 3
    for i, ((images_NCSS,), labels_B) in enumerate(batches):
        assert images_NCSS.shape == (8, 3, SIDE, SIDE)
        assert images_NCSS.dtype == torch.uint8
        numbers_VBK = made.numbers(4, 3, "crop", 3 + i)
        for v in range(2):
            for b, label in enumerate(labels_B.tolist()):
                box = made.groups[0][0][v].boxes(numbers_VBK[v, b][None], 20, 60)
                place = Box(*(float(box[k]) for k in ("left", "top", "width", "height")))
                (expected,) = cut(wide_files[label], [SIDE], lambda *_, place=place: [place])
                np.testing.assert_array_equal(images_NCSS[v * 4 + b], expected)


def test_a_resumed_epoch_has_the_same_views(wide_files: list[Path]) -> None:
    split = Split(FileImages(wide_files, SIDE, 0), torch.arange(12))
    made, _ = cut_where_read([ViewGroup(augment=augment(), count=2)], split)
    loader = Loader(split, batch_size=4, supervised=True, seed=3, device=CPU, cut=made)
    whole, part = list(loader.epoch(2)), list(loader.epoch(2, 1))
    for one, other in zip(whole[1:], part, strict=True):
        assert torch.equal(one.images[0], other.images[0])


def test_crops_see_the_sides_of_a_wide_image(tmp_path: Path) -> None:
    """Of a centre square they would not."""
    pixels = np.zeros((20, 100, 3), np.uint8)
    pixels[:, :30] = 255
    Image.fromarray(pixels).save(tmp_path / "a.png")
    split = Split(FileImages([tmp_path / "a.png"] * 200, SIDE, 0), None)
    made, _ = cut_where_read([ViewGroup(augment=augment(), count=1)], split)
    loader = Loader(split, batch_size=200, supervised=False, seed=1, device=CPU, cut=made)
    (batch,) = loader.epoch(0)
    white_share = (batch.images[0].float().mean((1, 2, 3)) > 127).float().mean().item()
    assert white_share == pytest.approx(0.3, abs=0.1)


def test_views_have_the_side_of_their_epoch(wide_files: list[Path]) -> None:
    split = Split(FileImages(wide_files, SIDE, 0), torch.arange(12))
    group = ViewGroup(augment=augment(), count=1, size={0: 6, 1: None}.__getitem__)
    made, (rest,) = cut_where_read([group], split)
    loader = Loader(split, batch_size=12, supervised=True, seed=1, device=CPU, cut=made)
    for epoch, side in ((0, 6), (1, SIDE)):
        (batch,) = loader.epoch(epoch)
        assert batch.images[0].shape[2:] == (side, side)
        views = rest.augment.with_size(side)(batch.images[0], views=1, generator=generator(1, "x"))
        assert views.shape == (12, 3, side, side)


# ------------------------------------------------------------------ what is left to do


@pytest.mark.parametrize("views", [1, 2, 3])
@pytest.mark.parametrize("second", [False, True])
def test_what_is_left_is_done_to_each_view(views: int, second: bool) -> None:
    rest = augment(second).without_crops()
    g = torch.Generator().manual_seed(0)
    images_NCSS = torch.randint(256, (views * 5, 3, SIDE, SIDE), dtype=torch.uint8, generator=g)
    found_NCSS = rest(images_NCSS, views=views, generator=generator(1, "x"))
    assert found_NCSS.shape == images_NCSS.shape
    plain_NCSS = rest.normalize(images_NCSS)
    for found, plain in zip(found_NCSS, plain_NCSS, strict=True):
        assert torch.equal(found, plain) or torch.equal(found, plain.flip(2))


def test_images_in_memory_and_other_beginnings_have_no_cut(wide_files: list[Path]) -> None:
    files = Split(FileImages(wide_files, SIDE, 0), None)
    memory = Split(ArrayImages(torch.zeros(4, 3, SIDE, SIDE, dtype=torch.uint8)), None)
    whole = ViewGroup(augment=augment(), count=2)
    assert cut_where_read([whole], memory) == (None, [whole])
    normalize = whole.augment.normalize
    padded = replace(whole, augment=Augment({"crop": PadCrop(padding=1)}, normalize))
    mixed = replace(whole, augment=Augment(whole.augment.transforms, normalize, {}))
    for groups in ([padded], [mixed], [whole, padded]):
        assert cut_where_read(groups, files) == (None, groups)
    made, _ = cut_where_read([replace(mixed, count=1)], files)
    assert made is not None  # of one view the second preset says nothing


def test_groups_of_views_are_cut_in_their_own_sizes(wide_files: list[Path]) -> None:
    split = Split(FileImages(wide_files, SIDE, 0), torch.arange(12))
    large, small = (
        ViewGroup(augment=augment(), count=2),
        ViewGroup(augment=augment(), count=3, size=lambda _: 4, name="small"),
    )
    made, groups = cut_where_read([large, small], split)
    loader = Loader(split, batch_size=4, supervised=True, seed=3, device=CPU, cut=made)
    alone = Loader(
        split,
        batch_size=4,
        supervised=True,
        seed=3,
        device=CPU,
        cut=cut_where_read([large], split)[0],
    )
    batch, other = next(loader.epoch(0)), next(alone.epoch(0))
    assert [images.shape for images in batch.images] == [(8, 3, SIDE, SIDE), (12, 3, 4, 4)]
    assert torch.equal(batch.images[0], other.images[0])
    drawn = ViewPlan(groups, seed=1).draw(
        batch.images, torch.arange(4), batch_size=4, epoch=0, step=0
    )
    whole = drawn.of(slice(0, 4))
    assert [views.shape for views in whole] == [(8, 3, SIDE, SIDE), (12, 3, 4, 4)]
    for views, of_half in zip(whole, drawn.of(slice(2, 4)), strict=True):
        expected = views.unflatten(0, (-1, 4))[:, 2:].flatten(0, 1)
        torch.testing.assert_close(of_half, expected)
