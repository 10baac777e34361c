"""One image file as pixels.

The pixels decide whether a file is whole: metadata (EXIF, colour profiles, comments) that cannot be
read is ignored. Whether a file is checked before training or decoded during it, this module does
it, so that both agree.

H, W: rows and columns; values of more than 8 bits are brought to 8 as `eight_bits` says.
"""

from __future__ import annotations

import hashlib
import io
import math
import os
import struct
import warnings
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from tcl_train.errors import RequestError, printable

STANDARD_ERROR = 2
ORIENTATION = 0x0112  # the EXIF tag
SAMPLE_FORMAT, UNSIGNED, SIGNED, BITS = 339, 1, 2, 258  # tags of TIFF and their values
TRANSPOSE = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
LYING = (5, 6, 7, 8)  # orientations in which width and height change places
DRAFT_MARGIN = 2  # a JPEG is decoded at a reduced size of at least so many times the wanted one


class UnreadableImage(RequestError):
    """A file that cannot be decoded; the message names it and the reason.

    Attributes: path, reason; passing: whether it may be readable at another time.
    """

    def __init__(self, path: str | Path, reason: str, *, passing: bool = False) -> None:
        self.path = str(path)
        self.reason = reason
        self.passing = passing
        super().__init__(
            f"{printable(path)}: {reason}; replace the file or delete it, or leave such files out "
            "by data.on_damaged=skip"
        )


def decode(path: str | Path, size: int) -> np.ndarray:
    """One file as a (3, size, size) uint8 array: turned upright by its EXIF tag, scaled until it
    covers the square, and cut to its centre.

    Raises:
        UnreadableImage: the file is missing, damaged, or not an image.
    """
    image, _ = _read(path, lambda width, height: size / min(width, height))
    if image.size != (size, size):
        image = ImageOps.fit(image, (size, size), Image.Resampling.BICUBIC)
    return np.array(np.asarray(image).transpose(2, 0, 1), order="C")  # Pillow's may not be written


def check_file(path: str | Path) -> str:
    """Decodes a file, at a reduced size where its type allows; gives a digest of its content.

    Raises:
        UnreadableImage: the file is missing, damaged, or not an image.
    """
    content = read_content(path)
    _decoded(path, content, lambda width, height: 1 / min(width, height))
    return hashlib.blake2b(content, digest_size=16).hexdigest()


class Box(NamedTuple):
    """Of an upright image, in pixels."""

    left: float
    top: float
    width: float
    height: float


def cut(
    path: str | Path, sizes: Sequence[int], boxes_of: Callable[[int, int], Sequence[Box]]
) -> list[np.ndarray]:
    """Boxes of one file, each resized to a square of its size: (3, size, size), uint8. As
    torchvision's pipeline does it on Pillow images: bilinear, antialiased where a box shrinks.

    boxes_of: gives a box for each size from the height and the width of the upright image.

    Raises:
        UnreadableImage: the file is missing, damaged, or not an image.
    """
    boxes: list[Box] = []

    def share(width: int, height: int) -> float:
        boxes[:] = boxes_of(height, width)
        return max(
            size / min(box.width, box.height) for size, box in zip(sizes, boxes, strict=True)
        )

    image, (width, height) = _read(path, share)
    across, along = image.width / width, image.height / height
    return [
        _resized(
            image,
            size,
            (left * across, top * along, (left + wide) * across, (top + high) * along),
        )
        for size, (left, top, wide, high) in zip(sizes, boxes, strict=True)
    ]


def _resized(
    image: Image.Image, size: int, corners: tuple[float, float, float, float]
) -> np.ndarray:
    """A box of the image as a square, which nothing outside of the box's pixels has a part in."""
    left, top, right, bottom = corners
    outer = (math.floor(left), math.floor(top), math.ceil(right), math.ceil(bottom))
    inner = (left - outer[0], top - outer[1], right - outer[0], bottom - outer[1])
    view = image.crop(outer).resize((size, size), Image.Resampling.BILINEAR, box=inner)
    return np.asarray(view).transpose(2, 0, 1)


# The share of the size at which a file must be decoded, from the width and height of the image.
Share = Callable[[int, int], float]


def _read(path: str | Path, share: Share) -> tuple[Image.Image, tuple[int, int]]:
    """The image of a file, 8-bit RGB, upright, and its (width, height) as stored. A JPEG may come
    out smaller, at DRAFT_MARGIN times the share or more.

    Raises:
        UnreadableImage: the file is missing, damaged, or not an image.
    """
    return _decoded(path, read_content(path), share)


