"""What every method has in common.

B: images; V: views; N = V x B rows; C, H, W: channels, rows, columns; D: embedding dimensions.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor, nn

from tcl_train.methods.diagnostics import embedding_statistics
from tcl_train.models.encoder import Encoder


class StepOutput(NamedTuple):
    """A step's loss, and the rows and labels that diagnostics look at (detached by them)."""

    loss: Tensor
    rows_ND: Tensor
    labels_N: Tensor


class Method(nn.Module, ABC):
    """An encoder and what trains it. `forward` takes the views of a batch, view after view, and
    the labels of its images.

    needs_labels: whether it cannot learn without labels.
    predict: scores (N, classes) of normalised images, for a method that trains a classifier.
    """

    needs_labels = False
    encoder: Encoder
    predict: Callable[[Tensor], Tensor] | None = None

    @abstractmethod
    def forward(self, views_NCHW: Tensor, labels_B: Tensor) -> StepOutput: ...

    @abstractmethod
    def chance_level(self, step: StepOutput) -> Tensor:
        """The loss of a model whose embeddings are all equal."""

    def diagnostics(self, step: StepOutput) -> dict[str, Tensor]:
        """Scalars that are logged beside the loss."""
        return {
            "chance_level": self.chance_level(step),
            **embedding_statistics(step.rows_ND, step.labels_N),
        }


def labels_of_views(labels_B: Tensor, rows: int) -> Tensor:
    """The labels, once for each view."""
    return labels_B.repeat(rows // len(labels_B))
