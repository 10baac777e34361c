"""What the self-supervised methods that define their own loss have in common.

B: images of the global batch; V: views of an image; D: embedding dimensions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import permutations
from typing import Any

import torch
from torch import Tensor, nn
from torch.profiler import record_function

from tcl_train.losses import LossOfMethod
from tcl_train.losses.pair_loss import normalize_rows
from tcl_train.methods.diagnostics import effective_dimensions
from tcl_train.methods.method import (
    Embeddings,
    Method,
    StepOutput,
    Views,
    each,
    embedding_dim,
    labels_of_views,
)
from tcl_train.models.encoder import Encoder
from tcl_train.models.projector import mlp


class SelfSupervised(Method):
    """encoder -> projector -> a loss between views of the same image; labels are not read.

    Raises ValueError for a loss that has been chosen: the method has its own.
    """

    reads_labels = False

    def __init__(
        self,
        *,
        encoder: Encoder,
        projector: nn.Module,
        loss: nn.Module,
        num_classes: int,  # noqa: ARG002 - every method is told
    ) -> None:
        super().__init__()
        if not isinstance(loss, LossOfMethod):
            raise ValueError(
                f"{type(self).__name__} defines its own loss; leave out loss=, or give "
                "method=contrastive or simclr, which take any"
            )
        self.encoder, self.projector, self.loss = encoder, projector, loss

    @property
    def student(self) -> nn.Module:
        """Encoder and projector, which a teacher follows."""
        return nn.Sequential(self.encoder, self.projector)

    def project(self, views: Views) -> Tensor:
        """Projections of all views, view after view."""
        with record_function("encode"):
            return each(views, self.student)

    def projection_dim(self) -> int:
        """Of the projector's output."""
        return embedding_dim(self.encoder, self.projector)

    def diagnostics(self, step: StepOutput) -> dict[str, Tensor]:
        """Also in how many directions the projections vary."""
        dimensions = effective_dimensions(step.rows_ND)
        return {**super().diagnostics(step), "effective_dimensions": dimensions}

    def output(
        self, loss: Tensor, z_ND: Tensor, images: int, scalars: Mapping[str, Tensor] | None = None
    ) -> StepOutput:
        """With the projections, of which the views of an image belong together."""
        image_N = labels_of_views(torch.arange(images, device=z_ND.device), len(z_ND))
        return StepOutput(loss, z_ND, image_N, scalars or {})


class WithPredictor(SelfSupervised):
    """encoder -> projector -> predictor, whose input and output are of the projector's size.

    Args:
        predictor_hidden_dim: of the predictor.
    """

    def __init__(self, *, predictor_hidden_dim: int, **parts: Any) -> None:
        super().__init__(**parts)
        dim = self.projection_dim()
        self.predictor = mlp(dim, out_dim=dim, hidden_dim=predictor_hidden_dim, hidden_norm=True)

    def embed(self, views: Views) -> Embeddings:
        """Projections, of which no gradient is taken, and their predictions."""
        z_ND = self.project(views)
        return {"z_ND": z_ND.detach(), "prediction_ND": self.predictor(z_ND)}


def unit_rows(rows_VBD: Tensor) -> Tensor:
    """Rows of length 1 along the last dimension, in float32 or better; a zero row stays zero and
    gets no gradient."""
    return normalize_rows(rows_VBD.flatten(0, -2)).unflatten(0, rows_VBD.shape[:-1])


def mean_over_pairs(
    function: Callable[[Tensor, Tensor], Tensor],
    one_VBD: Tensor | Sequence[Tensor],
    other_VBD: Tensor | Sequence[Tensor],
) -> Tensor:
    """The mean of function(one[v], other[w]) over all pairs of different views. `other` may have
    fewer views: those that come first in `one`."""
    pairs = permutations(range(len(one_VBD)), 2)
    values = [function(one_VBD[v], other_VBD[w]) for v, w in pairs if w < len(other_VBD)]
    return torch.stack(values).mean()
