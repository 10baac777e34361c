"""Data sets that are folders of images; see tcl_train/data/layout.py for how they may be laid out.

Images that fit in memory are decoded once into one uint8 array and cached on disk; larger sets
are checked once for damaged files, then decoded by workers during training.
"""

from __future__ import annotations

import logging
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from PIL import Image

from tcl_train import checks
from tcl_train.data.cache import Cache
from tcl_train.data.dataset import DataSet, ReadOptions, Split
from tcl_train.data.decode import UnreadableImage, check_file, decode, quietly
from tcl_train.data.images import ArrayImages, FileImages, Images, array_digest
from tcl_train.data.layout import find_layout
from tcl_train.data.listing import Listing, digest_of_contents, even_sample
from tcl_train.data.statistics import channel_statistics, count_constant
from tcl_train.data.stream import files_at_a_time
from tcl_train.errors import RequestError, printable
from tcl_train.runtime.threads import Threads

log = logging.getLogger(__name__)

T = TypeVar("T")

LARGEST_IMAGE_SIZE = 224  # what `image_size: null` chooses at most
STORED_MARGIN = 256 / 224  # large images are stored with this margin around what encoders see
SAMPLE_FOR_SIZE = 200
NEARLY_SQUARE = 1.05  # the longer side over the shorter
SAMPLE_FOR_CONSTANT = 100
VERIFIED = 16  # cached images that are compared with their files
CACHE_VERSION = 2
FEW_SHOWN = 20  # damaged files in the log


def image_folder(
    root: str | None,
    *,
    options: ReadOptions,
    image_size: int | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    classes: Sequence[str] | None = None,
    test_fraction: float | None = None,
) -> DataSet:
    """Reads a folder of images.

    Args:
        root: the folder.
        options: see :class:`ReadOptions`.
        image_size: the side that encoders see; None takes the median short side of a sample, at
            most 224.
        mean, std: of the channels; None works them out from the training images.
        classes: the class folders that must be there; None takes those that are.
        test_fraction: the share of each class that is held out where there is no test split; None:
            0.2 with labels, none without.

    Raises:
        RequestError: names the folder and what to put there.
    """
    if root is None:
        raise RequestError(
            "dataset.root is not set; give the folder that holds train/CLASS/ and test/CLASS/, "
            "as in dataset.root=DIR"
        )
    if test_fraction is not None:
        checks.number("dataset.test_fraction", test_fraction, above=0, below=1)
    folder = Path(root).expanduser()
    if not folder.is_dir():
        raise RequestError(
            f"dataset.root={root}: there is no such folder ({folder.absolute()}); it should hold "
            "train/CLASS/ and test/CLASS/ (or val/CLASS/) with images"
        )
    layout = find_layout(
        folder,
        supervised=options.supervised,
        test_fraction=test_fraction,
        seed=options.seed,
    )
    train, test = layout.train, layout.test
    if classes is not None and list(train.classes) != sorted(classes):
        missing = sorted(set(classes) - set(train.classes))
        extra = sorted(set(train.classes) - set(classes))
        raise RequestError(
            f"{train.folder}: not the {len(classes)} classes of this data set; "
            f"missing: {', '.join(missing[:5]) or 'none'} ({len(missing)}), "
            f"not among them: {', '.join(extra[:5]) or 'none'} ({len(extra)})"
        )
    sizes = _sample_sizes(train.paths)
    short_side = None
    if image_size is not None:
        checks.integer("image_size", image_size, at_least=1)
    else:
        short_side = _median_short_side(sizes)
        image_size = min(short_side, LARGEST_IMAGE_SIZE)
        log.info("%s: images are seen at %d x %d pixels", folder, image_size, image_size)
    size = stored_size(image_size, short_side)

    needed = 3 * size * size * (len(train) + (0 if test is None else len(test)))
    in_memory = needed <= options.memory_limit_gb * 2**30
    if in_memory and image_size >= LARGEST_IMAGE_SIZE and not _mostly_square(sizes):
        log.info("large images that are not square are decoded on the fly, so that crops see all")
        in_memory = False
    train_part = _Part(train, size, options, in_memory=in_memory)
    test_part = None if test is None else _Part(test, size, options, in_memory=in_memory)
    if mean is None or std is None:
        measured_mean, measured_std = train_part.channel_statistics()
        mean = measured_mean if mean is None else mean
        std = measured_std if std is None else std
    return DataSet(
        pretrain=train_part.split,
        train=None if test_part is None else train_part.split,
        test=None if test_part is None else test_part.split,
        classes=train.classes,
        image_size=image_size,
        mean=mean,
        std=std,
        root=str(folder.resolve()),
        test_split=layout.test_split,
        left_out=train_part.left_out + (() if test_part is None else test_part.left_out),
    )


