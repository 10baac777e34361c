"""Weighted nearest-neighbour classification by cosine similarity.

N: test rows; M: training rows; D: features; K: classes; J: neighbours; G: groups of training rows.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from tcl_train import checks
from tcl_train.evaluation.features import Features, accuracy
from tcl_train.evaluation.measure import Evaluated

NEIGHBOURS = 20
TEMPERATURE = 0.07
CHUNK = 1024
SMALLEST_GROUP = 8  # of columns, for grouping them to be of use


class KNN:
    """The measure `knn_top1`, in percent of the test split.

    k: neighbours; of several numbers each is measured, and the first is that of `knn_top1`.
    temperature: see :func:`knn_scores`.
    """

    def __init__(
        self, k: int | Sequence[int] = NEIGHBOURS, temperature: float = TEMPERATURE
    ) -> None:
        given = [k] if isinstance(k, int) else checks.several("knn.k", k, what="whole numbers")
        several = [checks.integer("knn.k", value, at_least=1) for value in given]
        self.k = list(dict.fromkeys(several))
        self.temperature = checks.number("knn.temperature", temperature, above=0)

    def __call__(self, of: Evaluated) -> Iterator[tuple[str, Any]]:
        score_by_k = knn_scores_by_k(
            of.given.train,
            of.test.x_ND,
            num_classes=of.given.num_classes,
            k=self.k,
            temperature=self.temperature,
        )
        top1_by_k = {str(k): accuracy(score_NK, of.test.y_N) for k, score_NK in score_by_k.items()}
        yield "knn_top1", top1_by_k[str(self.k[0])]
        protocol = {"k": self.k[0], "temperature": self.temperature, "similarity": "cosine"}
        yield "knn", protocol if len(self.k) == 1 else {**protocol, "top1_by_k": top1_by_k}


def knn_scores_by_k(
    train: Features, x_ND: Tensor, *, num_classes: int, k: Sequence[int], temperature: float
) -> dict[int, Tensor]:
    """Scores (N, K) for each number of neighbours: each of the nearest training rows votes for its
    class with e^{s/temperature}, s its cosine similarity. Source: Wu et al. 2018, section 3.4.

    The neighbours are exact: all training rows are compared. Fewer than k all vote.
    """
    reference_MD = F.normalize(train.x_ND)
    neighbours = min(max(k), len(reference_MD))
    scores: dict[int, list[Tensor]] = {of: [] for of in k}
    for chunk_ND in F.normalize(x_ND).split(CHUNK):
        similarity_NJ, nearest_NJ = largest(chunk_ND @ reference_MD.T, neighbours)
        # Measured from the nearest, so that a small temperature does not overflow.
        vote_NJ = ((similarity_NJ - similarity_NJ[:, :1]) / temperature).exp()
        class_NJ = train.y_N[nearest_NJ]
        for of, parts in scores.items():
            score_NK = vote_NJ.new_zeros(len(chunk_ND), num_classes)
            parts.append(score_NK.scatter_add_(1, class_NJ[:, :of], vote_NJ[:, :of]))
    return {of: torch.cat(parts) for of, parts in scores.items()}


def largest(x_NM: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The largest values of each row in falling order, and their places, both (N, count): what topk
    gives, in a quarter of the time where there are many columns and few are wanted.

    The columns are dealt out to G groups. A value is among the largest only if its group's maximum
    is, so that they lie in the `count` groups with the largest maxima.
    """
    columns = x_NM.shape[1]
    in_group = math.isqrt(columns // count)  # so that there are about as many groups as candidates
    groups = columns // in_group
    if in_group < SMALLEST_GROUP:
        values_NJ, places_NJ = x_NM.topk(count, dim=1)
        return values_NJ, places_NJ
    dealt = in_group * groups
    maximum_NG = x_NM[:, :dealt].unflatten(1, (in_group, groups)).amax(1)
    group_NJ1 = maximum_NG.topk(count, dim=1, sorted=False).indices[:, :, None]
    steps_S = torch.arange(in_group, device=x_NM.device) * groups
    rest_R = torch.arange(dealt, columns, device=x_NM.device).expand(len(x_NM), -1)
    candidate_NC = torch.cat([(group_NJ1 + steps_S).flatten(1), rest_R], 1)
    values_NJ, chosen_NJ = x_NM.gather(1, candidate_NC).topk(count, dim=1)
    return values_NJ, candidate_NC.gather(1, chosen_NJ)


def knn_scores(
    train: Features,
    x_ND: Tensor,
    *,
    num_classes: int,
    neighbours: int = NEIGHBOURS,
    temperature: float = TEMPERATURE,
) -> Tensor:
    """:func:`knn_scores_by_k` of one number of neighbours."""
    by_k = knn_scores_by_k(
        train, x_ND, num_classes=num_classes, k=[neighbours], temperature=temperature
    )
    return by_k[neighbours]


def knn_top1(train: Features, test: Features, *, num_classes: int) -> float:
    """Accuracy on the test rows, in percent."""
    return accuracy(knn_scores(train, test.x_ND, num_classes=num_classes), test.y_N)
