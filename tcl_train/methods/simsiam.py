"""SimSiam: BYOL without a teacher; the other view's projection is held constant.

B: images; V: views; D: embedding dimensions.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.profiler import record_function

from tcl_train.losses.pair_loss import row_products
from tcl_train.methods.method import Embeddings, ParameterGroup, StepOutput, by_view
from tcl_train.methods.self_supervised import WithPredictor, mean_over_pairs, unit_rows


def simsiam_loss(prediction_VBD: Tensor, z_VBD: Tensor) -> Tensor:
    """The mean over images and pairs of different views of -cos(p, z), for a prediction p of one
    view and the projection z of the other, of which no gradient is taken. Source: Chen and He 2021,
    equations 1 to 4.
    """
    return mean_over_pairs(
        lambda p_BD, z_BD: -row_products(p_BD, z_BD).mean(),
        unit_rows(prediction_VBD),
        unit_rows(z_VBD.detach()),
    )


class SimSiam(WithPredictor):
    """:func:`simsiam_loss` of a predictor behind the projector. The predictor's learning rate stays
    at its peak, as published.

    Args:
        predictor_hidden_dim: of the predictor, a bottleneck: its input and output are wider.
    """

    def __init__(self, *, predictor_hidden_dim: int = 512, **parts: Any) -> None:
        super().__init__(predictor_hidden_dim=predictor_hidden_dim, **parts)

    def compute_loss(self, embeddings: Embeddings, labels_B: Tensor, progress: float) -> StepOutput:  # noqa: ARG002
        z_ND, b = embeddings["z_ND"], len(labels_B)
        with record_function("loss"):
            prediction_VBD = by_view(embeddings["prediction_ND"], b)
            loss = simsiam_loss(prediction_VBD, by_view(z_ND, b))
        return self.output(loss, z_ND, b)

    def parameter_groups(self) -> list[ParameterGroup]:
        return [
            ParameterGroup([*self.encoder.parameters(), *self.projector.parameters()]),
            ParameterGroup([*self.predictor.parameters()], fixed_lr=True),
        ]