def read_content(path: str | Path) -> bytes:
    """Raises UnreadableImage."""
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        raise UnreadableImage(path, _unreadable(path, error), passing=True) from error


def _decoded(path: str | Path, content: bytes, share: Share) -> tuple[Image.Image, tuple[int, int]]:
    try:
        return _load(content, share)
    except MemoryError as error:
        raise UnreadableImage(path, "no memory to decode it", passing=True) from error
    except Exception as error:  # Pillow's readers raise many kinds for a damaged file
        bare = None
        if not isinstance(error, Image.DecompressionBombError):
            bare = without_metadata(content)
        if bare is not None:
            try:
                return _load(bare, share)
            except Exception:
                pass
        raise UnreadableImage(path, _reason(error)) from error


def _load(content: bytes, share: Share) -> tuple[Image.Image, tuple[int, int]]:
    plain = _small_plain_png(content)
    if plain is not None:
        share(*plain.size)  # which asks for the size, and may remember it
        return plain, plain.size
    with Image.open(io.BytesIO(content)) as image:
        width, height = image.size
        turned = image.format == "TIFF"  # by Pillow itself, which says its upright size
        orientation = 1 if turned else orientation_of(image)
        upright = (height, width) if orientation in LYING else (width, height)
        factor = DRAFT_MARGIN * share(*upright)
        if factor < 1:
            image.draft("RGB", (math.ceil(width * factor), math.ceil(height * factor)))
        image.load()
        return _upright(rgb(image), orientation), upright


@contextmanager
def quietly() -> Iterator[None]:
    """Without Pillow's warnings of metadata and of images that are merely large, and without what
    the C libraries below it print of damaged files. Filters of warnings and standard error belong
    to the process: use it around threads, not in them."""
    with warnings.catch_warnings(), _without_standard_error():
        warnings.filterwarnings("ignore", module="PIL")
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        yield


@contextmanager
def _without_standard_error() -> Iterator[None]:
    """Also of C code."""
    try:
        kept = os.dup(STANDARD_ERROR)
    except OSError:  # it is closed
        yield
        return
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, STANDARD_ERROR)
    try:
        yield
    finally:
        os.dup2(kept, STANDARD_ERROR)
        os.close(kept)
        os.close(nowhere)


def orientation_of(image: Image.Image) -> int:
    """The EXIF tag's value; 1, upright, where it cannot be read."""
    try:
        return image.getexif().get(ORIENTATION, 1)
    except Exception:
        return 1


def _upright(image: Image.Image, orientation: int) -> Image.Image:
    method = TRANSPOSE.get(orientation)
    return image if method is None else image.transpose(method)


def rgb(image: Image.Image) -> Image.Image:
    """8-bit RGB; an alpha channel is left out, grey becomes three equal channels."""
    kind = _number_type(image)
    if kind is not None:
        image = Image.fromarray(eight_bits(np.asarray(image).view(kind)))
    elif image.mode.startswith("I") or image.mode == "F":
        image = Image.fromarray(eight_bits(np.asarray(image)))
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")  # as Pillow asks for, in a warning
    return image if image.mode == "RGB" else image.convert("RGB")


def _number_type(image: Image.Image) -> type | None:
    """Of a TIFF whose numbers Pillow takes for others of as many bits; None: it is right."""
    tags = getattr(image, "tag_v2", {})
    sample_format = tags.get(SAMPLE_FORMAT, (1,))[0]
    if image.mode == "L" and sample_format == SIGNED:
        return np.int8
    if image.mode == "I" and tags.get(BITS, (0,))[0] == 32 and sample_format == UNSIGNED:
        return np.uint32
    return None


def eight_bits(values_HW: np.ndarray) -> np.ndarray:
    """uint8 from grey values of more than 8 bits.

    Integers from 0 to 65535 are shifted down from 8, 10, 12, 14 or 16 bits, the fewest that hold
    the largest value. Floats from 0 to 1 are multiplied by 255. All others (negative values, larger
    integers, other floats) are stretched from their own smallest to their own largest value.

    Raises:
        ValueError: a value is not finite.
    """
    if not np.isfinite(values_HW).all():
        raise ValueError("it has values that are not finite numbers")
    whole = values_HW.dtype.kind in "iu"
    values_HW = values_HW.astype(np.float64)
    low, high = values_HW.min(), values_HW.max()
    if whole and low >= 0 and high < 2**16:
        bits = next(bits for bits in (8, 10, 12, 14, 16) if high < 2**bits)
        return (values_HW.astype(np.int64) >> (bits - 8)).astype(np.uint8)
    if whole or low < 0 or high > 1:
        values_HW = (values_HW - low) / max(high - low, np.finfo(np.float64).tiny)
    return np.round(values_HW * 255).astype(np.uint8)


