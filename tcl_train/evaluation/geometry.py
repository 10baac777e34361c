"""How features lie in space.

N: rows; D: dimensions; K: classes; C, S: channels and side of views; n: images of the sample.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from tcl_train.evaluation.features import BATCH_SIZE, frozen
from tcl_train.evaluation.measure import Evaluated
from tcl_train.runtime.randomness import generator

RANKME_EPSILON = 1e-7
CHUNK = 2048


def geometry(of: Evaluated) -> Iterator[tuple[str, Any]]:
    """The four measures below of the frozen encoder's features of the test split. `alignment` is
    that of two augmented views of each image of the sample."""
    x_ND, y_N = of.test
    u_nD, v_nD = _features_of_two_views(of)
    yield (
        "geometry",
        {
            "alignment": alignment(u_nD, v_nD),
            "uniformity": uniformity(x_ND),
            "tolerance": tolerance(x_ND, y_N),
            "rankme": rankme(x_ND),
        },
    )
    yield (
        "geometry_protocol",
        f"frozen features of {len(x_ND)} test images, all pairs, normalised but for RankMe; "
        f"alignment of two augmented views of {len(u_nD)} of them",
    )


def _features_of_two_views(of: Evaluated) -> list[Tensor]:
    given = of.given
    parts = []
    with frozen(given.encoder):
        for number, images_BCHW in enumerate(of.sample_nCHW.split(BATCH_SIZE)):
            g = generator(given.seed, "alignment", number)
            views_NCSS = given.augment(images_BCHW, views=2, generator=g)
            with given.runtime.autocast():
                parts.append(given.encoder(views_NCSS).float().unflatten(0, (2, -1)))
    return list(torch.cat(parts, 1))


@torch.no_grad()
def alignment(x_ND: Tensor, y_ND: Tensor) -> float:
    """Mean of |u - v|^2 over pairs of normalised rows that belong together, row i of x with row i
    of y: from 0, where they are equal, to 4. Source: Wang and Isola 2020, section 4.1, alpha 2."""
    return (F.normalize(x_ND.float()) - F.normalize(y_ND.float())).square().sum(1).mean().item()


@torch.no_grad()
def uniformity(x_ND: Tensor) -> float:
    """log of the mean of e^{-2 |u - v|^2} over all pairs of different normalised rows; 0 where all
    are equal, lower the more evenly they are spread. Source: Wang and Isola 2020, equation 4.

    Memory linear in the rows: pairs are taken block by block, and each once.
    """
    unit_ND = F.normalize(x_ND.float())
    n = len(unit_ND)
    if n < 2:
        return 0.0
    total = 0.0
    parts = unit_ND.split(CHUNK)
    for i, part_ND in enumerate(parts):
        own_MM = _kernel(part_ND, part_ND)
        total += (own_MM.sum() - own_MM.diagonal().sum()).item()
        total += sum(2 * _kernel(part_ND, other_ND).sum().item() for other_ND in parts[i + 1 :])
    return math.log(total / (n * (n - 1)))


def _kernel(u_ND: Tensor, v_MD: Tensor) -> Tensor:
    """e^{-2 |u - v|^2} of all pairs of unit rows, (N, M)."""
    return (u_ND @ v_MD.T).mul_(4).sub_(4).exp_()


@torch.no_grad()
def tolerance(x_ND: Tensor, y_N: Tensor) -> float | None:
    """Mean of u . v over all pairs of different normalised rows of one class, from -1 to 1; None
    where no class has two rows. Source: Wang and Liu 2021, equation 11.

    The dot products of all pairs of a class are the square of the sum of its rows: time and memory
    are linear in the rows.
    """
    unit_ND = F.normalize(x_ND.float())
    count_K = torch.bincount(y_N)
    pairs = (count_K * (count_K - 1)).sum().item()
    if not pairs:
        return None
    sum_KD = unit_ND.new_zeros(len(count_K), unit_ND.shape[1]).index_add_(0, y_N, unit_ND)
    return (sum_KD.square().sum() - unit_ND.square().sum()).item() / pairs


@torch.no_grad()
def rankme(x_ND: Tensor) -> float:
    """The effective rank of the rows, from 1 to min(N, D): exp of the entropy of the singular
    values, each divided by their sum, plus 1e-7. Rows are neither centred nor normalised.

    It compares runs of one method only. Source: Garrido et al. 2023, equation 1, there of 25,600
    rows.
    """
    singular = torch.linalg.svdvals(x_ND.float())
    share = singular / singular.sum() + RANKME_EPSILON
    return (-(share * share.log()).sum()).exp().item()
