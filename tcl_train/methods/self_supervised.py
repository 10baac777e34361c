"""What the self-supervised methods with losses of their own have in common.

B: images of the global batch; V: views of an image; D: embedding dimensions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import permutations

import torch
from torch import Tensor, nn
from torch.profiler import record_function

from tcl_train.losses import LossOfMethod
from tcl_train.losses.pair_loss import normalize_rows
from tcl_train.methods.diagnostics import effective_dimensions
from tcl_train.methods.method import Method, StepOutput, Views
from tcl_train.models.encoder import Encoder


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
                f"{type(self).__name__} has a loss of its own; leave out loss=, or give "
                "method=contrastive or simclr, which take any"
            )
        self.encoder, self.projector, self.loss = encoder, projector, loss

    def project(self, views: Views) -> Tensor:
        """Projections of all views, view after view."""
        with record_function("encode"):
            return each(views, lambda views_NCHW: self.projector(self.encoder(views_NCHW)))

    def projection_dim(self) -> int:
        """Of the projector's output."""
        linear = [part for part in self.projector.modules() if isinstance(part, nn.Linear)]
        return linear[-1].out_features if linear else self.encoder.feature_dim

    def diagnostics(self, step: StepOutput) -> dict[str, Tensor]:
        """Also in how many directions the projections vary."""
        dimensions = effective_dimensions(step.rows_ND)
        return {**super().diagnostics(step), "effective_dimensions": dimensions}

    def output(
        self, loss: Tensor, z_ND: Tensor, images: int, scalars: Mapping[str, Tensor] | None = None
    ) -> StepOutput:
        """With the projections, of which the views of an image belong together."""
        image_N = torch.arange(images, device=z_ND.device).repeat(len(z_ND) // images)
        return StepOutput(loss, z_ND, image_N, scalars or {})


def each(views: Views, function: Callable[[Tensor], Tensor]) -> Tensor:
    """The function's rows for each group of views, one after the other."""
    rows = [function(views_NCHW) for views_NCHW in views]
    return rows[0] if len(rows) == 1 else torch.cat(rows)


def by_view(rows_ND: Tensor, images: int) -> Tensor:
    """(V x B, D) as (V, B, D)."""
    return rows_ND.unflatten(0, (-1, images))


def unit_rows(rows_VBD: Tensor) -> Tensor:
    """Rows of length 1 along the last dimension, in float32 or better; a zero row stays zero and
    gets no gradient."""
    return normalize_rows(rows_VBD.flatten(0, -2)).unflatten(0, rows_VBD.shape[:-1])


def mean_over_pairs(
    function: Callable[[Tensor, Tensor], Tensor], one_VBD: Tensor, other_VBD: Tensor
) -> Tensor:
    """The mean of function(one[v], other[w]) over all pairs of different views. `other` may have
    fewer views: those that come first in `one`."""
    pairs = permutations(range(len(one_VBD)), 2)
    values = [function(one_VBD[v], other_VBD[w]) for v, w in pairs if w < len(other_VBD)]
    return torch.stack(values).mean()
