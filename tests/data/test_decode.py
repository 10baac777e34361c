"""Decoding of single files.

H, W: rows and columns.
"""

from __future__ import annotations

import io
import os
import struct
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps, PngImagePlugin

from tcl_train.data import decode as decode_module
from tcl_train.data.decode import UnreadableImage, check_file, decode, eight_bits, quietly
from tcl_train.errors import RequestError

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


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", UPRIGHT)
def test_every_type_is_turned_once(tmp_path: Path, kind: str, orientation: int) -> None:
    """Pillow turns TIFFs itself."""
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    stored_HWC = np.zeros((24, 48, 3), np.uint8)
    stored_HWC[:12, :24, 0] = stored_HWC[12:, :24, 1] = stored_HWC[:12, 24:, 2] = 255
    keys = {"lossless": True} if kind == "WEBP" else {}
    Image.fromarray(stored_HWC).save(tmp_path / "a", kind, exif=exif, **keys)
    expected_HWC = np.asarray(
        ImageOps.fit(
            Image.fromarray(np.ascontiguousarray(UPRIGHT[orientation](stored_HWC))), (8, 8)
        )
    )
    difference = decode(tmp_path / "a", 8).transpose(1, 2, 0).astype(int) - expected_HWC
    assert np.abs(difference).mean() < 12


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
    with pytest.raises(RequestError, match="replace the file or delete it") as raised:
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
    Image.fromarray(noise(8, 8)).convert("L").save(tmp_path / "a.png")

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


class Damaged(NamedTuple):
    """A file of a kind with some bytes changed, cut off at a share of its length."""

    kind: str
    end: float
    changes: list[tuple[float, int]]

    def write(self, factory: pytest.TempPathFactory, name: str) -> Path:
        data = bytearray(ENCODED[self.kind])
        for place, value in self.changes:
            data[int(place * len(data))] = value
        path = factory.getbasetemp() / f"{name}.{self.kind.lower()}"
        path.write_bytes(data[: int(self.end * len(data))])
        return path


def damaged(kinds: Sequence[str], least: float = 0) -> st.SearchStrategy[Damaged]:
    change = st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255))
    changes = st.lists(change, max_size=6)
    return st.builds(Damaged, st.sampled_from(kinds), st.floats(least, 1), changes)


@steady
@given(file=damaged(KINDS))
@example(file=Damaged("PNG", 0.5, []))
@example(file=Damaged("JPEG", 0.9, [(0.01, 0)]))
def test_a_damaged_file_is_an_image_or_a_request_error(
    tmp_path_factory: pytest.TempPathFactory, file: Damaged
) -> None:
    path = file.write(tmp_path_factory, "damaged")
    with quietly():
        try:
            decoded_CHW = decode(path, 8)
        except RequestError as error:
            said = str(error)
        else:
            said = str(path)
            assert decoded_CHW.shape == (3, 8, 8)
    assert str(path) in said


# ------------------------------------------------------------------ checking agrees with decoding


