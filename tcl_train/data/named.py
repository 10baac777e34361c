"""The named data sets. torchvision's classes download and check them.

Each function reads image folders instead where `root` holds train/ and test/ (or val/).
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence
from contextlib import contextmanager, suppress
from http.client import HTTPException
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tcl_train import checks
from tcl_train.data.dataset import DataSet, ReadOptions, Split
from tcl_train.data.folder import image_folder
from tcl_train.data.images import ArrayImages, resized
from tcl_train.data.layout import has_image_folders
from tcl_train.errors import RequestError

SECONDS_TO_WAIT_FOR_NETWORK = 10

# Reads one split ("train", "test", ...) of a torchvision data set: images NCHW, labels, classes.
Reader = Callable[[str], "tuple[Tensor, Tensor, Sequence[str]]"]


def cifar10(root: str, **keys: Any) -> DataSet:
    """60,000 colour images of 32 x 32 pixels in 10 classes."""
    return _named(root, lambda split: _cifar("CIFAR10", root, split), **keys)


def cifar100(root: str, **keys: Any) -> DataSet:
    """60,000 colour images of 32 x 32 pixels in 100 classes."""
    return _named(root, lambda split: _cifar("CIFAR100", root, split), **keys)


def mnist(root: str, **keys: Any) -> DataSet:
    """70,000 grey images of 28 x 28 pixels of hand-written digits."""
    return _named(root, lambda split: _mnist("MNIST", root, split), **keys)


def fashion_mnist(root: str, **keys: Any) -> DataSet:
    """70,000 grey images of 28 x 28 pixels of clothes in 10 classes."""
    return _named(root, lambda split: _mnist("FashionMNIST", root, split), **keys)


def svhn(root: str, **keys: Any) -> DataSet:
    """99,289 colour images of 32 x 32 pixels of house numbers, 10 classes."""

    def read(split: str) -> tuple[Tensor, Tensor, Sequence[str]]:
        data = _torchvisions("SVHN")(root, split=split, download=True)
        return torch.from_numpy(data.data), torch.from_numpy(data.labels), list("0123456789")

    return _named(root, read, **keys)


def stl10(root: str, unlabelled: bool | None = None, **keys: Any) -> DataSet:
    """13,000 labelled and 100,000 unlabelled colour images of 96 x 96 pixels in 10 classes.

    unlabelled: whether pretraining sees the unlabelled images too, with supervised=true each as its
    own group; None: with supervised=false only.
    """
    if unlabelled is not None:
        checks.boolean("unlabelled", unlabelled)

    def read(split: str) -> tuple[Tensor, Tensor, Sequence[str]]:
        data = _torchvisions("STL10")(root, split=split, download=True)
        return torch.from_numpy(data.data), torch.from_numpy(data.labels), data.classes

    supervised = keys["options"].supervised
    wanted = not supervised if unlabelled is None else unlabelled
    return _named(root, read, pretrain_split="train+unlabeled" if wanted else None, **keys)


def _torchvisions(name: str) -> Any:
    """Its data set of this name. torchvision takes two seconds to load; folders do without it."""
    from torchvision import datasets

    return getattr(datasets, name)


def _cifar(name: str, root: str, split: str) -> tuple[Tensor, Tensor, Sequence[str]]:
    data = _torchvisions(name)(root, train=split == "train", download=True)
    images_NCHW = np.ascontiguousarray(data.data.transpose(0, 3, 1, 2))
    return torch.from_numpy(images_NCHW), torch.tensor(data.targets), data.classes


def _mnist(name: str, root: str, split: str) -> tuple[Tensor, Tensor, Sequence[str]]:
    data = _torchvisions(name)(root, train=split == "train", download=True)
    return data.data[:, None], data.targets, data.classes


def _named(
    root: str,
    read: Reader,
    *,
    options: ReadOptions,
    image_size: int,
    mean: Sequence[float],
    std: Sequence[float],
    pretrain_split: str | None = None,
) -> DataSet:
    folder = Path(root).expanduser()
    if has_image_folders(folder):
        return image_folder(root, options=options, image_size=image_size, mean=mean, std=std)
    with _one_line_on_failure(folder):
        train_NCHW, train_labels_N, classes = read("train")
        test_NCHW, test_labels_N, _ = read("test")
        train = Split(ArrayImages(resized(train_NCHW, image_size)), train_labels_N.long())
        test = Split(ArrayImages(resized(test_NCHW, image_size)), test_labels_N.long())
        pretrain = train
        if pretrain_split is not None:
            images_NCHW, labels_N, _ = read(pretrain_split)
            images = ArrayImages(resized(images_NCHW, image_size))
            pretrain = Split(images, labels_N.long() if options.supervised else None)
    return DataSet(
        pretrain=pretrain,
        train=train,
        test=test,
        classes=tuple(classes),
        image_size=image_size,
        mean=mean,
        std=std,
        root=str(folder.resolve()),
    )


@contextmanager
def _one_line_on_failure(folder: Path) -> Any:
    """Without a network the user hears within seconds where we looked and what to put there."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    before = set(_folders_of_torchvision(folder))
    waited = socket.getdefaulttimeout()
    socket.setdefaulttimeout(SECONDS_TO_WAIT_FOR_NETWORK)
    try:
        yield
    except (OSError, RuntimeError, EOFError, ValueError, HTTPException, AttributeError) as error:
        for path in (*_folders_of_torchvision(folder), *missing):  # made before nothing was found
            if path not in before:
                with suppress(OSError):
                    path.rmdir()
        reason = " ".join(str(error).split()) or type(error).__name__
        raise RequestError(
            f"dataset.root={folder}: the data set is not in {folder.absolute()} and could not be "
            f"downloaded ({reason}); put torchvision's files there, or train/CLASS/ and "
            "test/CLASS/ with images"
        ) from error
    finally:
        socket.setdefaulttimeout(waited)


def _folders_of_torchvision(folder: Path) -> list[Path]:
    """Those two levels below a folder, such as MNIST/raw, and those one level below."""
    return [path for pattern in ("*/*", "*") for path in folder.glob(pattern) if path.is_dir()]
