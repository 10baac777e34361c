"""What every method has in common.

B: images of the global batch; V: views; N = V x B rows; C, H, W: channels, rows, columns; D:
embedding dimensions.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from tcl_train.methods.diagnostics import embedding_statistics
from tcl_train.models.encoder import Encoder

Views = Sequence[Tensor]  # by size: a tensor (V x B, C, H, W) each, view after view
Embeddings = dict[str, Tensor]  # by name: (V x B, ...), view after view


class StepOutput(NamedTuple):
    """A step's loss, and what diagnostics look at.

    rows_ND, labels_N: embeddings and which of them belong together. scalars: further numbers to
    log. progress: of the run, from 0 to 1.
    """

    loss: Tensor
    rows_ND: Tensor
    labels_N: Tensor
    scalars: Mapping[str, Tensor] = {}
    progress: float = 0.0


class ParameterGroup(NamedTuple):
    """Parameters that are updated alike.

    lr_scale: factor on the learning rate. fixed_lr: whether the rate stays at its peak while that
    of the others follows the schedule. decay: whether there is weight decay.
    """

    parameters: list[nn.Parameter]
    lr_scale: float = 1.0
    fixed_lr: bool = False
    decay: bool = True


class Method(nn.Module, ABC):
    """An encoder and what trains it. A step is

        embeddings = method.embed(views)                 # row by row
        output = method.compute_loss(embeddings, labels_B, progress)   # over the global batch
        (gradients)    method.before_update(progress)
        (update)       method.after_update(progress)

    `embed` may be called for a part of the batch at a time, in this process or in several: its
    outputs are put together in the order of the images, view after view, before the loss sees them.
    Parameters may be used in either. Progress runs from 0 at the first step to 1.

    needs_labels: whether it cannot learn without labels. reads_labels: whether it can learn with
    them; else every image has a different label.
    when_collapsed: what to do where all embeddings have become equal, as far as it was measured.
    predict: scores (N, classes) of normalised images, for a method that trains a classifier.
    """

    needs_labels = False
    reads_labels = True
    when_collapsed = "lower lr, or warm up (scheduler.warmup_epochs=10)"
    encoder: Encoder
    predict: Callable[[Tensor], Tensor] | None = None

    @abstractmethod
    def embed(self, views: Views) -> Embeddings:
        """What the loss needs to know of each view."""

    @abstractmethod
    def compute_loss(
        self, embeddings: Embeddings, labels_B: Tensor, progress: float
    ) -> StepOutput: ...

    def forward(self, views: Tensor | Views, labels_B: Tensor, progress: float = 0.0) -> StepOutput:
        """Both at once, for a whole batch in one process."""
        views = [views] if isinstance(views, Tensor) else views
        return self.compute_loss(self.embed(views), labels_B, progress)

    def before_update(self, progress: float) -> None:
        """Called when the gradients are there."""

    def after_update(self, progress: float) -> None:
        """Called when the parameters have changed."""

    def parameter_groups(self) -> list[ParameterGroup]:
        """All parameters that are trained."""
        return [ParameterGroup([p for p in self.parameters() if p.requires_grad])]

    def chance_level(self, step: StepOutput) -> Tensor | None:  # noqa: ARG002
        """The loss of a model whose embeddings are all equal; None: not known."""
        return None

    def diagnostics(self, step: StepOutput) -> dict[str, Tensor]:
        """Scalars that are logged beside the loss."""
        level = self.chance_level(step)
        return {
            **({} if level is None else {"chance_level": level}),
            **embedding_statistics(step.rows_ND, step.labels_N),
            **step.scalars,
        }


def each(views: Views, function: Callable[[Tensor], Tensor]) -> Tensor:
    """The function's rows for each group of views, one after the other."""
    rows = [function(views_NCHW) for views_NCHW in views]
    return rows[0] if len(rows) == 1 else torch.cat(rows)


def by_view(rows: Tensor, images: int, dim: int = 0) -> Tensor:
    """(V x images, ...) as (V, images, ...)."""
    return rows.unflatten(dim, (-1, images))


def embedding_dim(encoder: Encoder, projector: nn.Module) -> int:
    """Of the projector's output."""
    linear = [part for part in projector.modules() if isinstance(part, nn.Linear)]
    return linear[-1].out_features if linear else encoder.feature_dim


def labels_of_views(labels_B: Tensor, rows: int) -> Tensor:
    """The labels, once for each view."""
    return labels_B.repeat(rows // len(labels_B))
