"""MoCo v2: a queue of keys that a slowly changing encoder has made.

B: images; V: views; D: embedding dimensions; S: rows of the queue.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.profiler import record_function

from tcl_train import checks
from tcl_train.losses.pair_loss import (
    check_temperature,
    normalize_rows,
    row_products,
    similarities,
)
from tcl_train.methods.method import Embeddings, StepOutput, Views, by_view, each
from tcl_train.methods.progress import along_cosine
from tcl_train.methods.queue import Queue
from tcl_train.methods.self_supervised import SelfSupervised, mean_over_pairs
from tcl_train.methods.teacher import Teacher, check_momentum


def queue_contrast(query_BD: Tensor, key_BD: Tensor, queue_SD: Tensor, *, tau: float) -> Tensor:
    """Mean over the batch of

        -log( e^{q.k/tau} / ( e^{q.k/tau} + sum_s e^{q.n_s/tau} ) )

    for unit rows: a query q, its key k, and the rows n of the queue. Source: He et al. 2020,
    equation 1.
    """
    positive_B1 = row_products(query_BD, key_BD)[:, None]
    logit_BS = torch.cat([positive_B1, similarities(query_BD, queue_SD)], 1) / tau
    return (logit_BS.logsumexp(1) - logit_BS[:, 0]).mean()


class MoCoV2(SelfSupervised):
    """:func:`queue_contrast` between the views of an image, in both orders; keys come from a
    teacher and join the queue afterwards.

    Source: Chen et al. 2020, "Improved baselines with momentum contrastive learning". The authors
    shuffle rows between GPUs, so that a query does not find its key by the batch statistics that a
    GPU's rows share. Here statistics are those of the keys of all processes, as with one GPU in
    solo-learn, whose published CIFAR figures were so obtained; with own_statistics=False the
    teacher uses running ones (see :class:`Teacher`).

    Args:
        tau: temperature.
        queue: rows that are kept.
        momentum, momentum_end: of the teacher, at the beginning and at the end of the run.
        own_statistics: of the teacher's batch norms (see :class:`Teacher`). With running ones a key
            does not depend on the rows beside it, but keys drift as the statistics do, and short
            runs collapse, for new keys differ from old ones more than from each other.
    """

    def __init__(
        self,
        *,
        tau: float = 0.2,
        queue: int = 32768,
        momentum: float = 0.99,
        momentum_end: float = 0.999,
        own_statistics: bool = True,
        **parts: Any,
    ) -> None:
        super().__init__(**parts)
        self.tau = check_temperature(tau)
        self.momentum = check_momentum(momentum, momentum_end)
        checks.boolean("own_statistics", own_statistics)
        self.teacher = Teacher(self.student, own_statistics=own_statistics)
        self.queue = Queue(queue, self.projection_dim())
        self._keys: Tensor | None = None  # that join the queue after the update

    def embed(self, views: Views) -> Embeddings:
        z_ND = self.project(views)
        with record_function("teacher"):
            return {"z_ND": z_ND, "key_ND": each(views, self.teacher)}

    def compute_loss(self, embeddings: Embeddings, labels_B: Tensor, progress: float) -> StepOutput:  # noqa: ARG002
        z_ND, b = embeddings["z_ND"], len(labels_B)
        with record_function("loss"):
            query_ND = normalize_rows(z_ND)
            self._keys = normalize_rows(embeddings["key_ND"].detach())
            queue_SD = self.queue.rows_SD.to(query_ND.dtype)
            loss = mean_over_pairs(
                lambda q_BD, k_BD: queue_contrast(q_BD, k_BD, queue_SD, tau=self.tau),
                by_view(query_ND, b),
                by_view(self._keys, b),
            )
        return self.output(loss, z_ND, b)

    def chance_level(self, step: StepOutput) -> Tensor:
        """ln(1 + S), of a query that is as similar to its key as to the queue."""
        return step.loss.new_tensor(math.log(1 + len(self.queue.rows_SD)))

    def after_update(self, progress: float) -> None:
        self.teacher.follow(self.student, along_cosine(*self.momentum, progress))
        if self._keys is not None:
            self.queue.push(self._keys)
            self._keys = None
