"""Data sets that are folders of images.

    ROOT/train/CLASS/*   ROOT/test/CLASS/*   (or val)      labelled
    ROOT/*                                                 unlabelled, with supervised=false

Images that fit in memory are decoded once into one uint8 array and cached on disk; larger sets
are decoded by workers as training goes.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import statistics
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from tcl_train import checks
from tcl_train.data.dataset import DataSet, ReadOptions, Split, check_classes
from tcl_train.data.images import ArrayImages, FileImages, Images, decode
from tcl_train.data.statistics import channel_statistics
from tcl_train.errors import RequestError

log = logging.getLogger(__name__)

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
        train = _labelled(folder / "train")
        test_folder = _test_folder(folder)
        assert test_folder is not None
        test = _labelled(test_folder)
    elif options.supervised:
        raise RequestError(
            f"dataset.root={root}: no train/ and test/ (or val/) in {folder.absolute()}; put "
            "images at train/CLASS/ and test/CLASS/, or train without labels by supervised=false"
        )
    else:
        train, test = _unlabelled(folder), None
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
        mean=tuple(mean),
        std=tuple(std),
    )


# ------------------------------------------------------------------ which files


@dataclass(frozen=True)
class _Listing:
    """Image files in a fixed order, with a class index for each where they are labelled."""

    folder: Path
    paths: list[Path]
    classes: tuple[str, ...]
    labels: list[int]

    @property
    def labels_N(self) -> Tensor | None:
        return torch.tensor(self.labels) if self.classes else None


def _labelled(folder: Path) -> _Listing:
    classes = sorted(e.name for e in os.scandir(folder) if e.is_dir() and e.name[0] != ".")
    if not classes:
        raise RequestError(
            f"{folder}: no class folders; it should hold a folder of images for each class"
        )
    paths: list[Path] = []
    labels: list[int] = []
    for label, name in enumerate(classes):
        found = _images_below(folder / name)
        if not found:
            raise RequestError(f"{folder / name}: no images; put images there or delete the folder")
        paths += found
        labels += [label] * len(found)
    return _Listing(folder, paths, tuple(classes), labels)


def _unlabelled(folder: Path) -> _Listing:
    paths = _images_below(folder)
    if not paths:
        raise RequestError(
            f"{folder}: no images; put images there (any type that Pillow reads), or train/CLASS/ "
            "and test/CLASS/ with images"
        )
    return _Listing(folder, paths, (), [])


def _images_below(folder: Path) -> list[Path]:
    """The image files below a folder, sorted by name; hidden ones and other files are passed."""
    formats = Image.registered_extensions()
    endings = {ending for ending, name in formats.items() if name in Image.OPEN}
    found: list[Path] = []
    seen: set[str] = set()  # links may lead in circles
    for parent, folders, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(parent)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = [name for name in folders if name[0] != "."]
        found += [
            Path(parent, name)
            for name in files
            if name[0] != "." and os.path.splitext(name)[1].lower() in endings
        ]
    return sorted(found)


# ------------------------------------------------------------------ which size


def _median_short_side(paths: list[Path]) -> int:
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


def _key(listing: _Listing, size: int) -> str:
    """Changes when a file's name, size or time does."""
    digest = hashlib.blake2b(f"{CACHE_VERSION} {size}".encode(), digest_size=16)
    for path in listing.paths:
        try:
            stat = path.stat()
        except OSError as error:
            raise RequestError(
                f"{path}: cannot be read ({error.strerror}); replace the file or delete it"
            ) from error
        name = path.relative_to(listing.folder)
        digest.update(f"{name}\0{stat.st_size}\0{stat.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def _read(listing: _Listing, size: int, options: ReadOptions) -> tuple[Images, str]:
    key = _key(listing, size)
    if len(listing.paths) * 3 * size * size > options.memory_limit_gb * 2**30:
        return FileImages(listing.paths, size, options.workers), key
    cached = options.cache_dir / f"{key}.npy"
    stored_NCHW = _load_array(cached, (len(listing.paths), 3, size, size))
    if stored_NCHW is not None:
        return ArrayImages(torch.from_numpy(stored_NCHW)), key
    log.info("decoding %d images from %s", len(listing.paths), listing.folder)
    images_NCHW = np.empty((len(listing.paths), 3, size, size), np.uint8)

    def put(index: int) -> None:
        images_NCHW[index] = decode(listing.paths[index], size)

    with ThreadPoolExecutor(max(1, options.workers)) as pool:
        futures = pool.map(put, range(len(listing.paths)))
        try:
            for _ in futures:
                pass
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    _write_atomically(cached, lambda path: _save_array(path, images_NCHW))
    return ArrayImages(torch.from_numpy(images_NCHW)), key


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
    _write_atomically(cached, lambda path: path.write_text(text))
    return mean, std


def _load_array(path: Path, shape: tuple[int, ...]) -> np.ndarray | None:
    """None where it is not there or not whole."""
    try:
        array = np.load(path)
    except (OSError, ValueError, EOFError):
        return None
    return array if array.shape == shape and array.dtype == np.uint8 else None


def _save_array(path: Path, array: np.ndarray) -> None:
    with path.open("wb") as file:
        np.save(file, array)


def _write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """A cache that cannot be written is not needed: it is said, and the run goes on."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(temporary)
        temporary.replace(path)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink()
        log.warning("%s: not cached (%s); the images will be decoded again", path, error)
