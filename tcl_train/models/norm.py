"""Normalisation layers of an encoder."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from tcl_train import checks

NORMS = ("batch", "group")
MOST_GROUPS = 32
FEWEST_CHANNELS = 4  # of a group


def norm_layer(name: str) -> Callable[[int], nn.Module]:
    """Makes a layer for so many channels: `batch` normalises over the images of a batch, `group`
    over groups of channels of one image, 32 groups where each has four channels or more (Wu and He
    2018), so that an image's features do not depend on the batch it is in."""
    checks.one_of("norm", name, NORMS)
    return nn.BatchNorm2d if name == "batch" else _group_norm


def _group_norm(channels: int) -> nn.GroupNorm:
    most = max(1, min(MOST_GROUPS, channels // FEWEST_CHANNELS))
    groups = next(groups for groups in range(most, 0, -1) if channels % groups == 0)
    return nn.GroupNorm(groups, channels)