@pytest.mark.parametrize("kind", KINDS)
def test_whole_files_pass_the_check(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "whole"
    path.write_bytes(ENCODED[kind])
    check_file(path)


@pytest.mark.parametrize("what", NO_IMAGES)
def test_a_file_that_is_no_whole_image_fails_the_check(tmp_path: Path, what: str) -> None:
    path = tmp_path / "bad.png"
    path.write_bytes(NO_IMAGES[what])
    with pytest.raises(UnreadableImage) as raised:
        check_file(path)
    assert str(raised.value).startswith(f"{path}:")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("share", [0.3, 0.7, 0.95])
def test_a_file_that_is_cut_short_is_called_so(tmp_path: Path, kind: str, share: float) -> None:
    path = tmp_path / "short"
    path.write_bytes(ENCODED[kind][: int(share * len(ENCODED[kind]))])
    words = "cut off|not an image" if kind == "GIF" else "cut off"  # within its palette
    with pytest.raises(UnreadableImage, match=words) as checked:
        check_file(path)
    with pytest.raises(UnreadableImage, match=words) as decoded:
        decode(path, 16)
    assert checked.value.reason == decoded.value.reason


def jpeg_cut_after_its_thumbnail() -> bytes:
    """The thumbnail in the EXIF block has an end marker of its own."""
    stream = io.BytesIO()
    Image.fromarray(noise(8, 8)).save(stream, "JPEG")
    app1 = b"Exif\0\0" + stream.getvalue()
    whole = ENCODED["JPEG"]
    segment = b"\xff\xe1" + struct.pack(">H", len(app1) + 2) + app1
    return whole[:2] + segment + whole[2 : len(whole) // 2]


def test_the_end_of_a_thumbnail_is_not_the_end_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(jpeg_cut_after_its_thumbnail())
    for look in (check_file, lambda path: decode(path, 8)):
        with pytest.raises(UnreadableImage):
            look(path)


def test_a_png_without_its_end_is_whole_to_both(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    whole = ENCODED["PNG"]
    path.write_bytes(whole[: whole.index(b"IEND") - 4])
    check_file(path)
    np.testing.assert_array_equal(decode(path, 16), decode_bytes(whole, tmp_path, 16))


def decode_bytes(content: bytes, folder: Path, size: int) -> np.ndarray:
    path = folder / "decoded"
    path.write_bytes(content)
    return decode(path, size)


def test_a_jpeg_with_something_after_its_end_passes(tmp_path: Path) -> None:
    """As cameras write it."""
    path = tmp_path / "a.jpg"
    path.write_bytes(ENCODED["JPEG"] + b"\0" * 10_000)
    check_file(path)


def test_pixels_that_cannot_be_unpacked_fail_the_check(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(png_with_broken_pixels())
    for look in (check_file, lambda path: decode(path, 8)):
        with pytest.raises(UnreadableImage, match=r"a\.png: "):
            look(path)


@steady
@given(file=damaged(KINDS))
def test_the_check_and_decoding_agree_on_any_file(
    tmp_path_factory: pytest.TempPathFactory, file: Damaged
) -> None:
    path = file.write(tmp_path_factory, "agree")

    def passes(look: Callable[[], object]) -> bool:
        try:
            look()
        except UnreadableImage:
            return False
        return True

    with quietly():
        assert passes(lambda: check_file(path)) == passes(lambda: decode(path, 4))


def outcome(path: Path) -> bytes | str:
    """The pixels, or why there are none."""
    try:
        return decode(path, 8).tobytes()
    except UnreadableImage as error:
        return error.reason


@settings(max_examples=300)
@given(file=damaged(["PNG"], least=0.3))
def test_a_small_png_is_read_at_once_as_pillow_opens_it(
    tmp_path_factory: pytest.TempPathFactory, file: Damaged
) -> None:
    path = file.write(tmp_path_factory, "at_once")
    with quietly(), pytest.MonkeyPatch.context() as patch:
        at_once = outcome(path)
        patch.setattr(decode_module, "_small_plain_png", lambda content: None)  # noqa: ARG005
        assert outcome(path) == at_once


@pytest.mark.parametrize(
    ("mode", "more", "is_plain"),
    [
        ("RGB", {}, True),
        ("RGB", {"compress_level": 0}, True),
        ("RGB", {"dpi": (72, 72)}, True),
        ("RGB", {"transparency": (1, 2, 3)}, False),
        ("RGB", {"exif": b"Exif\0\0II*\0\x08\0\0\0\0\0"}, False),
        ("RGBA", {}, False),
        ("L", {}, False),
        ("P", {}, False),
        ("I;16", {}, False),
    ],
)
def test_which_small_pngs_are_read_at_once(mode: str, more: dict[str, Any], is_plain: bool) -> None:
    made = io.BytesIO()
    image = Image.fromarray(noise(9, 7))
    image = Image.new(mode, (7, 9)) if mode == "I;16" else image.convert(mode)
    image.save(made, "PNG", **more)
    found = decode_module._small_plain_png(made.getvalue())
    assert (found is not None) == is_plain
    if found is not None:
        np.testing.assert_array_equal(np.asarray(found), np.asarray(image))


def test_a_large_png_is_opened_by_pillow() -> None:
    made = io.BytesIO()
    Image.new("RGB", (129, 128)).save(made, "PNG")
    assert decode_module._small_plain_png(made.getvalue()) is None


# ------------------------------------------------------------------ metadata that cannot be read


def png_with_chunk(kind: bytes, content: bytes, crc: int | None = None) -> bytes:
    whole = ENCODED["PNG"]
    start = whole.index(b"IDAT") - 4
    chunk = kind + content
    crc = zlib.crc32(chunk) if crc is None else crc
    made = struct.pack(">I", len(content)) + chunk + struct.pack(">I", crc)
    return whole[:start] + made + whole[start:]


def jpeg_with_exif(tag: int, kind: int, value: bytes) -> bytes:
    """An EXIF block with one entry of eight bytes."""
    entry = struct.pack("<HHII", tag, kind, 1, 26) + b"\0" * 4 + value
    app1 = b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<H", 1) + entry
    whole = ENCODED["JPEG"]
    return whole[:2] + b"\xff\xe1" + struct.pack(">H", len(app1) + 2) + app1 + whole[2:]


TOO_MUCH_TEXT = zlib.compress(b"a" * (PngImagePlugin.MAX_TEXT_CHUNK + 1))
BAD_METADATA = {
    "EXIF chunk that is no TIFF": png_with_chunk(b"eXIf", b"rubbish"),
    "EXIF chunk that is empty": png_with_chunk(b"eXIf", b""),
    "text over Pillow's limit": png_with_chunk(b"zTXt", b"Comment\0\0" + TOO_MUCH_TEXT),
    "profile over Pillow's limit": png_with_chunk(b"iCCP", b"profile\0\0" + TOO_MUCH_TEXT),
    "international text over the limit": png_with_chunk(
        b"iTXt", b"Comment\0\x01\0\0\0" + TOO_MUCH_TEXT
    ),
    "profile that cannot be unpacked": png_with_chunk(b"iCCP", b"profile\0\0rubbish"),
    "transparency chunk that is empty": png_with_chunk(b"tRNS", b""),
    "JFIF header that is too short": ENCODED["JPEG"][:4] + b"\0\x04JF" + ENCODED["JPEG"][20:],
    "text with a wrong checksum": png_with_chunk(b"tEXt", b"a\0b", crc=1),
    "EXIF rational of -1/0": jpeg_with_exif(0x011A, 10, struct.pack("<ii", -1, 0)),
}


@pytest.mark.parametrize("what", BAD_METADATA)
def test_metadata_that_cannot_be_read_is_ignored(tmp_path: Path, what: str) -> None:
    content = BAD_METADATA[what]
    plain = ENCODED["PNG" if content.startswith(b"\x89PNG") else "JPEG"]
    with quietly():
        found = decode_bytes(content, tmp_path, 16)
        check_file(tmp_path / "decoded")
        expected = decode_bytes(plain, tmp_path, 16)
    assert sorted(found.flatten()) == sorted(expected.flatten())  # upright or not


# ------------------------------------------------------------------ true words


def test_an_image_over_the_limit_is_called_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Image.fromarray(noise(10, 10)).save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 40)
    with pytest.raises(UnreadableImage, match="more than the 80 pixels that Pillow decodes"):
        decode(tmp_path / "a.png", 8)


def test_a_link_to_nothing_is_called_so(tmp_path: Path) -> None:
    (tmp_path / "a.png").symlink_to(tmp_path / "gone.png")
    with pytest.raises(UnreadableImage, match=r"a link to .*gone\.png, which does not exist"):
        decode(tmp_path / "a.png", 8)


def test_a_file_that_may_not_be_read_is_called_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path, mode: str) -> NoReturn:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(decode_module, "open", refuse, raising=False)  # root may read everything
    with pytest.raises(UnreadableImage, match="Permission denied"):
        decode(tmp_path / "a.png", 8)


# ------------------------------------------------------------------ more than 8 bits


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (np.array([[0, 100, 255]], np.uint16), [0, 100, 255]),
        (np.array([[0, 512, 1023]], np.uint16), [0, 128, 255]),
        (np.array([[0, 2048, 4095]], np.uint16), [0, 128, 255]),
        (np.array([[0, 32768, 65535]], np.uint16), [0, 128, 255]),
        (np.array([[0, 0.5, 1]], np.float32), [0, 128, 255]),
        (np.array([[0.2, 0.4]], np.float32), [51, 102]),
        (np.array([[300, 2300, 4300]], np.float32), [0, 128, 255]),
        (np.array([[-1, 0, 1]], np.float32), [0, 128, 255]),
        (np.array([[0, 2**30, 2**31 - 1]], np.int32), [0, 128, 255]),
        (np.array([[-5, 5]], np.int32), [0, 255]),
        (np.array([[7, 7]], np.float32), [0, 0]),
    ],
    ids=lambda x: str(np.ravel(x).tolist()),
)
def test_more_than_8_bits_keep_their_contrast(values: np.ndarray, expected: list[int]) -> None:
    found = eight_bits(values)
    assert found.dtype == np.uint8
    np.testing.assert_allclose(found[0].astype(int), expected, atol=1)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_values_that_are_no_numbers_are_refused(tmp_path: Path, bad: float) -> None:
    Image.fromarray(np.array([[0.5, bad]], np.float32)).save(tmp_path / "a.tif")
    with pytest.raises(UnreadableImage, match="not finite"):
        decode(tmp_path / "a.tif", 2)


