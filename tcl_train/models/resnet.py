"""ResNet encoders: torchvision's wide family, and the thin CIFAR family of He et al. 2016.

An encoder is a module (N, 3, H, W) -> (N, feature_dim) with an attribute `feature_dim`. The wide
ones are torchvision's own classes with another stem and without the classifier, so that their
state dicts have torchvision's keys.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch.nn.functional as F
from torch import Tensor, nn

from tcl_train import checks
from tcl_train.models.encoder import Architecture, Encoder
from tcl_train.models.norm import norm_layer
from tcl_train.models.stem import build_stem, choose_stem

NormLayer = Callable[[int], nn.Module]


def initialise(module: nn.Module) -> None:
    """He initialisation by fan-out, as torchvision does."""
    for part in module.modules():
        if isinstance(part, nn.Conv2d):
            nn.init.kaiming_normal_(part.weight, mode="fan_out", nonlinearity="relu")


# ------------------------------------------------------------------ the wide family


def wide_resnet(name: str, image_size: int, *, stem: str = "auto", norm: str = "batch") -> Encoder:
    """torchvision's ResNet of this name: 512 features (18, 34) or 2,048 (50, 101).

    image_size: the side of the images in pixels. stem: see :mod:`tcl_train.models.stem`. norm: see
    :func:`tcl_train.models.norm.norm_layer`.

    Raises:
        ValueError: there is no such stem or norm.
    """
    from torchvision.models import resnet  # takes two seconds; the thin family does without it

    stem = choose_stem(stem, image_size)
    encoder = getattr(resnet, name)(num_classes=1, norm_layer=norm_layer(norm))
    encoder.feature_dim = encoder.fc.in_features
    encoder.fc = nn.Identity()
    if stem != "imagenet":
        channels = encoder.conv1.out_channels
        encoder.conv1, encoder.bn1, encoder.maxpool = build_stem(
            stem, image_size, channels, norm=norm
        )
        initialise(encoder.conv1)
    encoder.architecture = Architecture("torchvision", name, stem, norm)
    return encoder


resnet18 = partial(wide_resnet, "resnet18")
resnet34 = partial(wide_resnet, "resnet34")
resnet50 = partial(wide_resnet, "resnet50")
resnet101 = partial(wide_resnet, "resnet101")


# ------------------------------------------------------------------ the thin family


class PaddedShortcut(nn.Module):
    """The parameter-free shortcut (option A): every second pixel, new channels are zeros."""

    def __init__(self, extra_channels: int) -> None:
        super().__init__()
        self.extra_channels = extra_channels

    def forward(self, x_NCHW: Tensor) -> Tensor:
        return F.pad(x_NCHW[:, :, ::2, ::2], (0, 0, 0, 0, 0, self.extra_channels))


class PooledShortcut(nn.Sequential):
    """The mean of 2 x 2 pixels, then a 1x1 convolution and its normalisation: it uses
    every pixel, unlike a 1x1 convolution with stride 2. He et al. 2019, "Bag of Tricks"
    (ResNet-D)."""

    def __init__(self, in_channels: int, channels: int, norm: NormLayer) -> None:
        super().__init__(
            nn.AvgPool2d(2, ceil_mode=True),
            nn.Conv2d(in_channels, channels, 1, bias=False),
            norm(channels),
        )


SHORTCUTS = ("pad", "pool")


class ThinBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut; names are those of torchvision's basic block."""

    def __init__(
        self,
        in_channels: int,
        channels: int,
        norm: NormLayer,
        stride: int = 1,
        downsample: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, padding=1, bias=False)
        self.bn1 = norm(channels)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = norm(channels)
        self.downsample = downsample

    def forward(self, x_NCHW: Tensor) -> Tensor:
        shortcut_NCHW = x_NCHW if self.downsample is None else self.downsample(x_NCHW)
        h_NCHW = self.relu(self.bn1(self.conv1(x_NCHW)))
        return self.relu(self.bn2(self.conv2(h_NCHW)) + shortcut_NCHW)


class Widening(nn.Sequential):
    """A 1x1 convolution to so many channels, its normalisation and a ReLU: where images have become
    small it costs little, and a linear probe sees as many features. MobileNetV2 (Sandler et al.
    2018) ends so."""

    def __init__(self, in_channels: int, channels: int, norm: NormLayer) -> None:
        super().__init__(
            nn.Conv2d(in_channels, channels, 1, bias=False),
            norm(channels),
            nn.ReLU(inplace=True),
        )


class ThinResNet(Encoder):
    """6n + 2 layers: a stem, three stages of n basic blocks with `width`, 2 `width` and 4 `width`
    channels, and a global mean. Source: He et al. 2016, section 4.2.

    image_size: the side of the images in pixels. stem: see :mod:`tcl_train.models.stem`.
    shortcut: the shortcut into the second and the third stage, `pad` (:class:`PaddedShortcut`, as
    published) or `pool` (:class:`PooledShortcut`).
    feature_dim: with a number, a :class:`Widening` to so many channels comes before the mean; None:
    4 `width` features, as published.
    norm: see :func:`tcl_train.models.norm.norm_layer`.
    """

    def __init__(
        self,
        depth: int,
        image_size: int,
        *,
        stem: str = "auto",
        width: int = 16,
        shortcut: str = "pad",
        feature_dim: int | None = None,
        norm: str = "batch",
    ) -> None:
        super().__init__()
        checks.integer("width", width, at_least=1)
        self.norm_layer = norm_layer(norm)
        checks.one_of("shortcut", shortcut, SHORTCUTS)
        self.shortcut = shortcut
        if feature_dim is not None:
            checks.integer("feature_dim (or null)", feature_dim, at_least=1)
        self.feature_dim = feature_dim or 4 * width
        self.conv1, self.bn1, self.maxpool = build_stem(stem, image_size, width, norm=norm)
        self.relu = nn.ReLU(inplace=True)
        blocks = (depth - 2) // 6
        self.layer1 = self._stage(width, width, blocks, stride=1)
        self.layer2 = self._stage(width, 2 * width, blocks, stride=2)
        self.layer3 = self._stage(2 * width, 4 * width, blocks, stride=2)
        self.widen: nn.Module = nn.Identity()
        if feature_dim is not None:
            self.widen = Widening(4 * width, feature_dim, self.norm_layer)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        initialise(self)
        name = f"resnet{depth}"
        self.architecture = Architecture("tcl_train", name, choose_stem(stem, image_size), norm)

    def _stage(self, in_channels: int, channels: int, blocks: int, *, stride: int) -> nn.Sequential:
        shortcut: nn.Module | None = None
        if stride != 1 and self.shortcut == "pool":
            shortcut = PooledShortcut(in_channels, channels, self.norm_layer)
        elif stride != 1:
            shortcut = PaddedShortcut(channels - in_channels)
        first = ThinBlock(in_channels, channels, self.norm_layer, stride, shortcut)
        rest = [ThinBlock(channels, channels, self.norm_layer) for _ in range(blocks - 1)]
        return nn.Sequential(first, *rest)

    def forward(self, x_NCHW: Tensor) -> Tensor:
        x_NCHW = self.maxpool(self.relu(self.bn1(self.conv1(x_NCHW))))
        x_NCHW = self.layer3(self.layer2(self.layer1(x_NCHW)))
        return self.avgpool(self.widen(x_NCHW)).flatten(1)


resnet8 = partial(ThinResNet, 8)
resnet20 = partial(ThinResNet, 20)
resnet32 = partial(ThinResNet, 32)
resnet56 = partial(ThinResNet, 56)
