"""What an encoder is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from torch import nn


class Architecture(NamedTuple):
    """Whose network an encoder is, so that its weights fit there: of the package `torchvision`,
    `timm` or `tcl_train`, by the name that it has in it. stem: see
    :mod:`tcl_train.models.stem`; `imagenet` is the package's own. norm: see
    :func:`tcl_train.models.norm.norm_layer`. arguments: further ones of the package's function.
    """

    package: str
    name: str
    stem: str
    norm: str = "batch"
    arguments: Mapping[str, Any] | None = None


class Encoder(nn.Module):
    """A module (N, 3, H, W) -> (N, feature_dim).

    feature_dim: the number of features. architecture: see :class:`Architecture`; encoders of other
    packages may lack it. mean, std: of the channels of the images it was trained on; image_size:
    their side in pixels; classes: their names. `load_encoder` sets the last four.

    A type for annotations; torchvision's ResNets with these attributes satisfy it.
    """

    feature_dim: int
    architecture: Architecture
    image_size: int
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
