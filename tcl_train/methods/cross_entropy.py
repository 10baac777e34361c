"""A classifier trained end to end, the baseline of the contrastive methods."""

from __future__ import annotations

import math

from torch import Tensor, nn
from torch.profiler import record_function

from tcl_train.methods.method import Method, StepOutput, labels_of_views
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
        self.encoder, self.loss = encoder, loss
        self.classifier = nn.Linear(encoder.feature_dim, num_classes)

    def forward(self, views_NCHW: Tensor, labels_B: Tensor) -> StepOutput:
        with record_function("encode"):
            rows_ND = self.encoder(views_NCHW)
        labels_N = labels_of_views(labels_B, len(rows_ND))
        with record_function("loss"):
            return StepOutput(self.loss(self.classifier(rows_ND), labels_N), rows_ND, labels_N)

    def predict(self, images_NCHW: Tensor) -> Tensor:
        """Scores (N, classes) of normalised images."""
        return self.classifier(self.encoder(images_NCHW))

    def chance_level(self, step: StepOutput) -> Tensor:
        """ln K for K classes."""
        return step.loss.new_tensor(math.log(self.classifier.out_features))