# ------------------------------------------------------------------ which size


def _sample_sizes(paths: list[str]) -> list[tuple[int, int]]:
    """Of an even sample; reads the files' headers only."""
    step = max(1, len(paths) // SAMPLE_FOR_SIZE)
    sizes = []
    with quietly():
        for path in paths[::step]:
            try:
                with Image.open(path) as image:
                    sizes.append(image.size)
            except Exception:
                continue
    return sizes


def _median_short_side(sizes: list[tuple[int, int]]) -> int:
    return int(statistics.median(map(min, sizes))) if sizes else LARGEST_IMAGE_SIZE


def _mostly_square(sizes: list[tuple[int, int]]) -> bool:
    square = sum(max(size) <= NEARLY_SQUARE * min(size) for size in sizes)
    return square >= len(sizes) / 2


def stored_size(image_size: int, short_side: int | None = None) -> int:
    """The side at which images are decoded that are seen at `image_size`: small ones as they are
    seen, large ones with a margin for crops. short_side: what most of them have; None: enough."""
    if image_size < LARGEST_IMAGE_SIZE:
        return image_size
    with_margin = round(image_size * STORED_MARGIN)
    return with_margin if short_side is None else min(with_margin, short_side)


# ------------------------------------------------------------------ one split, read or to be read


class _Part:
    """The images of a listing, without those that are damaged.

    Facts of it are cached: which files are damaged and why, a digest of the content, mean and
    standard deviation, and how many images of a sample have a single value.
    """

    def __init__(
        self, listing: Listing, size: int, options: ReadOptions, *, in_memory: bool
    ) -> None:
        self.options = options
        self.size = size
        self.cache = Cache(options.cache_dir, options.cache_limit_gb)
        self.key = listing.key(CACHE_VERSION, size)
        self.facts = self.cache.load_facts(self.key)
        self.listing = listing
        self.kept = True  # in the cache: but not what may be otherwise at another time
        images = self._in_memory() if in_memory else self._streamed()
        self.split = Split(images, self.listing.labels_N)
        self._report_constant()

    @property
    def left_out(self) -> tuple[str, ...]:
        split = self.listing.folder.name
        return tuple(f"{split}/{name}: {reason}" for name, reason in self.facts["damaged"].items())

    def channel_statistics(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        if "mean" not in self.facts:
            mean, std = channel_statistics(self.split.images)
            self._learn(mean=mean, std=std)
        return tuple(self.facts["mean"]), tuple(self.facts["std"])

    def _streamed(self) -> Images:
        if "damaged" not in self.facts:
            log.info("checking %d images from %s", len(self.listing), self.listing.folder)
            files, names = self.listing.files, self.listing.names
            contents = [""] * len(files)

            def check(index: int) -> None:
                contents[index] = check_file(files[index].path)

            damaged = self._for_each(check)
            self._learn(damaged=damaged, digest=digest_of_contents(names, contents))
        self._leave_out_damaged()
        workers, digest = self.options.workers, self.facts["digest"]
        on_gpu = self.options.decode == "gpu"
        return FileImages(self.listing.paths, self.size, workers, digest, on_gpu=on_gpu)

    def _in_memory(self) -> Images:
        images_NCHW = self._cached_array()
        if images_NCHW is None:
            images_NCHW = self._decode_all()
        self._leave_out_damaged()
        return ArrayImages(torch.from_numpy(images_NCHW), self.facts["digest"])

    def _cached_array(self) -> np.ndarray | None:
        """None where it is absent or holds other pixels than the files."""
        if not {"damaged", "digest"} <= self.facts.keys():
            return None
        count = len(self.listing) - len(self.facts["damaged"])
        images_NCHW = self.cache.load_array(self.key, (count, 3, self.size, self.size))
        if images_NCHW is None:
            return None
        paths = self.listing.paths
        kept = self._whole()
        with quietly():
            for i in even_sample(count, VERIFIED):
                if not np.array_equal(decode(paths[kept[i]], self.size), images_NCHW[i]):
                    return None
        return images_NCHW

    def _decode_all(self) -> np.ndarray:
        listing = self.listing
        log.info("decoding %d images from %s", len(listing), listing.folder)
        images_NCHW = np.empty((len(listing), 3, self.size, self.size), np.uint8)

        def put(index: int) -> None:
            images_NCHW[index] = decode(listing.files[index].path, self.size)

        self.facts["damaged"] = self._for_each(put)
        if self.facts["damaged"]:
            images_NCHW = images_NCHW[self._whole()]
        self._learn(digest=array_digest(images_NCHW))
        if self.kept:
            self.cache.save_array(self.key, images_NCHW)
        return images_NCHW

    def _for_each(self, function: Callable[[int], object]) -> dict[str, str]:
        """Calls the function on all places in the listing; gives the names of damaged files with
        the reasons. With on_damaged=stop the first one is raised."""
        damaged: dict[str, str] = {}
        names = self.listing.names
        skip = self.options.on_damaged == "skip"

        def call(index: int) -> None:
            try:
                function(index)
            except UnreadableImage as error:
                if not skip:
                    raise
                damaged[names[index]] = error.reason
                if error.passing:
                    self.kept = False

        with quietly():
            _in_threads(call, range(len(names)), count=self.options.workers)
        return dict(sorted(damaged.items()))

    def _whole(self) -> list[int]:
        """The places of the files that are not damaged."""
        damaged = self.facts["damaged"]
        return [i for i, name in enumerate(self.listing.names) if name not in damaged]

    def _leave_out_damaged(self) -> None:
        damaged: dict[str, str] = self.facts["damaged"]
        if not damaged:
            return
        folder = self.listing.folder
        if self.options.on_damaged != "skip":
            name, reason = next(iter(damaged.items()))
            raise UnreadableImage(folder / name, reason)
        log.warning(
            "%s: %d of %d images are damaged and left out", folder, len(damaged), len(self.listing)
        )
        for name, reason in list(damaged.items())[:FEW_SHOWN]:
            log.warning("left out: %s: %s", printable(name), reason)
        if len(damaged) > FEW_SHOWN:
            log.warning("left out: %d more, listed in result.json", len(damaged) - FEW_SHOWN)
        before = self.listing
        self.listing = before.chosen(self._whole())
        emptied = set(before.labels) - set(self.listing.labels)
        if not self.listing.files or emptied:
            where = ", ".join(before.classes[label] for label in sorted(emptied)) or "the folder"
            raise RequestError(
                f"{folder}: all images of {where} are damaged, of those in this split; replace the "
                "files, or hold out others by another seed"
            )

    def _report_constant(self) -> None:
        if "constant" not in self.facts:
            sample_NCHW = self._sample()
            self._learn(constant=(count_constant(sample_NCHW), len(sample_NCHW)))
        constant, sample = self.facts["constant"]
        if constant > sample / 2:
            log.warning(
                "%s: %d of %d sampled images have a single value (all black or all white, say); "
                "are these the right files?",
                self.listing.folder,
                constant,
                sample,
            )

    def _sample(self) -> torch.Tensor:
        """Some of the images, evenly spread."""
        places = even_sample(len(self.listing), SAMPLE_FOR_CONSTANT)
        if isinstance(self.split.images, ArrayImages):
            return self.split.images.images_NCHW[places]
        images_NCHW = np.empty((len(places), 3, self.size, self.size), np.uint8)

        def put(index: int) -> None:
            images_NCHW[index] = decode(self.listing.files[places[index]].path, self.size)

        with quietly():
            _in_threads(put, range(len(places)), count=self.options.workers)
        return torch.from_numpy(images_NCHW)

    def _learn(self, **facts: Any) -> None:
        self.facts |= facts
        if self.kept:
            self.cache.save_facts(self.key, self.facts)


def _in_threads(function: Callable[[T], object], items: Sequence[T], *, count: int) -> None:
    """Calls the function on all items, of each of which a file is read, in so many threads; the
    first error stops it."""
    with Threads(min(count, len(items))) as threads:
        at_a_time = files_at_a_time(len(items), 4 * threads.count)

        def of_part(start: int) -> None:
            for item in threads.while_needed(items[start : start + at_a_time]):
                function(item)

        tasks = [threads.submit(of_part, start) for start in range(0, len(items), at_a_time)]
        for task in tasks:
            task.result()