@pytest.mark.parametrize(("bits", "sample_format"), [(32, 1), (8, 2)], ids=["uint32", "int8"])
def test_numbers_that_pillow_takes_for_others_are_read_as_they_are(
    tmp_path: Path, bits: int, sample_format: int
) -> None:
    kind = {32: "<u4", 8: "<i1"}[bits]
    info = np.iinfo(kind)
    values = np.linspace(info.min, info.max, 16).astype(kind)
    tags = [(256, 4), (257, 4), (258, bits), (259, 1), (262, 1), (273, 0), (277, 1), (278, 4)]
    tags += [(279, values.nbytes), (339, sample_format)]
    place = 8 + 2 + 12 * len(tags) + 4
    entries = [struct.pack("<HHII", t, 4, 1, place if t == 273 else v) for t, v in tags]
    header = b"II*\0\x08\0\0\0" + struct.pack("<H", len(tags))
    (tmp_path / "a.tif").write_bytes(header + b"".join(entries) + b"\0" * 4 + values.tobytes())
    found = decode(tmp_path / "a.tif", 4)[0].flatten().astype(int)
    np.testing.assert_allclose(found, np.linspace(0, 255, 16), atol=1.5)


def test_a_float_image_is_not_black(tmp_path: Path) -> None:
    ramp = np.linspace(0, 1, 64, dtype=np.float32).reshape(8, 8)
    Image.fromarray(ramp).save(tmp_path / "a.tif")
    decoded = decode(tmp_path / "a.tif", 8)
    np.testing.assert_allclose(decoded[0] / 255, ramp, atol=1 / 255)