# ------------------------------------------------------------------ what is wrong with a file


def _unreadable(path: str | Path, error: OSError) -> str:
    if Path(path).is_symlink() and not Path(path).exists():
        return f"a link to {Path(path).readlink()}, which does not exist"
    return f"cannot be read ({error.strerror})"


CUT_OFF = ("truncat", "unexpected end", "broken data stream", "not enough", "unpack requires")


def _reason(error: Exception) -> str:
    said = str(error).splitlines()[0] if str(error) else type(error).__name__
    if isinstance(error, Image.DecompressionBombError):
        limit = 2 * (Image.MAX_IMAGE_PIXELS or 0)
        return f"more than the {limit:,} pixels that Pillow decodes; store it smaller"
    if isinstance(error, UnidentifiedImageError):
        return "not an image that Pillow can read"
    if any(words in said.lower() for words in CUT_OFF):
        return f"cut off: the end of the image is missing ({said})"
    return f"not a whole image ({said})"


# ------------------------------------------------------------------ files without their metadata

PNG_START = b"\x89PNG\r\n\x1a\n"
PNG_PIXEL_CHUNKS = (b"IHDR", b"PLTE", b"IDAT", b"IEND")
JPEG_START = b"\xff\xd8"
SCAN = 0xDA
JPEG_METADATA = {*range(0xE0, 0xEE), 0xEF, 0xFE}  # APP0 to APP15 but Adobe's (colours), comments


def without_metadata(content: bytes) -> bytes | None:
    """A PNG or JPEG file with nothing but what its pixels need; None for other files."""
    if content.startswith(PNG_START):
        chunks = (chunk for name, chunk in _png_chunks(content) if name in PNG_PIXEL_CHUNKS)
        return PNG_START + b"".join(chunks)
    if content.startswith(JPEG_START):
        return JPEG_START + b"".join(_jpeg_pixel_segments(content))
    return None


def _png_chunks(content: bytes) -> Iterator[tuple[bytes, bytes]]:
    """The name of each, and all of it: length, name, data, checksum."""
    place = len(PNG_START)
    while place + 8 <= len(content):
        length, name = struct.unpack_from(">I4s", content, place)
        end = place + 12 + length
        yield name, content[place:end]
        place = end


def _jpeg_pixel_segments(content: bytes) -> Iterator[bytes]:
    place = len(JPEG_START)
    while place + 4 <= len(content) and content[place] == 0xFF:
        marker, length = struct.unpack(">xBH", content[place : place + 4])
        if marker == SCAN:
            break
        if marker not in JPEG_METADATA:
            yield content[place : place + 2 + length]
        place += 2 + length
    yield content[place:]


# ------------------------------------------------------------------ small files, decoded at once

PLAIN_START = PNG_START + b"\0\0\0\rIHDR"
HEADER_END = len(PLAIN_START) + 13 + 4
CHECKED_FROM = len(PLAIN_START) - 4  # by the checksum of the header
PLAIN_KIND = [8, 2, 0, 0, 0]  # bits, RGB, the usual compression and filters, not interlaced
PLAIN_CHUNKS = (b"IHDR", b"IDAT", b"IEND", b"gAMA", b"sRGB", b"cHRM", b"pHYs", b"tIME", b"sBIT")
SMALL = 128 * 128  # pixels


def _small_plain_png(content: bytes) -> Image.Image | None:
    """The pixels of a small PNG of 8-bit RGB without metadata, decoded by Pillow's decoder; None
    for all else, and for what is wrong with it to be found out. Opening such a file as an image
    takes longer than to decode it."""
    if content[: len(PLAIN_START)] != PLAIN_START or len(content) < HEADER_END:
        return None
    width, height, *kind, checksum = struct.unpack_from(">IIBBBBBI", content, len(PLAIN_START))
    largest = min(SMALL, Image.MAX_IMAGE_PIXELS or SMALL)
    if kind != PLAIN_KIND or not 0 < width * height <= largest:
        return None
    if zlib.crc32(content[CHECKED_FROM : HEADER_END - 4]) != checksum:
        return None
    chunks = [*_png_chunks(content)]
    if any(name not in PLAIN_CHUNKS for name, _ in chunks):
        return None
    pixels = b"".join(chunk[8:-4] for name, chunk in chunks if name == b"IDAT")
    try:
        return Image.frombytes("RGB", (width, height), pixels, "zip", "RGB")
    except (ValueError, OSError):
        return None
