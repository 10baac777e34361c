"""Contrastive pretraining: views of one image, or images of one class, are positives."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.profiler import record_function

from tcl_train.losses import PairLoss, gradient_response
from tcl_train.methods.diagnostics import count_single
from tcl_train.methods.method import (
    Embeddings,
    Method,
    StepOutput,
    Views,
    each,
    labels_of_views,
)
from tcl_train.models.encoder import Encoder


class Contrastive(Method):
    """encoder -> projector -> a loss over all rows of the batch."""

    def __init__(
        self,
        *,
        encoder: Encoder,
        projector: nn.Module,
        loss: PairLoss,
        num_classes: int,  # noqa: ARG002 - every method is told
    ) -> None:
        super().__init__()
        if not isinstance(loss, PairLoss):
            raise TypeError(
                f"loss must be one over pairs of rows, got {type(loss).__name__}; choose another "
                "loss, or the method that goes with it"
            )
        self.encoder, self.projector, self.loss = encoder, projector, loss
        self.when_collapsed = loss.when_collapsed or self.when_collapsed

    def embed(self, views: Views) -> Embeddings:
        with record_function("encode"):
            return {"z_ND": each(views, lambda x_NCHW: self.projector(self.encoder(x_NCHW)))}

    def compute_loss(self, embeddings: Embeddings, labels_B: Tensor, progress: float) -> StepOutput:
        z_ND = embeddings["z_ND"]
        labels_N = labels_of_views(labels_B, len(z_ND))
        with record_function("loss"):
            loss = self.loss.at(progress)(*self.rows_of_loss(z_ND, labels_N))
        return StepOutput(loss, z_ND, labels_N, progress=progress)

    def rows_of_loss(self, z_ND: Tensor, labels_N: Tensor) -> tuple[Tensor, Tensor]:
        """The rows between which the loss is taken, and their labels."""
        return z_ND, labels_N

    @torch.no_grad()
    def chance_level(self, step: StepOutput) -> Tensor:
        """The loss of the same batch with all embeddings equal; ln(N - 1) for SupCon."""
        _, labels_N = self.rows_of_loss(step.rows_ND, step.labels_N)
        equal_ND = torch.ones(len(labels_N), 1, device=labels_N.device)
        return self.loss.at(step.progress)(equal_ND, labels_N)

    def diagnostics(self, step: StepOutput) -> dict[str, Tensor]:
        """Also the loss's gradient magnitudes by positives and by negatives, and how many anchors
        the loss has and leaves out."""
        response = gradient_response(
            self.loss.at(step.progress), step.rows_ND.detach(), step.labels_N
        )
        _, anchors_N = self.rows_of_loss(step.rows_ND, step.labels_N)
        return {
            **super().diagnostics(step),
            "anchors": torch.full_like(response.positive, len(anchors_N)),
            "anchors_without_positives": count_single(anchors_N),
            "gradient_from_positives": response.positive,
            "gradient_from_negatives": response.negative,
        }