# ------------------------------------------------------------------ large JPEGs


def test_a_reduced_jpeg_looks_as_the_whole_one(tmp_path: Path) -> None:
    """Decoding at a reduced size saves time; a smooth picture comes out the same."""
    y, x = np.mgrid[0:512, 0:512] / 512
    picture = np.stack([255 * x, 255 * y, 127 * (1 + np.sin(9 * x * y))], 2).astype(np.uint8)
    Image.fromarray(picture).save(tmp_path / "a.jpg", quality=95)
    Image.fromarray(picture).save(tmp_path / "a.png")
    difference = decode(tmp_path / "a.jpg", 64).astype(int) - decode(tmp_path / "a.png", 64)
    assert np.abs(difference).max() <= 6
    assert np.abs(difference).mean() < 1


def test_what_c_libraries_print_of_a_damaged_file_is_not_seen(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "0.tif"
    noise_HWC = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    Image.fromarray(noise_HWC).save(path, compression="tiff_lzw")
    content = bytearray(path.read_bytes())
    content[200:260] = b"\xff" * 60
    path.write_bytes(content)
    with pytest.raises(UnreadableImage):
        check_file(path)
    assert "tempfile.tif" in capfd.readouterr().err  # libtiff's own words
    with quietly(), pytest.raises(UnreadableImage):
        check_file(path)
    assert capfd.readouterr().err == ""
    os.write(2, b"seen again")
    assert capfd.readouterr().err == "seen again"


def test_an_image_of_one_pixel_may_be_written_to(tmp_path: Path) -> None:
    """torch warns of arrays that may not be; those of Pillow are such, and one pixel needs no other
    order of axes, that is no copy."""
    Image.new("RGB", (1, 1)).save(tmp_path / "one.png")
    assert decode(tmp_path / "one.png", 1).flags.writeable
