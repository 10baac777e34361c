"""A small data set whose classes a linear probe can tell apart, and an encoder for it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from tcl_train.data.augment import Augment
from tcl_train.data.augment.geometry import HorizontalFlip
from tcl_train.data.dataset import DataSet, Split
from tcl_train.data.images import ArrayImages
from tcl_train.data.normalize import Normalize
from tcl_train.evaluation.features import Features, extract
from tcl_train.evaluation.probe import ProbeInput
from tcl_train.runtime.device import Runtime

CLASSES = 3


@pytest.fixture
def runtime() -> Runtime:
    return Runtime(device="cpu", precision="fp32", compile=False)


def _images(count: int, seed: int) -> Split:
    """Class k is brightest in channel k; noise makes some of it ambiguous."""
    g = torch.Generator().manual_seed(seed)
    labels_N = torch.arange(count) % CLASSES
    images_NCHW = torch.randint(0, 160, (count, 3, 6, 6), generator=g)
    images_NCHW += 40 * torch.eye(3, dtype=torch.long)[labels_N][:, :, None, None]
    return Split(ArrayImages(images_NCHW.to(torch.uint8)), labels_N)


@pytest.fixture
def data() -> DataSet:
    train, test = _images(240, seed=1), _images(90, seed=2)
    return DataSet(
        pretrain=train,
        train=train,
        test=test,
        classes=tuple("abc"),
        image_size=6,
        mean=(0.35, 0.35, 0.35),
        std=(0.2, 0.2, 0.2),
    )


@pytest.fixture
def augment(data: DataSet) -> Augment:
    normalize = Normalize(size=data.image_size, mean=data.mean, std=data.std)
    return Augment({"flip": HorizontalFlip()}, normalize)


@pytest.fixture
def encoder() -> nn.Module:
    """With batch norm, whose statistics a careless probe would change."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
        )


@pytest.fixture
def make_features() -> Callable[..., Features]:
    def make(count: int, dim: int = 5, classes: int = CLASSES, seed: int = 0) -> Features:
        g = torch.Generator().manual_seed(seed)
        centres_KD = torch.randn(classes, dim, generator=torch.Generator().manual_seed(99))
        y_N = torch.randint(classes, (count,), generator=g)
        x_ND: Tensor = centres_KD[y_N] + torch.randn(count, dim, generator=g)
        return Features(x_ND, y_N)

    return make


@pytest.fixture
def given(data: DataSet, augment: Augment, encoder: nn.Module, runtime: Runtime) -> ProbeInput:
    """What a probe is given: the encoder's features of the training images, and those images."""
    assert data.train is not None
    return ProbeInput(
        encoder=encoder,
        train=extract(encoder, data.train, augment.normalize, runtime),
        train_split=data.train,
        num_classes=CLASSES,
        augment=augment,
        runtime=runtime,
        seed=1,
        batch_size=32,
    )
