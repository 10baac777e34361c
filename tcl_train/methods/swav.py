"""SwAV: views predict to which prototypes the other views of an image are assigned.

B: images; V: views; K: prototypes; D: embedding dimensions; S: rows of the queue.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.profiler import record_function

from tcl_train import checks
from tcl_train.losses.pair_loss import normalize_rows
from tcl_train.methods.method import Embeddings, StepOutput, Views, by_view
from tcl_train.methods.prototypes import WithPrototypes, assignment_information
from tcl_train.methods.queue import Queue


@torch.no_grad()
def sinkhorn(
    score_NK: Tensor, *, epsilon: float, iterations: int, counts_N: Tensor | None = None
) -> Tensor:
    """Shares of the prototypes for each row: e^{score/epsilon}, scaled so that each row sums to 1
    and each prototype is used alike by the rows that count (all, without `counts_N`). Source: Caron
    et al. 2020, equations 3 to 5; computed with logarithms, so that no exponential overflows."""
    log_q_NK = score_NK / epsilon
    for _ in range(iterations):
        counting_NK = log_q_NK
        if counts_N is not None:
            counting_NK = log_q_NK.masked_fill(~counts_N[:, None], -math.inf)
        log_q_NK = log_q_NK - counting_NK.logsumexp(0)
        log_q_NK = log_q_NK - log_q_NK.logsumexp(1, keepdim=True)
    return log_q_NK.exp()


class SwAV(WithPrototypes):
    """Views of the first group are assigned to prototypes by :func:`sinkhorn` over the batch and a
    queue; every other view of the image predicts the assignment,

        -sum_k q_k log softmax(z . c / tau)_k,   the mean over images and pairs of views.

    Args:
        prototypes: how many. tau: temperature of the prediction.
        epsilon, iterations: of the assignment.
        queue: rows of earlier batches that are assigned, too; 0: none.
        queue_from, frozen_until: from, or until, which share of the run the queue is used, and the
            prototypes stay as they are.
    """

    def __init__(
        self,
        *,
        prototypes: int = 3000,
        tau: float = 0.1,
        epsilon: float = 0.05,
        iterations: int = 3,
        queue: int = 3840,
        queue_from: float = 0.0,
        frozen_until: float = 0.0,
        **parts: Any,
    ) -> None:
        super().__init__(prototypes=prototypes, tau=tau, frozen_until=frozen_until, **parts)
        self.epsilon = checks.number("epsilon", epsilon, above=0)
        self.iterations = checks.integer("iterations", iterations, at_least=1)
        checks.integer("queue", queue, at_least=0)
        self.queue_from = checks.number("queue_from", queue_from, at_least=0)
        self.queue = Queue(queue, self.projection_dim()) if queue else None
        self._rows: Tensor | None = None  # that join the queue after the update

    def embed(self, views: Views) -> Embeddings:
        large = {"large_MD": self.project(views[:1])}
        return large if len(views) == 1 else {**large, "small_ND": self.project(views[1:])}

    def compute_loss(self, embeddings: Embeddings, labels_B: Tensor, progress: float) -> StepOutput:
        z_ND, b = torch.cat([*embeddings.values()]), len(labels_B)
        large = len(embeddings["large_MD"]) // b
        with record_function("loss"):
            score_VBK = by_view(self.prototypes(z_ND), b)
            queued = self._queued_scores(progress)
            share_WBK = [self._assign(score_BK, queued) for score_BK in score_VBK[:large]]
            loss = self.prediction_loss(score_VBK, share_WBK)
        self._rows = normalize_rows(z_ND[: large * b].detach())
        told = assignment_information((score_VBK[0].detach() / self.tau).softmax(1))
        return self.output(loss, z_ND, b, {"assignment_information": told})

    @torch.no_grad()
    def _queued_scores(self, progress: float) -> tuple[Tensor, Tensor] | None:
        """Scores of the queue's rows, and which of them count; None where the queue is not used."""
        if self.queue is None or progress < self.queue_from:
            return None
        return self.prototypes(self.queue.rows_SD), self.queue.is_pushed_S()

    @torch.no_grad()
    def _assign(self, score_BK: Tensor, queued: tuple[Tensor, Tensor] | None) -> Tensor:
        score_NK, counts_N = score_BK, None
        if queued is not None:
            queued_SK, counts_S = queued
            score_NK = torch.cat([score_BK, queued_SK.to(score_BK.dtype)])
            counts_N = torch.cat([counts_S.new_ones(len(score_BK)), counts_S])
        share_NK = sinkhorn(
            score_NK, epsilon=self.epsilon, iterations=self.iterations, counts_N=counts_N
        )
        return share_NK[: len(score_BK)]

    @torch.no_grad()
    def after_update(self, progress: float) -> None:
        if progress >= self.frozen_until:
            self.prototypes.weight.copy_(normalize_rows(self.prototypes.weight))
        if self.queue is not None and self._rows is not None:
            self.queue.push(self._rows)
        self._rows = None
