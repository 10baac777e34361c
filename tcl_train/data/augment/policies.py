"""AutoAugment, RandAugment and TrivialAugment: a few random operations per image. Operations,
strengths, learned policies and probabilities equal torchvision's. Images are uint8, and each
operation is carried out on all images that drew it at once.

N: images; K: operations an image, one after the other; P: policies of a data set.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache

import numpy as np
import torch
from torch import Tensor

from tcl_train import checks
from tcl_train.data.augment import levels
from tcl_train.data.augment.blur import sharpness
from tcl_train.data.augment.geometry import affine
from tcl_train.data.augment.layer import apply_layers, layer_numbers
from tcl_train.data.augment.transform import (
    Parameters,
    Transform,
    apply_by_group,
    as_levels,
    as_uint8,
    to_numpy,
)

# What an operation does to images, given a magnitude an image; those without are affine maps.
OPERATIONS: dict[str, Callable[[Tensor, Tensor], Tensor] | None] = {
    "Identity": None,
    "ShearX": None,
    "ShearY": None,
    "TranslateX": None,
    "TranslateY": None,
    "Rotate": None,
    "Brightness": levels.brightness,
    "Color": levels.saturation,
    "Contrast": levels.contrast,
    "Sharpness": sharpness,
    "Posterize": levels.posterize,
    "Solarize": levels.solarize,
    "AutoContrast": levels.autocontrast,
    "Equalize": levels.equalize,
    "Invert": levels.invert,
}
NAMES = list(OPERATIONS)
AFFINE = ("ShearX", "ShearY", "TranslateX", "TranslateY", "Rotate")
FACTORS = ("Brightness", "Color", "Contrast", "Sharpness")  # of 1 + magnitude
RANDOM_SIGN = (*AFFINE, *FACTORS)
LEARNED = ("cifar10", "imagenet", "svhn")
CHOICES = [name for name in NAMES if name != "Invert"]  # RandAugment and TrivialAugment lack it


def magnitudes(name: str, bins: int, height: int, width: int, *, wide: bool = False) -> Tensor:
    """An operation's magnitudes from the weakest to the strongest, of images of this size: a share
    (shears), pixels, degrees, what is added to a factor of 1, bits that stay, or a level.

    wide: TrivialAugment's larger ranges, in which translations do not depend on the size.
    """
    if name == "Posterize":
        lost = torch.arange(bins) / ((bins - 1) / (6 if wide else 4))
        return 8 - lost.round()
    ends = {
        "ShearX": (0, 0.99 if wide else 0.3),
        "ShearY": (0, 0.99 if wide else 0.3),
        "TranslateX": (0, 32 if wide else 150 / 331 * width),
        "TranslateY": (0, 32 if wide else 150 / 331 * height),
        "Rotate": (0, 135 if wide else 30),
        "Solarize": (255, 0),
        **dict.fromkeys(FACTORS, (0, 0.99 if wide else 0.9)),
    }
    low, high = ends.get(name, (0, 0))
    return torch.linspace(low, high, bins)


@cache
def magnitude_table(bins: int, height: int, width: int, *, wide: bool = False) -> Tensor:
    """The magnitudes of all operations, (O, bins) in the order of NAMES: the same at each step."""
    return torch.stack([magnitudes(name, bins, height, width, wide=wide) for name in NAMES])


class _Policy(Transform):
    """Parameters: `operation` (N, K), places in NAMES, and `magnitude` (N, K)."""

    def apply(self, x_NCHW: Tensor, parameters: Parameters, size: int) -> Tensor:  # noqa: ARG002
        x_NCHW = as_uint8(x_NCHW)
        operation_NK = to_numpy(parameters["operation"])
        magnitude_NK = to_numpy(parameters["magnitude"])
        for operation_N, magnitude_N in zip(operation_NK.T, magnitude_NK.T, strict=True):
            x_NCHW = apply_operations(x_NCHW, operation_N, magnitude_N)
        return x_NCHW

    def columns(self, parameters: Parameters, height: int, width: int, size: int) -> Parameters:  # noqa: ARG002
        operation_NK = to_numpy(parameters["operation"])
        magnitude_NK = to_numpy(parameters["magnitude"])
        layers = []
        for operation_N, magnitude_N in zip(operation_NK.T, magnitude_NK.T, strict=True):
            matrix_N23 = affine_matrices(operation_N, magnitude_N, height, width)
            name_N = np.array(NAMES)[operation_N]
            layers.append(layer_numbers(name_N, magnitude_N, matrix_N23, height, width))
        return {"layers": torch.stack(layers, 1)}

    def apply_static(self, x_NCHW: Tensor, columns: Parameters, size: int) -> Tensor:  # noqa: ARG002
        return apply_layers(as_levels(x_NCHW), columns["layers"]).to(torch.uint8)


def apply_operations(x_NCHW: Tensor, operation_N: np.ndarray, magnitude_N: np.ndarray) -> Tensor:
    """Applies one operation per image, given by its index in NAMES, with its magnitude."""
    is_affine_N = np.isin(operation_N, [NAMES.index(name) for name in AFFINE])
    matrix_N23 = affine_matrices(operation_N, magnitude_N, *x_NCHW.shape[2:])
    # All affine operations form one group: one operation with a matrix per image.
    group_N = np.where(is_affine_N, len(NAMES), operation_N)
    functions: list[Callable[..., Tensor] | None] = [
        None if function is None else _without_matrix(function) for function in OPERATIONS.values()
    ]
    functions.append(lambda x_MCHW, _, matrix_M23: affine(x_MCHW, matrix_M23))
    value_N = torch.from_numpy(magnitude_N.astype(np.float32))
    return apply_by_group(x_NCHW, group_N, functions, value_N, torch.from_numpy(matrix_N23))


def _without_matrix(function: Callable[[Tensor, Tensor], Tensor]) -> Callable[..., Tensor]:
    return lambda x_MCHW, magnitude_M, _: function(x_MCHW, magnitude_M)


def affine_matrices(
    operation_N: np.ndarray, magnitude_N: np.ndarray, height: int, width: int
) -> np.ndarray:
    """From output to input pixels, counted from the centre (x to the right, y down): float32
    (N, 2, 3), the identity for operations that are not affine. As torchvision, shears leave the
    image's first row or column where it is, and translations are by whole pixels."""
    amount_AN = {name: magnitude_N * (operation_N == NAMES.index(name)) for name in AFFINE}
    turn_N = np.deg2rad(amount_AN["Rotate"])
    cos_N, sin_N = np.cos(turn_N), np.sin(turn_N)
    shear_x_N, shear_y_N = amount_AN["ShearX"], amount_AN["ShearY"]
    right_N, down_N = np.trunc(amount_AN["TranslateX"]), np.trunc(amount_AN["TranslateY"])
    rows = [
        [cos_N, shear_x_N - sin_N, shear_x_N * height / 2 - right_N],
        [shear_y_N + sin_N, cos_N, shear_y_N * width / 2 - down_N],
    ]
    return np.array(rows).transpose(2, 0, 1).astype(np.float32)


