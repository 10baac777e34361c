"""`tcl-embed query=IMAGE` and `duplicates=true`: what stored features say of the images."""

from __future__ import annotations

import logging
import os
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from tcl_train.commands.contact_sheet import Tile, contact_sheet
from tcl_train.commands.embed import EmbedSettings, embed_one
from tcl_train.errors import RequestError, printable
from tcl_train.evaluation.feature_file import StoredFeatures, read_features, write_rows
from tcl_train.evaluation.similarity import TooManyPairs, near_duplicates, nearest
from tcl_train.runtime.files import free_name, write_atomically

log = logging.getLogger(__name__)

MOST_PAIRS = 1_000_000


def find_nearest(
    features: Path, query: str, settings: EmbedSettings, *, top: int, run: str | None = None
) -> Path:
    """Says which images are nearest to one, which may be among them or not, and draws them; gives
    the picture.

    run: whose encoder embeds the query where it is not among the images; None: the one that is
    noted beside the features.

    Raises:
        RequestError: the query cannot be read, or features or run are not there.
    """
    stored = read_features(features)
    path = Path(query).expanduser()
    own = _place_of(stored, path)
    if own is None:
        if not path.is_file():
            raise RequestError(f"query={printable(query)}: there is no such file; give an image")
        settings = replace(settings, layer=stored.about["layer"])
        query_1D = embed_one(run or stored.about["run"], path, settings)
        _check_dim(stored, query_1D, run)
        found = nearest(stored.x_ND, query_1D, top=top)
    else:
        query_1D = torch.from_numpy(stored.x_ND[own : own + 1].copy())
        found = nearest(stored.x_ND, query_1D, top=top + 1)  # itself among them
    folder = Path(stored.about["images"])
    tiles: list[Tile] = []
    for similarity, index in zip(*(of[0].tolist() for of in found), strict=True):
        if index == own or len(tiles) == top:
            continue
        tiles.append(Tile(folder / stored.names[index], f"{len(tiles) + 1}.  {similarity:.4f}"))
        log.info("%3d.  %.4f  %s", len(tiles), similarity, printable(tiles[-1].path))
    if not tiles:
        raise RequestError(f"query={printable(query)}: there is no other image in {features}")
    picture = contact_sheet(Tile(path, "query"), tiles)
    out = free_name(features.with_name(f"{features.stem}-nearest-{path.stem}.png"))
    write_atomically(out, lambda temporary: picture.save(temporary, "PNG"))
    log.info(
        "the %d nearest of %s images are drawn in %s",
        len(tiles),
        f"{len(stored.names):,}",
        printable(out),
    )
    return out


def _place_of(stored: StoredFeatures, path: Path) -> int | None:
    """Of the row of this image; None: it is not among the images."""
    name = os.path.relpath(path.absolute(), stored.about["images"])
    return stored.names.index(name) if name in set(stored.names) else None


def _check_dim(stored: StoredFeatures, query_1D: Tensor, run: str | None) -> None:
    if query_1D.shape[1] != stored.x_ND.shape[1]:
        raise RequestError(
            f"run={run}: gives {query_1D.shape[1]} features and the stored ones are "
            f"{stored.x_ND.shape[1]}; give the run that they come from, {stored.about['run']}"
        )


def find_duplicates(features: Path, *, threshold: float) -> Path:
    """Writes the pairs of images that are nearly the same, the most similar first; gives the file.

    threshold: the least cosine of their features.

    Raises:
        RequestError: features are not there, or too many pairs are found.
    """
    stored = read_features(features)
    try:
        pairs = near_duplicates(stored.x_ND, threshold=threshold, most=MOST_PAIRS)
    except TooManyPairs as error:
        raise RequestError(f"threshold={threshold:g}: {error}; give a higher one") from error
    rows = [
        (f"{similarity:.6f}", stored.names[first], stored.names[second])
        for similarity, first, second in zip(*(of.tolist() for of in pairs), strict=True)
    ]
    out = free_name(features.with_name(f"{features.stem}-duplicates.csv"))
    write_rows(out, ["similarity", "first", "second"], rows)
    log.info(
        "%s pairs of %s images have a cosine of %g or more: %s",
        f"{len(rows):,}",
        f"{len(stored.names):,}",
        threshold,
        printable(out),
    )
    return out
