"""Decoding of single files, and images in memory or streamed by workers.

B, N: images; C: channels; H, W: rows and columns.
"""

from __future__ import annotations

import io
import multiprocessing
import os
import signal
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from tcl_train.data import images as images_module
from tcl_train.data.images import ArrayImages, FileImages, check_file, decode
from tcl_train.errors import RequestError

CPU = torch.device("cpu")
ORIENTATION = 0x0112  # the EXIF tag

steady = settings(max_examples=80)


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def chw(pixels_HWC: np.ndarray) -> np.ndarray:
    return pixels_HWC.transpose(2, 0, 1)


# ------------------------------------------------------------------ the modes of images


def test_an_rgb_image_of_the_right_size_comes_out_bit_for_bit(tmp_path: Path) -> None:
    pixels_HWC = noise(7, 7)
    Image.fromarray(pixels_HWC).save(tmp_path / "a.png")
    decoded_CHW = decode(tmp_path / "a.png", 7)
    assert decoded_CHW.dtype == np.uint8
    assert decoded_CHW.flags.c_contiguous
    np.testing.assert_array_equal(decoded_CHW, chw(pixels_HWC))


def test_a_grey_image_becomes_three_equal_channels(tmp_path: Path) -> None:
    grey_HW = noise(5, 5)[:, :, 0]
    Image.fromarray(grey_HW).save(tmp_path / "a.png")
    np.testing.assert_array_equal(decode(tmp_path / "a.png", 5), np.stack([grey_HW] * 3))


def test_a_black_and_white_image_becomes_0_and_255(tmp_path: Path) -> None:
    bits_HW = noise(5, 5)[:, :, 0] > 127
    Image.fromarray(bits_HW).save(tmp_path / "a.png")
    np.testing.assert_array_equal(
        decode(tmp_path / "a.png", 5), np.stack([bits_HW * np.uint8(255)] * 3)
    )


def test_a_palette_image_takes_the_colours_of_its_palette(tmp_path: Path) -> None:
    palette = noise(1, 256)[0]
    index_HW = noise(6, 6, seed=1)[:, :, 0]
    image = Image.fromarray(index_HW)
    image.putpalette(palette.tobytes())
    assert image.mode == "P"
    image.save(tmp_path / "a.png")
    np.testing.assert_array_equal(decode(tmp_path / "a.png", 6), chw(palette[index_HW]))


def test_a_palette_image_with_transparency_is_read_without_a_warning(tmp_path: Path) -> None:
    palette = noise(1, 256)[0]
    index_HW = noise(6, 6, seed=1)[:, :, 0]
    image = Image.fromarray(index_HW)
    image.putpalette(palette.tobytes())
    image.save(tmp_path / "a.png", transparency=bytes(range(256)))
    np.testing.assert_array_equal(decode(tmp_path / "a.png", 6), chw(palette[index_HW]))


def test_the_alpha_channel_is_left_out(tmp_path: Path) -> None:
    pixels_HWC = noise(6, 6)
    alpha_HW1 = noise(6, 6, seed=1)[:, :, :1]
    Image.fromarray(np.concatenate([pixels_HWC, alpha_HW1], 2)).save(tmp_path / "a.png")
    np.testing.assert_array_equal(decode(tmp_path / "a.png", 6), chw(pixels_HWC))


def test_cmyk_inks_become_the_colours_that_they_leave(tmp_path: Path) -> None:
    none = [0, 0, 0, 0]
    inks = np.array(
        [
            [none, [255, 0, 0, 0], [0, 255, 0, 0]],
            [[0, 0, 255, 0], [0, 0, 0, 255], [255, 255, 255, 255]],
            [none, none, none],
        ],
        np.uint8,
    )
    Image.frombytes("CMYK", (3, 3), inks.tobytes()).save(tmp_path / "a.tif")
    white, black = [255, 255, 255], [0, 0, 0]
    colours = [
        [white, [0, 255, 255], [255, 0, 255]],
        [[255, 255, 0], black, black],
        [white, white, white],
    ]
    np.testing.assert_array_equal(
        decode(tmp_path / "a.tif", 3), chw(np.array(colours, dtype=np.uint8))
    )


def test_a_cmyk_jpeg_is_not_inverted(tmp_path: Path) -> None:
    inks = np.zeros((16, 16, 4), np.uint8)
    inks[:, :, 0] = 255  # cyan
    Image.frombytes("CMYK", (16, 16), inks.tobytes()).save(tmp_path / "a.jpg", quality=95)
    decoded_CHW = decode(tmp_path / "a.jpg", 16).astype(int)
    np.testing.assert_allclose(decoded_CHW.mean((1, 2)), [0, 255, 255], atol=5)