def random_sign(operation_NK: Tensor, negative_NK: Tensor) -> Tensor:
    """-1 where `negative` and the operation is signed, else 1."""
    has_sign = torch.tensor([name in RANDOM_SIGN for name in NAMES])
    return torch.where(has_sign[operation_NK] & negative_NK, -1.0, 1.0)


class AutoAugment(_Policy):
    """A policy learned for a data set: `cifar10`, `imagenet` or `svhn`. Cubuk et al. 2019.

    A policy has 25 pairs of operations, one of which is drawn for an image; each operation of the
    pair has its magnitude, and its probability of being carried out.
    """

    BINS = 10

    def __init__(self, policy: str = "cifar10") -> None:
        self.policy = checks.one_of("policy", policy, LEARNED)
        from torchvision import transforms  # which takes a second to load

        pairs = transforms.AutoAugment(transforms.AutoAugmentPolicy(policy)).policies
        self.operation_P2 = torch.tensor([[NAMES.index(o) for o, _, _ in pair] for pair in pairs])
        self.p_P2 = torch.tensor([[p for _, p, _ in pair] for pair in pairs])
        self.bin_P2 = torch.tensor([[b or 0 for _, _, b in pair] for pair in pairs])

    def draw(self, count: int, height: int, width: int, g: torch.Generator) -> Parameters:
        magnitude_OB = magnitude_table(self.BINS, height, width)
        pair_N = torch.randint(len(self.p_P2), (count,), generator=g)
        operation_N2 = self.operation_P2[pair_N]
        magnitude_N2 = magnitude_OB[operation_N2, self.bin_P2[pair_N]]
        carried_out_N2 = torch.rand(count, 2, generator=g) <= self.p_P2[pair_N]
        negative_N2 = torch.randint(2, (count, 2), generator=g) == 0
        return {
            "operation": torch.where(carried_out_N2, operation_N2, NAMES.index("Identity")),
            "magnitude": magnitude_N2 * random_sign(operation_N2, negative_N2) * carried_out_N2,
        }


