"""Weighted nearest-neighbour classification by cosine similarity.

N: test rows; M: training rows; D: features; K: classes; J: neighbours.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from tcl_train.evaluation.features import Features, accuracy

NEIGHBOURS = 20
TEMPERATURE = 0.07
CHUNK = 1024


def knn_scores(
    train: Features,
    x_ND: Tensor,
    *,
    num_classes: int,
    neighbours: int = NEIGHBOURS,
    temperature: float = TEMPERATURE,
) -> Tensor:
    """Scores (N, K): each of the nearest training rows votes for its class with e^{s/temperature},
    s its cosine similarity. Source: Wu et al. 2018, section 3.4.

    Fewer training rows than `neighbours` all vote.
    """
    reference_MD = F.normalize(train.x_ND)
    neighbours = min(neighbours, len(reference_MD))
    scores = []
    for chunk_ND in F.normalize(x_ND).split(CHUNK):
        similarity_NJ, nearest_NJ = (chunk_ND @ reference_MD.T).topk(neighbours, dim=1)
        # Measured from the nearest, so that a small temperature does not overflow.
        vote_NJ = ((similarity_NJ - similarity_NJ[:, :1]) / temperature).exp()
        score_NK = vote_NJ.new_zeros(len(chunk_ND), num_classes)
        scores.append(score_NK.scatter_add_(1, train.y_N[nearest_NJ], vote_NJ))
    return torch.cat(scores)


def knn_top1(train: Features, test: Features, *, num_classes: int) -> float:
    """Accuracy on the test rows, in percent."""
    return accuracy(knn_scores(train, test.x_ND, num_classes=num_classes), test.y_N)