@pytest.mark.parametrize("ending", ["png", "tif", "pgm"])
def test_16_bit_grey_is_scaled_down_rather_than_clipped(tmp_path: Path, ending: str) -> None:
    values_HW = np.array([[0, 255, 256], [4660, 32768, 40000], [65279, 65280, 65535]], np.uint16)
    if ending == "pgm":  # older versions of Pillow read it and do not write it
        (tmp_path / "a.pgm").write_bytes(b"P5 3 3 65535\n" + values_HW.astype(">u2").tobytes())
    else:
        Image.fromarray(values_HW).save(tmp_path / f"a.{ending}")
    expected_HW = (values_HW // 256).astype(np.uint8)
    np.testing.assert_array_equal(decode(tmp_path / f"a.{ending}", 3), np.stack([expected_HW] * 3))


# What a viewer does to the stored rows and columns, by the EXIF standard's table of orientations.
UPRIGHT = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: np.rot90(a, 2),
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: np.rot90(a, 2).transpose(1, 0, 2),
    8: lambda a: np.rot90(a, 1),
}


@pytest.mark.parametrize("orientation", UPRIGHT)
def test_the_exif_orientation_is_applied(tmp_path: Path, orientation: int) -> None:
    pixels_HWC = noise(5, 5)
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    Image.fromarray(pixels_HWC).save(tmp_path / "a.png", exif=exif)
    np.testing.assert_array_equal(
        decode(tmp_path / "a.png", 5), chw(UPRIGHT[orientation](pixels_HWC))
    )


# ------------------------------------------------------------------ sizes


def test_of_a_wide_image_the_middle_square_is_kept(tmp_path: Path) -> None:
    pixels_HWC = noise(6, 18)
    Image.fromarray(pixels_HWC).save(tmp_path / "a.png")
    np.testing.assert_array_equal(decode(tmp_path / "a.png", 6), chw(pixels_HWC[:, 6:12]))


def test_of_a_tall_image_the_middle_square_is_kept(tmp_path: Path) -> None:
    pixels_HWC = noise(18, 6)
    Image.fromarray(pixels_HWC).save(tmp_path / "a.png")
    np.testing.assert_array_equal(decode(tmp_path / "a.png", 6), chw(pixels_HWC[6:12]))


def test_a_large_image_is_scaled_until_it_covers_the_square(tmp_path: Path) -> None:
    image = Image.fromarray(noise(40, 80))
    image.save(tmp_path / "a.png")
    scaled_HWC = np.asarray(image.resize((20, 10), Image.Resampling.BICUBIC))
    np.testing.assert_array_equal(decode(tmp_path / "a.png", 10), chw(scaled_HWC[:, 5:15]))


@steady
@given(
    height=st.integers(1, 40),
    width=st.integers(1, 40),
    size=st.integers(1, 24),
    colour=st.tuples(*[st.integers(0, 255)] * 3),
)
def test_an_image_of_one_colour_keeps_it_at_any_size(
    tmp_path_factory: pytest.TempPathFactory,
    height: int,
    width: int,
    size: int,
    colour: tuple[int, int, int],
) -> None:
    path = tmp_path_factory.getbasetemp() / "plain.png"
    Image.new("RGB", (width, height), colour).save(path)
    decoded_CHW = decode(path, size)
    assert decoded_CHW.shape == (3, size, size)
    assert (decoded_CHW == np.array(colour)[:, None, None]).all()


# ------------------------------------------------------------------ files that are no images


def encoded(kind: str) -> bytes:
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    stream = io.BytesIO()
    keys = {"exif": exif} if kind in ("PNG", "JPEG", "WEBP") else {}
    Image.fromarray(noise(16, 16)).save(stream, kind, **keys)
    return stream.getvalue()


def broken_png() -> bytes:
    """The pixels stop half-way, and rubbish stands where the next chunk should begin."""
    whole = encoded("PNG")
    start = whole.index(b"IDAT") - 4
    (length,) = struct.unpack(">I", whole[start : start + 4])
    half = length // 2
    data = whole[start + 8 : start + 8 + half]
    return (
        whole[:start] + struct.pack(">I", half) + b"IDAT" + data + b"\x00" * 4 + b"\x13\xb6';" * 4
    )


