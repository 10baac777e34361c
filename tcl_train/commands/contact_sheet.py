"""A picture of an image and of those that are nearest to it, with their similarities and names."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil
from pathlib import Path
from typing import NamedTuple

from PIL import Image, ImageDraw, ImageFont

from tcl_train.data.decode import UnreadableImage, decode, quietly
from tcl_train.errors import printable

SIDE = 160  # of a thumbnail, in pixels
CAPTION = 34  # below it: two lines
MARGIN = 10
COLUMNS = 6
WHITE, BLACK, GREY = (255, 255, 255), (0, 0, 0), (225, 225, 225)
LONGEST_NAME = 25  # characters of the smaller letters, about the width of a thumbnail


class Tile(NamedTuple):
    """An image file with what stands below it."""

    path: str | Path
    title: str


def contact_sheet(query: Tile, found: Sequence[Tile]) -> Image.Image:
    """The query in a frame, then the others, row by row. A file that cannot be read
    (any more) is a grey square."""
    columns = min(COLUMNS, max(1, len(found)))
    rows = ceil(len(found) / columns)
    step = SIDE + MARGIN
    tall = SIDE + CAPTION + MARGIN
    sheet = Image.new("RGB", (columns * step + MARGIN, (rows + 1) * tall + 2 * MARGIN), WHITE)
    draw = ImageDraw.Draw(sheet)
    with quietly():
        _place(sheet, draw, query, MARGIN, MARGIN)
        draw.rectangle(
            (MARGIN - 4, MARGIN - 4, MARGIN + SIDE + 3, MARGIN + SIDE + 3), outline=BLACK
        )
        line = tall + MARGIN // 2
        draw.line((MARGIN, line, sheet.width - MARGIN, line), fill=BLACK)
        for i, tile in enumerate(found):
            row, column = divmod(i, columns)
            _place(sheet, draw, tile, MARGIN + column * step, (row + 1) * tall + 2 * MARGIN)
    return sheet


def _place(sheet: Image.Image, draw: ImageDraw.ImageDraw, tile: Tile, left: int, top: int) -> None:
    try:
        thumbnail = Image.fromarray(decode(tile.path, SIDE).transpose(1, 2, 0))
        sheet.paste(thumbnail, (left, top))
    except UnreadableImage as error:
        draw.rectangle((left, top, left + SIDE - 1, top + SIDE - 1), fill=GREY)
        draw.text((left + 4, top + 4), error.reason[:LONGEST_NAME], fill=BLACK)
    name = printable(Path(tile.path).name)
    if len(name) > LONGEST_NAME:
        name = f"…{name[1 - LONGEST_NAME :]}"
    draw.text((left, top + SIDE + 2), tile.title, fill=BLACK, font=ImageFont.load_default(13))
    draw.text((left, top + SIDE + 18), name, fill=BLACK, font=ImageFont.load_default(11))
