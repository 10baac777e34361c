"""`tcl-embed`: features of every image below a folder.

N: images; B: of a batch; D: features.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tcl_train import __version__
from tcl_train.commands.file_features import (
    FileFeatures,
    feature_batches,
    no_features,
    suitable_batch,
)
from tcl_train.data.decode import UnreadableImage, check_file, quietly
from tcl_train.data.listing import Listing, unlabelled
from tcl_train.errors import RequestError, TrainingError, few, printable
from tcl_train.evaluation.feature_file import (
    NPY,
    FeatureWriter,
    files_of,
    open_writer,
    write_about,
    write_rows,
)
from tcl_train.restore import Embedder, build_embedder
from tcl_train.run.directory import RunDir
from tcl_train.run.logs import own_standard_error, progress_bar
from tcl_train.runtime.files import check_output, make_folder, write_atomically
from tcl_train.runtime.processes import ALONE, Processes

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class EmbedSettings:
    """How to compute features.

    layer: see :func:`build_embedder`. batch_size: images computed at a time; None: by the device.
    workers: see :func:`feature_batches`. skip: leave out images that cannot be decoded.
    """

    layer: str = "encoder"
    device: str = "auto"
    precision: str | None = None
    batch_size: int | None = None
    workers: int | None = None
    skip: bool = True
    trust: Sequence[str] = ()


def embed(
    run: str | Path,
    images: str | Path,
    settings: EmbedSettings,
    *,
    out: str | Path | None = None,
    overwrite: bool = False,
    processes: Processes = ALONE,
) -> Path:
    """Writes the features of all images below a folder; gives the file. See
    :mod:`tcl_train.evaluation.feature_file`. Each process computes a part; the first one writes.

    Raises:
        RequestError: there is no run or no image, or a file is there already.
        TrainingError: features are not finite, or no image can be decoded.
    """
    run_dir = RunDir(run)
    folder = _folder(images)
    default = run_dir.path / "embeddings" / f"{folder.resolve().name or 'images'}{NPY}"
    path = default if out is None else Path(out).expanduser()
    files = files_of(path)
    embedder = _embedder(run, settings, processes)
    listing = unlabelled(folder)
    _check_same_images(listing, processes)
    if processes.is_first:
        if out is None:
            make_folder("run", path.parent)
        check_output("out", *files.values(), overwrite=overwrite)
    processes.wait_for_all("checked")
    begin = perf_counter()
    about: dict[str, Any] = {
        "run": str(run_dir.path.absolute()),
        "step": embedder.step,
        "layer": settings.layer,
        "images": str(folder.absolute()),
        "image_size": embedder.normalize.size,
        "precision": embedder.runtime.precision,
        "dim": embedder.dim,
        "tcl_train_version": __version__,
    }
    names: list[str] = []

    def write(temporary: Path) -> None:
        writer = open_writer(temporary, path.suffix, embedder.dim)
        try:
            names[:] = embed_listing(embedder, listing, settings, writer)
        finally:
            writer.close()
        if not names:
            raise TrainingError(f"images={folder}: none of the {len(listing)} images can be read")
        write_about(path, names, {**about, "count": len(names)})

    if not processes.is_first:
        embed_listing(embedder, listing, settings, None)
        return path
    write_atomically(path, write)
    unreadable = _report_unreadable(listing, set(names), files["unreadable"])
    log.info(
        "%s images x %d features in %s%s (%.0f images/s)",
        f"{len(names):,}",
        embedder.dim,
        path,
        f"; {unreadable:,} unreadable images in {files['unreadable']}" if unreadable else "",
        len(listing) / (perf_counter() - begin),
    )
    return path


def embed_one(run: str | Path, image: Path, settings: EmbedSettings) -> Tensor:
    """The features (1, D) of one image, on the CPU. Raises RequestError where it cannot be read."""
    embedder = _embedder(run, settings, ALONE)
    try:
        with feature_batches(embedder, [[str(image)]], workers=1, skip=False) as batches:
            return next(batches).x_BD.cpu()
    except UnreadableImage as error:
        raise RequestError(f"{printable(image)}: {error.reason}; give another image") from error


def _embedder(run: str | Path, settings: EmbedSettings, processes: Processes) -> Embedder:
    return build_embedder(
        run,
        layer=settings.layer,
        device=settings.device,
        precision=settings.precision,
        trust=settings.trust,
        processes=processes,
    )


def _folder(images: str | Path) -> Path:
    folder = Path(images).expanduser()
    if not folder.is_dir():
        raise RequestError(f"images={images}: there is no such folder; give one that holds images")
    return folder


def _check_same_images(listing: Listing, processes: Processes) -> None:
    """Each machine may have its own copy of the images."""
    text = "\n".join(listing.names).encode(errors="surrogateescape")
    own = hashlib.blake2b(text, digest_size=16).hexdigest()
    if processes.from_first("images", own) != own:
        raise RequestError(
            f"images={listing.folder}: not the images of the first process; give all machines the "
            "same"
        )


def embed_listing(
    embedder: Embedder, listing: Listing, settings: EmbedSettings, writer: FeatureWriter | None
) -> list[str]:
    """Batches go round the processes, so that rows come in the order of the images and the first
    process holds a few batches only. Gives the names of the images that could be decoded."""
    names, paths, processes = listing.names, listing.paths, embedder.runtime.processes
    size = settings.batch_size or suitable_batch(embedder)
    starts = range(0, len(listing), size)
    own = [paths[start : start + size] for start in starts[processes.rank :: processes.count]]
    written: list[str] = []
    with (
        own_standard_error() as terminal,
        progress_bar(total=len(listing), done=0, unit="image", file=terminal) as bar,
        feature_batches(embedder, own, workers=settings.workers, skip=settings.skip) as own_batches,
    ):
        for round_start in starts[:: processes.count]:
            batch = _next_batch(embedder, own_batches)
            for rank, (x_BD, places_B) in enumerate(_gathered(processes, batch, size)):
                start = round_start + rank * size
                of_batch = names[start : start + size]
                if writer is None or not of_batch:
                    continue
                kept = [of_batch[i] for i in places_B]
                _write(writer, kept, x_BD.cpu().numpy())
                written += kept
                bar.update(len(of_batch))
    return written


def _next_batch(embedder: Embedder, batches: Iterator[FileFeatures]) -> FileFeatures:
    """Empty, where this process has no batch any more."""
    try:
        return next(batches, no_features(embedder))
    except UnreadableImage as error:
        raise RequestError(
            f"{printable(error.path)}: {error.reason}; replace the file or delete it, or leave "
            "such files out by on_damaged=skip"
        ) from error


def _gathered(processes: Processes, batch: FileFeatures, size: int) -> list[FileFeatures]:
    """Of all processes, by rank; each has a batch of at most this size."""
    if processes.count == 1:
        return [batch]
    x_BD = batch.x_BD.new_zeros(size, batch.x_BD.shape[1])
    kept_B = torch.zeros(size, dtype=torch.bool, device=x_BD.device)
    x_BD[batch.places_B] = batch.x_BD
    kept_B[batch.places_B] = True
    of_ranks = zip(processes.gather(x_BD), processes.gather(kept_B), strict=True)
    return [FileFeatures(x_BD[kept], kept.nonzero()[:, 0].tolist()) for x_BD, kept in of_ranks]


def _write(writer: FeatureWriter, names: Sequence[str], x_BD: np.ndarray) -> None:
    if not np.isfinite(x_BD).all():
        bad = next(n for n, row in zip(names, x_BD, strict=True) if not np.isfinite(row).all())
        raise TrainingError(
            f"the features of {printable(bad)} are not finite: training has diverged, or the "
            "features overflow; give precision=fp32"
        )
    writer.add(names, x_BD)


def _report_unreadable(listing: Listing, written: set[str], path: Path) -> int:
    """Writes which images are left out and why, and says it."""
    path.unlink(missing_ok=True)  # of an earlier call
    left_out = [
        (file.path, name)
        for file, name in zip(listing.files, listing.names, strict=True)
        if name not in written
    ]
    if not left_out:
        return 0
    with quietly():
        rows = [(name, _reason(of)) for of, name in left_out]
    write_rows(path, ["file", "reason"], rows)
    shown = [printable(name) for _, name in left_out]
    log.warning("%d of %d images cannot be read: %s", len(shown), len(listing), few(shown))
    return len(left_out)


def _reason(path: str) -> str:
    try:
        check_file(path)
    except UnreadableImage as error:
        return error.reason
    return "could not be read before, but can now"