NO_IMAGES = {
    "empty": b"",
    "text": b"a text file that somebody named .png\n",
    "cut short": encoded("PNG")[:-200],
    "header only": encoded("PNG")[:33],
    "rubbish between chunks": broken_png(),
}


@pytest.mark.parametrize("what", NO_IMAGES)
def test_a_file_that_is_no_whole_image_is_named_in_one_line(tmp_path: Path, what: str) -> None:
    path = tmp_path / "bad.png"
    path.write_bytes(NO_IMAGES[what])
    with pytest.raises(RequestError, match="not a whole image") as raised:
        decode(path, 8)
    assert str(path) in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"gone\.png"):
        decode(tmp_path / "gone.png", 8)


def test_an_absurdly_large_image_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.fromarray(noise(10, 10)).save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 40)
    with pytest.raises(RequestError, match=r"a\.png"):
        decode(tmp_path / "a.png", 8)


# Pillow's plug-ins raise all of these for damaged files: a struct.error comes from the EXIF block
# of a WebP, a RuntimeError from an AVIF, a NotImplementedError from a DDS.
@pytest.mark.parametrize(
    "kind", [OSError, SyntaxError, ValueError, struct.error, RuntimeError, NotImplementedError]
)
def test_whatever_pillow_raises_for_a_file_names_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: type[Exception]
) -> None:
    Image.fromarray(noise(8, 8)).save(tmp_path / "a.png")

    def fail(*_: object) -> None:
        raise kind("damaged")

    monkeypatch.setattr("PIL.PngImagePlugin.PngImageFile.load", fail)
    with pytest.raises(RequestError, match=r"a\.png.*damaged"):
        decode(tmp_path / "a.png", 8)


def png_with_broken_pixels() -> bytes:
    """Whole by its checksums; what they cover cannot be unpacked."""
    whole = encoded("PNG")
    start = whole.index(b"IDAT") - 4
    (length,) = struct.unpack(">I", whole[start : start + 4])
    chunk = b"IDAT" + whole[start + 8 : start + 18] + b"\xff" * 20
    return (
        whole[:start]
        + struct.pack(">I", len(chunk) - 4)
        + chunk
        + struct.pack(">I", zlib.crc32(chunk))
        + whole[start + 12 + length :]
    )


KINDS = ("PNG", "JPEG", "GIF", "BMP", "PPM")
ENCODED = {kind: encoded(kind) for kind in KINDS}


@steady
@given(
    kind=st.sampled_from(KINDS),
    end=st.floats(0, 1),
    changes=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), max_size=6),
)
@example(kind="PNG", end=0.5, changes=[])
@example(kind="JPEG", end=0.9, changes=[(0.01, 0)])
def test_a_damaged_file_is_an_image_or_a_request_error(
    tmp_path_factory: pytest.TempPathFactory,
    kind: str,
    end: float,
    changes: list[tuple[float, int]],
) -> None:
    data = bytearray(ENCODED[kind])
    for place, value in changes:
        data[int(place * len(data))] = value
    path = tmp_path_factory.getbasetemp() / f"damaged.{kind.lower()}"
    path.write_bytes(data[: int(end * len(data))])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's, of odd metadata
        try:
            decoded_CHW = decode(path, 8)
        except RequestError as error:
            said = str(error)
        else:
            said = str(path)
            assert decoded_CHW.shape == (3, 8, 8)
    assert str(path) in said


# ------------------------------------------------------------------ looking for damage


@pytest.mark.parametrize("kind", KINDS)
def test_whole_files_pass_and_the_common_ones_are_not_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    path = tmp_path / "whole"
    path.write_bytes(ENCODED[kind])
    check_file(path)
    if kind in ("PNG", "JPEG"):
        monkeypatch.delattr(images_module, "decode")
        check_file(path)


@pytest.mark.parametrize("what", NO_IMAGES)
def test_a_file_that_is_no_whole_image_is_found_without_decoding(tmp_path: Path, what: str) -> None:
    path = tmp_path / "bad.png"
    path.write_bytes(NO_IMAGES[what])
    with pytest.raises(RequestError, match="not a whole image") as raised:
        check_file(path)
    assert str(raised.value).startswith(f"{path}:")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("share", [0.3, 0.7, 0.95])
def test_a_file_that_is_cut_short_is_found(tmp_path: Path, kind: str, share: float) -> None:
    path = tmp_path / "short"
    path.write_bytes(ENCODED[kind][: int(share * len(ENCODED[kind]))])
    with pytest.raises(RequestError, match="not a whole image"):
        check_file(path)


