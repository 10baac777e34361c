"""Data sets that are folders of images.

    ROOT/train/CLASS/*   ROOT/test/CLASS/*   (or val)      labelled
    ROOT/*                                                 unlabelled, with supervised=false

Images that fit in memory are decoded once into one uint8 array and cached on disk; larger sets
are looked through once for damaged files, and decoded by workers as training goes.
"""

from __future__ import annotations

import json
import logging
import statistics
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from PIL import Image

from tcl_train import checks
from tcl_train.data.dataset import DataSet, ReadOptions, Split, check_classes
from tcl_train.data.images import ArrayImages, FileImages, Images, check_file, decode
from tcl_train.data.listing import Listing, labelled, unlabelled
from tcl_train.data.statistics import channel_statistics
from tcl_train.errors import RequestError
from tcl_train.runtime.files import write_atomically

log = logging.getLogger(__name__)

T = TypeVar("T")

TEST_NAMES = ("test", "val")
LARGEST_IMAGE_SIZE = 224  # what `image_size: null` chooses at most
STORED_MARGIN = 256 / 224  # large images are stored with this margin around what encoders see
SAMPLE_FOR_SIZE = 200
CACHE_VERSION = 1


def has_image_folders(root: Path) -> bool:
    """Whether `root` holds train/ and test/ (or val/)."""
    return (root / "train").is_dir() and _test_folder(root) is not None


def _test_folder(root: Path) -> Path | None:
    return next((root / name for name in TEST_NAMES if (root / name).is_dir()), None)


def image_folder(
    root: str | None,
    *,
    options: ReadOptions,
    image_size: int | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    classes: Sequence[str] | None = None,
) -> DataSet:
    """Reads a folder of images.

    Args:
        root: the folder.
        options: see :class:`ReadOptions`.
        image_size: the side that encoders see; None takes the median short side of a sample, at
            most 224.
        mean, std: of the channels; None works them out from the training images.
        classes: the class folders that must be there; None takes those that are.

    Raises:
        RequestError: names the folder and what to put there.
    """
    if root is None:
        raise RequestError(
            "dataset.root is not set; give the folder that holds train/CLASS/ and test/CLASS/, "
            "as in dataset.root=DIR"
        )
    folder = Path(root).expanduser()
    if not folder.is_dir():
        raise RequestError(
            f"dataset.root={root}: there is no such folder ({folder.absolute()}); it should hold "
            "train/CLASS/ and test/CLASS/ (or val/CLASS/) with images"
        )
    if has_image_folders(folder):
        train = labelled(folder / "train")
        test_folder = _test_folder(folder)
        assert test_folder is not None
        test = labelled(test_folder)
    elif options.supervised:
        raise RequestError(
            f"dataset.root={root}: no train/ and test/ (or val/) in {folder.absolute()}; put "
            "images at train/CLASS/ and test/CLASS/, or train without labels by supervised=false"
        )
    else:
        train, test = unlabelled(folder), None
    if classes is not None and list(train.classes) != sorted(classes):
        missing = sorted(set(classes) - set(train.classes))
        extra = sorted(set(train.classes) - set(classes))
        raise RequestError(
            f"{folder / 'train'}: not the {len(classes)} classes of this data set; "
            f"missing: {', '.join(missing[:5]) or 'none'} ({len(missing)}), "
            f"not among them: {', '.join(extra[:5]) or 'none'} ({len(extra)})"
        )
    if test is not None:
        check_classes(str(folder), list(train.classes), list(test.classes))

    short_side = None
    if image_size is not None:
        checks.integer("image_size", image_size, at_least=1)
    else:
        short_side = _median_short_side(train.paths)
        image_size = min(short_side, LARGEST_IMAGE_SIZE)
        log.info("%s: images are seen at %d x %d pixels", folder, image_size, image_size)
    stored_size = _stored_size(image_size, short_side)

    train_images, train_key = _read(train, stored_size, options)
    if mean is None or std is None:
        measured_mean, measured_std = _cached_statistics(train_images, train_key, options)
        mean = measured_mean if mean is None else mean
        std = measured_std if std is None else std
    train_split = Split(train_images, train.labels_N)
    test_split = None
    if test is not None:
        test_labels_N = torch.tensor([train.classes.index(test.classes[i]) for i in test.labels])
        test_split = Split(_read(test, stored_size, options)[0], test_labels_N)
    return DataSet(
        pretrain=train_split,
        train=None if test is None else train_split,
        test=test_split,
        classes=train.classes,
        image_size=image_size,
        mean=mean,
        std=std,
    )


