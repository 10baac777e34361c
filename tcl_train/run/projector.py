"""Features in TensorBoard's projector, with a picture and a class at each point.

n: images; D: features; S: side of the pictures.
"""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tcl_train.runtime.files import write_atomically, write_text

FOLDER = "projector"  # below the run's folder of TensorBoard
CONFIG = "projector_config.pbtxt"  # where TensorBoard looks for it
MOST_DIMENSIONS = 128


class Embeddings(NamedTuple):
    """rows: (n, D) by name. columns: by title, a text or number for each image, the first one
    colours the points. thumbnails_nSS3: uint8."""

    rows: Mapping[str, NDArray[Any]]
    columns: Mapping[str, Sequence[Any]]
    thumbnails_nSS3: NDArray[np.uint8]


def write_projector(folder: Path, embeddings: Embeddings) -> None:
    """Writes the files that TensorBoard's projector reads, in place of those of an earlier
    evaluation. Rows of more than MOST_DIMENSIONS are written in the directions that hold most of
    them, so that the browser need not load megabytes."""
    (folder / FOLDER).mkdir(parents=True, exist_ok=True)
    side = embeddings.thumbnails_nSS3.shape[1]
    sprite = sprite_of(embeddings.thumbnails_nSS3)
    write_atomically(folder / FOLDER / "sprite.png", lambda path: sprite.save(path, "PNG"))
    write_text(folder / FOLDER / "labels.tsv", _tsv(embeddings.columns))
    config = ""
    for name, x_nD in embeddings.rows.items():
        write_text(folder / FOLDER / f"{name}.tsv", _numbers(leading_directions(x_nD)))
        config += (
            f'embeddings {{ tensor_name: "{name}" tensor_path: "{FOLDER}/{name}.tsv" '
            f'metadata_path: "{FOLDER}/labels.tsv" sprite {{ image_path: "{FOLDER}/sprite.png" '
            f"single_image_dim: {side} single_image_dim: {side} }} }}\n"
        )
    write_text(folder / CONFIG, config)


def sprite_of(thumbnails_nSS3: NDArray[np.uint8]) -> Image.Image:
    """All pictures in one, row by row in a square grid, as TensorBoard reads it."""
    n, side = thumbnails_nSS3.shape[:2]
    per_row = math.ceil(math.sqrt(n))
    grid = np.full((per_row, per_row, side, side, 3), 255, np.uint8)
    grid.reshape(-1, side, side, 3)[:n] = thumbnails_nSS3
    return Image.fromarray(grid.swapaxes(1, 2).reshape(per_row * side, per_row * side, 3))


def leading_directions(x_nD: NDArray[Any]) -> NDArray[np.float32]:
    """The rows in at most MOST_DIMENSIONS directions: their leading singular vectors, not centred,
    so that lengths and angles stay nearly what they are."""
    x_nD = x_nD.astype(np.float32)
    if x_nD.shape[1] <= MOST_DIMENSIONS:
        return x_nD
    left, size, _ = np.linalg.svd(x_nD, full_matrices=False)
    return (left * size)[:, :MOST_DIMENSIONS]


def _numbers(x_nD: NDArray[np.float32]) -> str:
    text = io.StringIO()
    np.savetxt(text, x_nD, fmt="%.4g", delimiter="\t")
    return text.getvalue()


def _tsv(columns: Mapping[str, Sequence[Any]]) -> str:
    """With a header; a tab or a line's end inside a text becomes a space."""
    rows = [list(columns), *zip(*columns.values(), strict=True)]
    return "".join("\t".join(" ".join(str(v).split()) for v in row) + "\n" for row in rows)
