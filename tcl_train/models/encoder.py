"""What an encoder is."""

from __future__ import annotations

from torch import nn


class Encoder(nn.Module):
    """A module (N, 3, H, W) -> (N, feature_dim).

    feature_dim: the number of features. mean, std: of the channels of the images it was trained
    on, as `load_encoder` sets them.

    A type for annotations; torchvision's ResNets with these attributes satisfy it.
    """

    feature_dim: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