# ------------------------------------------------------------------ which size


def _median_short_side(paths: list[str]) -> int:
    """Of an even sample; reads the files' headers only."""
    step = max(1, len(paths) // SAMPLE_FOR_SIZE)
    sides = []
    for path in paths[::step]:
        try:
            with Image.open(path) as image:
                sides.append(min(image.size))
        except Exception:
            continue
    return int(statistics.median(sides)) if sides else LARGEST_IMAGE_SIZE


def _stored_size(image_size: int, short_side: int | None) -> int:
    """Small images are stored as they are seen, large ones with a margin for crops."""
    if image_size < LARGEST_IMAGE_SIZE:
        return image_size
    with_margin = round(image_size * STORED_MARGIN)
    return with_margin if short_side is None else min(with_margin, short_side)


# ------------------------------------------------------------------ reading and caching


def _read(listing: Listing, size: int, options: ReadOptions) -> tuple[Images, str]:
    """The images, and the name of what is cached of them."""
    key = listing.digest(CACHE_VERSION, size)
    paths = listing.paths
    if len(paths) * 3 * size * size > options.memory_limit_gb * 2**30:
        _check_once(listing, options.cache_dir / f"{key}.checked", options.workers)
        return FileImages(paths, size, options.workers), key
    cached = options.cache_dir / f"{key}.npy"
    stored_NCHW = _load_array(cached, (len(paths), 3, size, size))
    if stored_NCHW is not None:
        return ArrayImages(torch.from_numpy(stored_NCHW)), key
    log.info("decoding %d images from %s", len(paths), listing.folder)
    images_NCHW = np.empty((len(paths), 3, size, size), np.uint8)

    def put(index: int) -> None:
        images_NCHW[index] = decode(paths[index], size)

    _for_each(put, range(len(paths)), threads=options.workers)
    _cache(cached, lambda path: _save_array(path, images_NCHW))
    return ArrayImages(torch.from_numpy(images_NCHW)), key


def _check_once(listing: Listing, mark: Path, threads: int) -> None:
    """Raises RequestError for a damaged file, before a training that would meet it. Files that
    have not changed since they were checked are not checked again."""
    if not mark.exists():
        log.info("checking %d images from %s", len(listing.files), listing.folder)
        _for_each(check_file, listing.paths, threads=threads)
        _cache(mark, Path.touch)


def _for_each(function: Callable[[T], object], items: Sequence[T], *, threads: int) -> None:
    """Calls the function on all items; the first error stops it."""
    with ThreadPoolExecutor(max(1, threads)) as pool:
        futures = pool.map(function, items)
        try:
            for _ in futures:
                pass
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _cached_statistics(
    images: Images, key: str, options: ReadOptions
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    cached = options.cache_dir / f"{key}.json"
    try:
        stored = json.loads(cached.read_text())
        return tuple(stored["mean"]), tuple(stored["std"])
    except (OSError, ValueError, KeyError, TypeError):
        pass  # not there, or not whole
    mean, std = channel_statistics(images)
    text = json.dumps({"mean": mean, "std": std})
    _cache(cached, lambda path: path.write_text(text))
    return mean, std


def _load_array(path: Path, shape: tuple[int, ...]) -> np.ndarray | None:
    """None where it is not there or not whole. The file is mapped and read as images are used;
    what is written to the array stays in memory."""
    try:
        array = np.load(path, mmap_mode="c")
    except (OSError, ValueError, EOFError):
        return None
    return array if array.shape == shape and array.dtype == np.uint8 else None


def _save_array(path: Path, array: np.ndarray) -> None:
    with path.open("wb") as file:
        np.save(file, array)


def _cache(path: Path, write: Callable[[Path], object]) -> None:
    """A cache that cannot be written is not needed: a warning says so, and the run continues."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, write)
    except OSError as error:
        log.warning("%s: not cached (%s); the images will be read again", path, error)