def test_a_jpeg_with_something_after_its_end_passes(tmp_path: Path) -> None:
    """As cameras write it; then it is decoded, to be sure."""
    path = tmp_path / "a.jpg"
    path.write_bytes(ENCODED["JPEG"] + b"\0" * 10_000)
    check_file(path)


def test_pixels_that_cannot_be_unpacked_are_found_only_by_decoding(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(png_with_broken_pixels())
    check_file(path)
    with pytest.raises(RequestError, match=r"a\.png: not a whole image"):
        decode(path, 8)


# ------------------------------------------------------------------ sets of images


@pytest.fixture
def files(tmp_path: Path) -> tuple[list[Path], np.ndarray]:
    """Nine files and their pixels (9, 3, 5, 5)."""
    pixels_NHWC = [noise(5, 5, seed) for seed in range(9)]
    paths = [tmp_path / f"{i}.png" for i in range(9)]
    for path, pixels_HWC in zip(paths, pixels_NHWC, strict=True):
        Image.fromarray(pixels_HWC).save(path)
    return paths, np.stack([chw(pixels_HWC) for pixels_HWC in pixels_NHWC])


INDEX_BATCHES = [torch.tensor([4, 0, 8, 4]), torch.tensor([1, 2, 3]), torch.tensor([7])]


@pytest.mark.parametrize("workers", [0, 2])
def test_streamed_images_come_in_the_order_of_the_indices(
    files: tuple[list[Path], np.ndarray], workers: int
) -> None:
    paths, images_NCHW = files
    images = FileImages(paths, 5, workers)
    assert len(images) == 9
    batches = list(images.batches(INDEX_BATCHES, CPU))
    assert len(batches) == 3
    for index_B, images_BCHW in zip(INDEX_BATCHES, batches, strict=True):
        assert images_BCHW.dtype == torch.uint8
        np.testing.assert_array_equal(images_BCHW, images_NCHW[index_B.numpy()])


@pytest.mark.parametrize("workers", [0, 2])
def test_an_unreadable_file_stops_the_stream_with_its_name_alone(
    files: tuple[list[Path], np.ndarray], workers: int
) -> None:
    paths, _ = files
    paths[2].write_bytes(paths[2].read_bytes()[:60])
    stream = FileImages(paths, 5, workers).batches(INDEX_BATCHES, CPU)
    assert next(stream).shape == (4, 3, 5, 5)  # the first batch does not hold the file
    with pytest.raises(RequestError) as raised:
        next(stream)
    assert str(raised.value).startswith(f"{paths[2]}: not a whole image")
    assert "\n" not in str(raised.value)  # no traceback of a worker


def test_workers_are_no_copies_of_this_process_and_outlive_a_signal_to_all(
    files: tuple[list[Path], np.ndarray],
) -> None:
    """A process with threads must not be forked, and Ctrl-C reaches the workers, too, while the
    trainer still finishes its step."""
    before = set(multiprocessing.active_children())
    stream = FileImages(files[0], 5, 1).batches(INDEX_BATCHES * 4, CPU)
    next(stream)
    (worker,) = set(multiprocessing.active_children()) - before
    assert type(worker).__name__ != "ForkProcess"
    for signum in (signal.SIGINT, signal.SIGTERM):
        os.kill(worker.pid or 0, signum)
    assert len(list(stream)) == 11


def test_streaming_leaves_the_global_random_state_alone(
    files: tuple[list[Path], np.ndarray],
) -> None:
    before = torch.random.get_rng_state()
    list(FileImages(files[0], 5, 0).batches(INDEX_BATCHES, CPU))
    assert torch.equal(torch.random.get_rng_state(), before)


def test_no_batches_need_no_workers(files: tuple[list[Path], np.ndarray]) -> None:
    assert list(FileImages(files[0], 5, 2).batches([], CPU)) == []


def test_images_in_memory_come_in_the_order_of_the_indices() -> None:
    images_NCHW = torch.arange(9 * 2 * 2, dtype=torch.uint8).view(9, 1, 2, 2)
    images = ArrayImages(images_NCHW)
    assert len(images) == 9
    for index_B, images_BCHW in zip(INDEX_BATCHES, images.batches(INDEX_BATCHES, CPU), strict=True):
        assert torch.equal(images_BCHW, images_NCHW[index_B])


@pytest.mark.parametrize(
    "wrong", [torch.zeros(2, 3, 4, 4), torch.zeros(2, 4, 4, dtype=torch.uint8)]
)
def test_an_array_of_another_type_or_shape_is_refused(wrong: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="uint8 of shape"):
        ArrayImages(wrong)
