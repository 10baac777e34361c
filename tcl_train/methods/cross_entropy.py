"""A classifier trained end to end, the baseline of the contrastive methods."""

from __future__ import annotations

import math

from torch import Tensor, nn
from torch.profiler import record_function

from tcl_train.losses import CrossEntropy
from tcl_train.methods.method import (
    Embeddings,
    Method,
    StepOutput,
    Views,
    each,
    labels_of_views,
)
from tcl_train.models.encoder import Encoder


class CrossEntropyClassifier(Method):
    """encoder -> linear classifier. Diagnostics look at the features."""

    needs_labels = True

    def __init__(
        self,
        *,
        encoder: Encoder,
        projector: nn.Module,  # noqa: ARG002 - every method is given one; this one needs none
        loss: nn.Module,
        num_classes: int,
    ) -> None:
        super().__init__()
        if not isinstance(loss, CrossEntropy):
            raise TypeError(f"loss must be cross-entropy, got {type(loss).__name__}; give loss=ce")
        self.encoder, self.loss = encoder, loss
        self.classifier = nn.Linear(encoder.feature_dim, num_classes)

    def embed(self, views: Views) -> Embeddings:
        with record_function("encode"):
            return {"rows_ND": each(views, self.encoder)}

    def compute_loss(self, embeddings: Embeddings, labels_B: Tensor, progress: float) -> StepOutput:
        rows_ND = embeddings["rows_ND"]
        labels_N = labels_of_views(labels_B, len(rows_ND))
        with record_function("loss"):
            loss = self.loss(self.classifier(rows_ND), labels_N)
        return StepOutput(loss, rows_ND, labels_N, progress=progress)

    def predict(self, images_NCHW: Tensor) -> Tensor:
        """Scores (N, classes) of normalised images."""
        return self.classifier(self.encoder(images_NCHW))

    def chance_level(self, step: StepOutput) -> Tensor:
        """ln K for K classes."""
        return step.loss.new_tensor(math.log(self.classifier.out_features))
