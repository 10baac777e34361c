"""Statistics of a batch's embeddings.

N: rows; D: embedding dimensions; K: distinct labels in the batch.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

COLLAPSED_SPREAD = 0.05
# On digits SwAV and DINO have an information of 0.03 or more where they learn, and 0.0001 to 0.0003
# where SwAV has collapsed; it has gone through 0.003, and 1.5 dimensions, and recovered.
COLLAPSED_INFORMATION = 0.001
COLLAPSED_DIMENSIONS = 1.2
NEAR_CHANCE = 0.01  # as a share of the chance level
SIMILARITY_BINS = 50
MOST_PAIRS = 2**20  # of a histogram


@torch.no_grad()
def embedding_statistics(rows_ND: Tensor, labels_N: Tensor) -> dict[str, Tensor]:
    """Scalars of the normalised rows:

    positive_similarity, negative_similarity: mean cosine over the pairs with the same label (a
    row and itself left out) and with different labels; NaN where there is no such pair.
    alignment: mean squared distance of the pairs with the same label (Wang and Isola 2020).
    embedding_spread: root mean square distance to the mean row; 0 when all rows are equal, 1
    when they are spread evenly over the sphere.
    anchors_without_positives: rows whose label no other row has; contrastive losses leave them out.

    Sums over pairs are taken from sums of rows, so the cost is linear in N.
    """
    unit_ND = F.normalize(rows_ND.detach().float())
    n = len(unit_ND)
    _, group_N, size_K = torch.unique(labels_N, return_inverse=True, return_counts=True)
    sum_KD = unit_ND.new_zeros(len(size_K), unit_ND.shape[1]).index_add_(0, group_N, unit_ND)
    # A zero row stays zero, so a row's product with itself is not always 1.
    itself = unit_ND.square().sum()
    within = sum_KD.square().sum()
    total = sum_KD.sum(0).square().sum()
    positives = size_K.square().sum() - n
    negatives = n * n - size_K.square().sum()
    # Where there is no pair, what is left of the sums is rounding: 0 / 0 is meant.
    positive_similarity = (within - itself) * (positives > 0) / positives
    return {
        "positive_similarity": positive_similarity,
        "negative_similarity": (total - within) * (negatives > 0) / negatives,
        "alignment": 2 - 2 * positive_similarity,
        "anchors_without_positives": (size_K == 1).sum(),
        "embedding_spread": (itself / n - total / n**2).clamp(min=0).sqrt(),
    }


@torch.no_grad()
def similarity_histograms(rows_ND: Tensor, labels_N: Tensor) -> dict[str, list[float]]:
    """How many pairs have which cosine: counts in SIMILARITY_BINS bins of equal width from -1 to 1,
    of positive_pairs (same label, a row and itself left out) and of negative_pairs.

    Of large batches evenly spaced rows are paired with all, at most MOST_PAIRS pairs. Waits for the
    device.
    """
    unit_ND = F.normalize(rows_ND.detach().float())
    n = len(unit_ND)
    some_I = torch.arange(0, n, -(-n * n // MOST_PAIRS), device=rows_ND.device)
    with torch.autocast(rows_ND.device.type, enabled=False):
        cosine_IN = (unit_ND[some_I] @ unit_ND.T).clamp(-1, 1)
    same_IN = labels_N[some_I, None] == labels_N
    itself_IN = some_I[:, None] == torch.arange(n, device=rows_ND.device)
    masks = {"positive_pairs": same_IN & ~itself_IN, "negative_pairs": ~same_IN}
    counts = [torch.histc(cosine_IN[mask], SIMILARITY_BINS, -1, 1) for mask in masks.values()]
    return dict(zip(masks, torch.stack(counts).tolist(), strict=True))


@torch.no_grad()
def effective_dimensions(rows_ND: Tensor) -> Tensor:
    """In how many directions the normalised rows vary: (sum of l)^2 / (sum of l^2) for the
    eigenvalues l of their covariance. 1 when they lie on a line, at most D; 0 when all are
    equal."""
    unit_ND = F.normalize(rows_ND.detach().float())
    centred_ND = unit_ND - unit_ND.mean(0)
    with torch.autocast(rows_ND.device.type, enabled=False):
        wide = centred_ND.shape[0] < centred_ND.shape[1]
        products = centred_ND @ centred_ND.T if wide else centred_ND.T @ centred_ND
    total = products.diagonal().sum()
    return total.square() / products.square().sum().clamp(min=torch.finfo(torch.float32).tiny)


def count_single(labels_N: Tensor) -> Tensor:
    """How many labels occur once."""
    _, size_K = torch.unique(labels_N, return_counts=True)
    return (size_K == 1).sum()


class Collapse(NamedTuple):
    """What the scalars of a step say, in words; `is_certain`: it will not recover."""

    words: str
    is_certain: bool


def find_collapse(scalars: Mapping[str, float], when_collapsed: str) -> Collapse | None:
    """Whether the embeddings have collapsed or nothing is learned. Scalars that a method does not
    have are not looked at.

    when_collapsed: what to do, for the method at hand.
    """
    anchors = scalars.get("anchors")
    if anchors is not None and scalars["anchors_without_positives"] == anchors:
        return Collapse(
            f"none of the {anchors:.0f} rows of the batch has a positive, so that "
            "nothing is trained; give views=2 or more, a larger batch_size or fewer classes",
            is_certain=True,
        )
    if scalars["embedding_spread"] < COLLAPSED_SPREAD:
        return Collapse(
            f"the embeddings have collapsed (spread {scalars['embedding_spread']:.4f} of 1): "
            f"all images look alike to the loss; {when_collapsed}",
            is_certain=True,
        )
    information = scalars.get("assignment_information")
    if information is not None and information < COLLAPSED_INFORMATION:
        return Collapse(
            f"all images are assigned to the prototypes alike (information {information:.4f} of 1):"
            f" they look alike to the loss; if it stays there, {when_collapsed}",
            is_certain=False,
        )
    dimensions = scalars.get("effective_dimensions")
    if dimensions is not None and dimensions < COLLAPSED_DIMENSIONS:
        return Collapse(
            f"the embeddings vary along one direction (effective dimensions {dimensions:.2f}): "
            f"if it stays there, {when_collapsed}",
            is_certain=False,
        )
    chance = scalars.get("chance_level")
    if chance is not None and abs(scalars["loss"] - chance) < NEAR_CHANCE * chance:
        return Collapse(
            f"the loss ({scalars['loss']:.4f}) is within 1 % of its chance level "
            f"({chance:.4f}): nothing is learned yet; if it stays there, {when_collapsed}",
            is_certain=False,
        )
    return None
