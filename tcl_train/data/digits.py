"""The embedded default data set."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from tcl_train.data.dataset import DataSet, ReadOptions, Split
from tcl_train.data.folder import image_folder
from tcl_train.data.images import ArrayImages, resized
from tcl_train.data.statistics import channel_statistics

TEST_SHARE = 0.2
SPLIT_SEED = 0  # of the one fixed split, the same for every run


def digits(
    root: str | None = None,
    *,
    options: ReadOptions,
    image_size: int = 8,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> DataSet:
    """scikit-learn's 1,797 hand-written digits of 8 x 8 pixels, which come with the library.

    A fifth (360 images) is the test split; each class has the same share in both. The split is
    by image, not by writer. Image folders are read instead where `root` is given.
    """
    if root is not None:
        return image_folder(root, options=options, image_size=image_size, mean=mean, std=std)
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    bunch = load_digits()
    images_NCHW = torch.from_numpy((bunch.images * (255 / 16)).round().astype(np.uint8))[:, None]
    images_NCHW = resized(images_NCHW, image_size)
    labels_N = torch.from_numpy(bunch.target.astype(np.int64))
    train_N, test_N = train_test_split(
        np.arange(len(labels_N)),
        test_size=TEST_SHARE,
        random_state=SPLIT_SEED,
        stratify=labels_N.numpy(),
    )
    train = Split(ArrayImages(images_NCHW[train_N]), labels_N[train_N])
    test = Split(ArrayImages(images_NCHW[test_N]), labels_N[test_N])
    measured_mean, measured_std = channel_statistics(train.images)
    return DataSet(
        pretrain=train,
        train=train,
        test=test,
        classes=tuple(map(str, bunch.target_names)),
        image_size=image_size,
        mean=measured_mean if mean is None else mean,
        std=measured_std if std is None else std,
    )
