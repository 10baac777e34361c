"""How figures look: colours that colour-blind readers tell apart, with a marker, a line style and a
hatch each, so that they read in black and white, too."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tcl_train.report.settings import number_of, order_of

# Okabe and Ito's palette (2008) without its yellow, which is too pale for lines.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<")
LINES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (7, 2)), (0, (1, 1)), (0, (3, 3)))
MOST_LINES = 8  # in one figure; more cannot be told apart
WIDE, NARROW = (11.5, 3.7), (5.6, 3.7)  # inches; two narrow ones stand side by side on the page
DPI = 150
GREY = "#6b7280"
LOG_FROM = 20  # largest by smallest value of an axis from which on it is logarithmic

RC: dict[Any, Any] = {
    "font.size": 9.5,
    "font.family": "sans-serif",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#9ca3af",
    "axes.labelcolor": "#374151",
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlecolor": "#1f2937",
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e5e7eb",
    "grid.linewidth": 0.7,
    "xtick.color": GREY,
    "ytick.color": GREY,
    "xtick.labelcolor": "#374151",
    "ytick.labelcolor": "#374151",
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "legend.handlelength": 3.4,  # long enough for the line's style to be seen
    "lines.linewidth": 1.6,
    "lines.markersize": 5,
    "figure.dpi": DPI,
    "savefig.dpi": DPI,
    "pdf.fonttype": 42,
}


@dataclass(frozen=True)
class Drawing:
    """name: of the file, without ending. caption: what it shows and what to mind."""

    name: str
    title: str
    caption: str
    figure: Figure


@contextmanager
def styled() -> Iterator[None]:
    """The block draws and saves in this style."""
    with mpl.rc_context(RC), warnings.catch_warnings():
        # a class named in a script that the font does not have is drawn as boxes
        warnings.filterwarnings("ignore", message="Glyph")
        warnings.filterwarnings("ignore", message=".*constrained_layout not applied")
        yield


def save(drawing: Drawing, path: Path, kind: str) -> None:
    """kind: png or pdf. The same figure gives the same bytes."""
    metadata: dict[str, Any] = {"CreationDate": None} if kind == "pdf" else {}
    drawing.figure.savefig(path, format=kind, metadata=metadata)


def new_figure(
    size: tuple[float, float], rows: int = 1, columns: int = 1
) -> tuple[Figure, list[Axes]]:
    """An empty figure and its axes."""
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    return figure, list(axes.flat)


def look(number: int) -> dict[str, Any]:
    """Colour, marker and line style of the number-th series."""
    return {
        "color": COLOURS[number % len(COLOURS)],
        "marker": MARKERS[number % len(MARKERS)],
        "linestyle": LINES[number % len(LINES)],
    }


def plain(text: str, longest: int = 44) -> str:
    """A text for matplotlib, which takes what stands between dollars for mathematics and hides
    what begins with an underscore."""
    short = text if len(text) <= longest else f"{text[: longest - 1]}…"
    short = short.replace("$", r"\$")
    return f" {short}" if short.startswith("_") else short


def legend_below(figure: Figure, names: Sequence[str]) -> None:
    """The names of the labelled series below the axes, in as few rows as fit."""
    width = figure.get_figwidth() * 72 / (50 + 5 * max(map(len, names)))  # in entries
    columns = max(1, min(int(width), len(names)))
    rows = -(-len(names) // columns)
    figure.legend(loc="outside lower center", ncols=-(-len(names) // rows))


def setting_axis(axes: Axes, key: str, values: Sequence[str]) -> tuple[dict[str, float], bool]:
    """Makes the x axis one of a setting's values. Says where each of them stands, by size where
    they are numbers (logarithmic where they span much) and side by side where they are not; and
    whether they are numbers."""
    ordered = sorted(set(values), key=order_of)
    found = {value: n for value in ordered if (n := number_of(value)) is not None}
    axes.set_xlabel(plain(key))
    if len(found) < len(ordered):
        slanted = sum(map(len, ordered)) > 40
        texts = [plain(value, 18) for value in ordered]
        axes.set_xticks(
            range(len(ordered)), texts, rotation=30 * slanted, ha="right" if slanted else "center"
        )
        axes.set_xlim(-0.5, len(ordered) - 0.5)
        return {value: float(place) for place, value in enumerate(ordered)}, False
    positive = [n for n in found.values() if n > 0]
    if positive and min(found.values()) >= 0 and max(positive) / min(positive) >= LOG_FROM:
        if len(positive) == len(found):
            axes.set_xscale("log")
        else:  # 0 stands left of the smallest
            axes.set_xscale("symlog", linthresh=min(positive), linscale=0.5)
    if len(found) <= 8:
        axes.set_xticks(list(found.values()), [f"{n:g}" for n in found.values()])
        axes.minorticks_off()
    return found, True


def jitter(count: int, width: float) -> np.ndarray:
    """Offsets that lay points side by side."""
    return np.linspace(-width, width, count) if count > 1 else np.zeros(count)
