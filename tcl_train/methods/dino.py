"""DINO: a student predicts its teacher's shares of prototypes, which are centred and sharpened.

B: images; V: views; K: prototypes; D: embedding dimensions.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.profiler import record_function

from tcl_train import checks
from tcl_train.methods.method import Embeddings, StepOutput, Views, by_view
from tcl_train.methods.progress import along_cosine
from tcl_train.methods.prototypes import WithPrototypes, assignment_information
from tcl_train.methods.teacher import Teacher, check_momentum


class DINO(WithPrototypes):
    """For a view of the first group as the teacher sees it, with scores t and centre c, and any
    other view of the image as the student sees it, with scores s,

        -sum_k softmax((t - c) / teacher_tau)_k log softmax(s / tau)_k,

    the mean over images and pairs of views. Scores are cosines with the prototypes; the centre is a
    running mean of the teacher's scores.

    Source: Caron et al. 2021, algorithm 1, with the prototypes of unit length of the authors' code.

    Args:
        prototypes: how many. tau: the student's temperature.
        teacher_tau_start, teacher_tau, teacher_tau_warmup: the teacher's, at the beginning, from
            this share of the run on, and a line between.
        centre_momentum: of the centre.
        frozen_until: until which share of the run the prototypes stay as they are.
        momentum, momentum_end: of the teacher, at the beginning and at the end of the run.
    """

    centre_K: Tensor

    def __init__(
        self,
        *,
        prototypes: int = 4096,
        tau: float = 0.1,
        teacher_tau_start: float = 0.04,
        teacher_tau: float = 0.07,
        teacher_tau_warmup: float = 0.0,
        centre_momentum: float = 0.9,
        frozen_until: float = 0.0,
        momentum: float = 0.9995,
        momentum_end: float = 1.0,
        **parts: Any,
    ) -> None:
        super().__init__(prototypes=prototypes, tau=tau, frozen_until=frozen_until, **parts)
        for name, value in (("teacher_tau_start", teacher_tau_start), ("teacher_tau", teacher_tau)):
            checks.number(name, value, at_least=1e-6)
        self.teacher_tau = (teacher_tau_start, teacher_tau)
        self.teacher_tau_warmup = checks.number(
            "teacher_tau_warmup", teacher_tau_warmup, at_least=0, at_most=1
        )
        self.centre_momentum = checks.number(
            "centre_momentum", centre_momentum, at_least=0, at_most=1
        )
        self.momentum = check_momentum(momentum, momentum_end)
        self.teacher = Teacher(self.student)
        self.teacher_prototypes = Teacher(self.prototypes)
        self.register_buffer("centre_K", torch.zeros(prototypes))
        self._mean_K: Tensor | None = None  # of the teacher's scores, for the centre

    def embed(self, views: Views) -> Embeddings:
        z_ND = self.project(views)
        with record_function("teacher"):
            return {"z_ND": z_ND, "target_MD": self.teacher(views[0])}

    def compute_loss(self, embeddings: Embeddings, labels_B: Tensor, progress: float) -> StepOutput:
        z_ND, b = embeddings["z_ND"], len(labels_B)
        with record_function("loss"):
            score_VBK = by_view(self.prototypes(z_ND), b)
            target_MK = self.teacher_prototypes(embeddings["target_MD"].detach())
            self._mean_K = target_MK.mean(0)
            share_MK = ((target_MK - self.centre_K) / self.teacher_tau_at(progress)).softmax(1)
            loss = self.prediction_loss(score_VBK, by_view(share_MK, b))
        told = assignment_information(share_MK)
        return self.output(loss, z_ND, b, {"assignment_information": told})

    def teacher_tau_at(self, progress: float) -> float:
        """The teacher's temperature."""
        first, last = self.teacher_tau
        if progress >= self.teacher_tau_warmup:
            return last
        return first + (last - first) * progress / self.teacher_tau_warmup

    @torch.no_grad()
    def after_update(self, progress: float) -> None:
        momentum = along_cosine(*self.momentum, progress)
        self.teacher.follow(self.student, momentum)
        self.teacher_prototypes.follow(self.prototypes, momentum)
        if self._mean_K is not None:
            self.centre_K.lerp_(self._mean_K.to(self.centre_K.dtype), 1 - self.centre_momentum)
            self._mean_K = None
