"""The embedded default data set."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from tcl_train.data.dataset import DataSet, ReadOptions, Split
from tcl_train.data.folder import image_folder
from tcl_train.data.images import ArrayImages, resized
from tcl_train.data.statistics import channel_statistics

FILE = Path(__file__).with_name("digits.npz")
LARGEST_GREY = 16  # of the stored values


def digits(
    root: str | None = None,
    *,
    options: ReadOptions,
    image_size: int = 8,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> DataSet:
    """scikit-learn's 1,797 hand-written digits of 8 x 8 pixels, which are part of this package
    (scripts/make_digits.py).

    A fifth (360 images) is the test split; each class has the same share in both. The split is
    by image, not by writer. Image folders are read instead where `root` is given.

    Source: Alpaydin and Kaynak 1998, Optical Recognition of Handwritten Digits, UCI
    (CC BY 4.0).
    """
    if root is not None:
        return image_folder(root, options=options, image_size=image_size, mean=mean, std=std)
    with np.load(FILE) as file:
        stored = dict(file)
    grey_NHW = (stored["images_NHW"] * (255 / LARGEST_GREY)).round().astype(np.uint8)
    images_NCHW = resized(torch.from_numpy(grey_NHW)[:, None], image_size)
    labels_N = torch.from_numpy(stored["labels_N"].astype(np.int64))
    train, test = (
        Split(ArrayImages(images_NCHW[stored[name]]), labels_N[stored[name]])
        for name in ("train_N", "test_N")
    )
    measured_mean, measured_std = channel_statistics(train.images)
    return DataSet(
        pretrain=train,
        train=train,
        test=test,
        classes=tuple("0123456789"),
        image_size=image_size,
        mean=measured_mean if mean is None else mean,
        std=measured_std if std is None else std,
    )
