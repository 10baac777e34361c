"""BYOL: a network predicts what a slowly changing copy of it makes of another view.

B: images; V: views; N = V x B rows; D: embedding dimensions.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.profiler import record_function

from tcl_train.losses.pair_loss import row_products
from tcl_train.methods.method import Embeddings, StepOutput, Views, by_view
from tcl_train.methods.progress import along_cosine
from tcl_train.methods.self_supervised import WithPredictor, mean_over_pairs, unit_rows
from tcl_train.methods.teacher import Teacher, check_momentum


def byol_loss(prediction_VBD: Tensor, target_VBD: Tensor) -> Tensor:
    """Of two views, the sum over both orders of the mean over images of

        | p/|p| - t/|t| |^2 = 2 - 2 cos(p, t)

    for a prediction p and the target t of another view; of more views, twice the mean over all
    pairs. There may be fewer targets than predictions; no gradient is taken of them. Source: Grill
    et al. 2020, equations 2, 3.
    """
    return 2 * mean_over_pairs(
        lambda p_BD, t_BD: (2 - 2 * row_products(p_BD, t_BD)).mean(),
        unit_rows(prediction_VBD),
        unit_rows(target_VBD.detach()),
    )


class BYOL(WithPredictor):
    """:func:`byol_loss` of a predictor behind the projector, against a teacher's projections of the
    first group of views (of all but the small ones of multi-crop).

    Args:
        predictor_hidden_dim: of the predictor, which has the projector's output size.
        momentum, momentum_end: of the teacher, at the beginning and at the end of the run.
    """

    def __init__(
        self,
        *,
        predictor_hidden_dim: int = 4096,
        momentum: float = 0.99,
        momentum_end: float = 1.0,
        **parts: Any,
    ) -> None:
        super().__init__(predictor_hidden_dim=predictor_hidden_dim, **parts)
        self.momentum = check_momentum(momentum, momentum_end)
        self.teacher = Teacher(self.student)

    def embed(self, views: Views) -> Embeddings:
        embeddings = super().embed(views)
        with record_function("teacher"):
            return {**embeddings, "target_MD": self.teacher(views[0])}

    def compute_loss(self, embeddings: Embeddings, labels_B: Tensor, progress: float) -> StepOutput:  # noqa: ARG002
        b = len(labels_B)
        with record_function("loss"):
            prediction_VBD = by_view(embeddings["prediction_ND"], b)
            target_WBD = by_view(embeddings["target_MD"], b)
            loss = byol_loss(prediction_VBD, target_WBD)
        return self.output(loss, embeddings["z_ND"], b)

    def after_update(self, progress: float) -> None:
        self.teacher.follow(self.student, along_cosine(*self.momentum, progress))
