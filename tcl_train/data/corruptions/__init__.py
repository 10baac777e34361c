"""The fifteen common corruptions of Hendrycks and Dietterich 2019, in five severities.

They are made from the descriptions in the paper, not with its code or its files, so that accuracies
on them compare encoders measured here, and not with published ones. Lengths are shares of the
image's side: an image of any size is corrupted alike.

N: images; C: channels; H, W: rows and columns.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from tcl_train.data.augment.transform import as_float, as_uint8
from tcl_train.data.corruptions.blur import defocus_blur, glass_blur, motion_blur, zoom_blur
from tcl_train.data.corruptions.digital import (
    contrast,
    elastic_transform,
    jpeg_compression,
    pixelate,
)
from tcl_train.data.corruptions.draws import Draws
from tcl_train.data.corruptions.noise import gaussian_noise, impulse_noise, shot_noise
from tcl_train.data.corruptions.weather import brightness, fog, frost, snow
from tcl_train.data.images import Images

SEVERITIES = (1, 2, 3, 4, 5)


class Corruption(NamedTuple):
    """A function of images (N, C, H, W) in [0, 1], a strength and draws; and the strength of each
    severity."""

    apply: Callable[[Tensor, float, Draws], Tensor]
    strengths: tuple[float, float, float, float, float]


CORRUPTIONS = {
    "gaussian_noise": Corruption(gaussian_noise, (0.08, 0.12, 0.18, 0.26, 0.38)),
    "shot_noise": Corruption(shot_noise, (60, 25, 12, 5, 3)),
    "impulse_noise": Corruption(impulse_noise, (0.03, 0.06, 0.09, 0.17, 0.27)),
    "defocus_blur": Corruption(defocus_blur, (0.015, 0.02, 0.028, 0.037, 0.047)),
    "glass_blur": Corruption(glass_blur, (0.008, 0.012, 0.017, 0.023, 0.03)),
    "motion_blur": Corruption(motion_blur, (0.05, 0.08, 0.11, 0.15, 0.2)),
    "zoom_blur": Corruption(zoom_blur, (1.11, 1.16, 1.21, 1.26, 1.33)),
    "snow": Corruption(snow, (0.05, 0.1, 0.15, 0.2, 0.27)),
    "frost": Corruption(frost, (0.35, 0.45, 0.55, 0.65, 0.75)),
    "fog": Corruption(fog, (0.35, 0.48, 0.6, 0.7, 0.8)),
    "brightness": Corruption(brightness, (0.1, 0.2, 0.3, 0.4, 0.5)),
    "contrast": Corruption(contrast, (0.4, 0.3, 0.2, 0.1, 0.05)),
    "elastic_transform": Corruption(elastic_transform, (0.01, 0.015, 0.02, 0.028, 0.037)),
    "pixelate": Corruption(pixelate, (0.6, 0.5, 0.4, 0.3, 0.25)),
    "jpeg_compression": Corruption(jpeg_compression, (25, 18, 15, 10, 7)),
}


def corrupted(
    images_NCHW: Tensor, kind: str, severity: int, *, seed: int, places: Sequence[int]
) -> Tensor:
    """uint8 images, corrupted. `places`, of the images in their split, decide all draws with the
    seed and the kind, so that an image is corrupted alike in any batch, and severities differ in
    strength alone."""
    function, strengths = CORRUPTIONS[kind]
    x_NCHW = as_float(images_NCHW)
    result_NCHW = function(x_NCHW, strengths[severity - 1], Draws(seed, kind, places))
    return as_uint8(result_NCHW.clamp(0, 1))


class CorruptedImages:
    """The images of a split, each corrupted when it is read. places: theirs in the split; None:
    these are all of them, in order."""

    def __init__(
        self, images: Images, kind: str, severity: int, seed: int, places_N: Tensor | None = None
    ) -> None:
        self.images = images
        self.kind, self.severity, self.seed = kind, severity, seed
        self.places_N = torch.arange(len(images)) if places_N is None else places_N

    def __len__(self) -> int:
        return len(self.images)

    def batches(self, index_batches: Sequence[Tensor], device: torch.device) -> Iterator[Tensor]:
        clean = self.images.batches(index_batches, device)
        for index_B, images_BCHW in zip(index_batches, clean, strict=True):
            places = self.places_N[index_B].tolist()
            yield corrupted(images_BCHW, self.kind, self.severity, seed=self.seed, places=places)

    def digest(self) -> str:
        return f"{self.images.digest()}-{self.kind}-{self.severity}-{self.seed}"

    def chosen(self, places_M: Tensor) -> CorruptedImages:
        chosen = self.images.chosen(places_M)
        places_M = self.places_N[places_M]
        return CorruptedImages(chosen, self.kind, self.severity, self.seed, places_M)