def check_operations(operations: Sequence[str] | None) -> list[str]:
    """The names of the operations to draw from; None: all but Invert, as published."""
    if operations is None:
        return CHOICES
    listed = checks.several("operations", operations, what=f"of {', '.join(NAMES)}")
    return [checks.one_of("operations", name, NAMES) for name in listed]


class RandAugment(_Policy):
    """`num_ops` random operations of strength `magnitude` (of 0 to 30). Cubuk et al. 2020.

    operations: the names of those to draw from; None: the published 14.
    """

    BINS = 31

    def __init__(
        self, num_ops: int = 2, magnitude: int = 14, operations: Sequence[str] | None = None
    ) -> None:
        self.num_ops = checks.integer("num_ops", num_ops, at_least=1)
        self.magnitude = checks.integer("magnitude", magnitude, at_least=0)
        checks.number("magnitude", magnitude, at_most=self.BINS - 1)
        self.operations = check_operations(operations)

    def draw(self, count: int, height: int, width: int, g: torch.Generator) -> Parameters:
        magnitude_OB = magnitude_table(self.BINS, height, width)
        places_O = torch.tensor([NAMES.index(name) for name in self.operations])
        shape = (count, self.num_ops)
        operation_NK = places_O[torch.randint(len(places_O), shape, generator=g)]
        negative_NK = torch.randint(2, shape, generator=g) == 1
        sign_NK = random_sign(operation_NK, negative_NK)
        return {
            "operation": operation_NK,
            "magnitude": magnitude_OB[operation_NK, self.magnitude] * sign_NK,
        }


class TrivialAugment(_Policy):
    """One random operation of random strength, from wide ranges. Müller and Hutter 2021
    (TrivialAugmentWide in torchvision).

    operations: the names of those to draw from; None: the published 14.
    """

    BINS = 31

    def __init__(self, operations: Sequence[str] | None = None) -> None:
        self.operations = check_operations(operations)

    def draw(self, count: int, height: int, width: int, g: torch.Generator) -> Parameters:
        magnitude_OB = magnitude_table(self.BINS, height, width, wide=True)
        places_O = torch.tensor([NAMES.index(name) for name in self.operations])
        operation_N1 = places_O[torch.randint(len(places_O), (count, 1), generator=g)]
        bin_N1 = torch.randint(self.BINS, (count, 1), generator=g)
        negative_N1 = torch.randint(2, (count, 1), generator=g) == 1
        sign_N1 = random_sign(operation_N1, negative_N1)
        return {
            "operation": operation_N1,
            "magnitude": magnitude_OB[operation_N1, bin_N1] * sign_N1,
        }
