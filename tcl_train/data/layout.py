"""Which folders below a data set's root are its splits.

    ROOT/train/CLASS/*   ROOT/test/CLASS/*     two splits; also validation, valid or val for test
    ROOT/CLASS/*   or ROOT/train/CLASS/*       one: a share of each class is held out for testing
    ROOT/**                                    unlabelled, with supervised=false

The names of splits may be in any case.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

import torch

from tcl_train.data.listing import Listing, class_folders, holds_images, labelled, unlabelled
from tcl_train.errors import RequestError, few
from tcl_train.runtime.randomness import generator

log = logging.getLogger(__name__)

TRAIN_NAMES = ("train", "training")
TEST_NAMES = ("test", "testing", "val", "valid", "validation")  # the first that has classes
TEST_FRACTION = 0.2


@dataclass(frozen=True)
class Layout:
    """The image files of a data set's splits.

    test: labels are those of `train`'s classes; None: nothing to evaluate on. test_split: where
    the test images come from, in words.
    """

    train: Listing
    test: Listing | None
    test_split: str | None


def has_image_folders(root: Path) -> bool:
    """Whether `root` holds train/ and test/ (or val/)."""
    return _split(root, TRAIN_NAMES) is not None and bool(_splits(root, TEST_NAMES))


def find_layout(root: Path, *, supervised: bool, test_fraction: float | None, seed: int) -> Layout:
    """Looks through a folder.

    Args:
        root: the data set's folder.
        supervised: whether labels are needed.
        test_fraction: the share of each class that is held out for testing where there is one
            split; None: 0.2 with labels, and none (no evaluation) with supervised=false.
        seed: decides which images are held out.

    Raises:
        RequestError: names the folder and what to put there.
    """
    train_folder = _split(root, TRAIN_NAMES)
    test_folder = _with_classes(_splits(root, TEST_NAMES))
    if train_folder is not None and test_folder is not None and _has_classes(train_folder):
        if test_fraction is not None:
            log.warning("dataset.test_fraction is not used: there is a test split, %s", test_folder)
        unused = [path.name for path in _splits(root, TEST_NAMES) if path != test_folder]
        if unused:
            log.info("%s: testing on %s; not used: %s", root, test_folder.name, few(unused))
        return _two_splits(train_folder, test_folder, supervised=supervised)
    if not supervised and test_fraction is None:
        return Layout(unlabelled(_images_of(root, train_folder)), None, None)
    if train_folder is None and test_folder is not None:
        raise RequestError(
            f"dataset.root={root}: there is {test_folder.name}/ and no train/ in "
            f"{root.absolute()}; put the training images at train/CLASS/"
        )
    single = root if train_folder is None else train_folder
    if not _has_classes(single):
        raise RequestError(
            f"dataset.root={root}: no class folders with images in {single.absolute()}; put images "
            "at train/CLASS/ and test/CLASS/ (or at CLASS/, of which a share is held out), or "
            "train without labels by supervised=false"
        )
    return _hold_out(
        labelled(single), TEST_FRACTION if test_fraction is None else test_fraction, seed
    )


def _two_splits(train_folder: Path, test_folder: Path, *, supervised: bool) -> Layout:
    train, test = labelled(train_folder), labelled(test_folder)
    unknown = sorted(set(test.classes) - set(train.classes))
    if unknown and not supervised:
        log.warning(
            "%s: not evaluated on, since %s lacks its classes %s",
            test_folder,
            train_folder,
            few(unknown),
        )
        return Layout(train, None, None)
    if unknown:
        raise RequestError(
            f"{train_folder.parent}: the test split has {few(unknown)}, which the training split "
            f"lacks; training has {len(train.classes)} classes ({few(train.classes)})"
        )
    labels = [train.classes.index(test.classes[label]) for label in test.labels]
    test = Listing(test.folder, test.files, train.classes, labels)
    return Layout(train, test, str(test_folder.resolve()))


def _hold_out(listing: Listing, fraction: float, seed: int) -> Layout:
    """A share of each class for testing: at least one image, and at least one is left."""
    labels_N = listing.labels_N
    assert labels_N is not None
    held: list[int] = []
    for label, name in enumerate(listing.classes):
        places_M = (labels_N == label).nonzero()[:, 0]
        if len(places_M) < 2:
            raise RequestError(
                f"{listing.folder / name}: one image, of which none can be held out for testing; "
                "put more images there, delete the folder, or give test/CLASS/ beside train/CLASS/"
            )
        count = min(max(1, round(fraction * len(places_M))), len(places_M) - 1)
        order_M = torch.randperm(len(places_M), generator=generator(seed, "test split", name))
        held += places_M[order_M[:count]].tolist()
    test_places = sorted(held)
    train_places = sorted(set(range(len(listing))) - set(held))
    words = f"{fraction:.3g} of each class of {listing.folder.absolute()}, held out by seed {seed}"
    log.info("no test folder with classes: testing on %s (%d images)", words, len(test_places))
    return Layout(listing.chosen(train_places), listing.chosen(test_places), words)


# ------------------------------------------------------------------ the names of splits


def _splits(root: Path, names: tuple[str, ...]) -> list[Path]:
    """The folders of these names, in the names' order; the exact name comes before others."""
    if not root.is_dir():
        return []
    try:
        folders = [path for path in root.iterdir() if path.is_dir()]
    except OSError as error:
        raise RequestError(f"dataset.root={root}: cannot be read ({error.strerror})") from error
    return [
        path
        for name in names
        for path in sorted(folders, key=lambda path: (path.name != name, path.name))
        if path.name.lower() == name
    ]


def _split(root: Path, names: tuple[str, ...]) -> Path | None:
    return next(iter(_splits(root, names)), None)


def _has_classes(folder: Path) -> bool:
    return any(holds_images(folder / name) for name in class_folders(folder))


def _with_classes(folders: list[Path]) -> Path | None:
    return next((folder for folder in folders if _has_classes(folder)), None)


def _images_of(root: Path, train_folder: Path | None) -> Path:
    """Where to look for unlabelled images: images of a test split are not for training."""
    if train_folder is not None and holds_images(train_folder):
        return train_folder
    return root
