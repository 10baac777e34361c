"""NNCLR: contrast with the nearest neighbour of the other view.

B: images; V: views; D: embedding dimensions; S: rows of the queue.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.profiler import record_function

from tcl_train.losses.pair_loss import check_temperature, normalize_rows, similarities
from tcl_train.methods.method import Embeddings, StepOutput, by_view
from tcl_train.methods.queue import Queue
from tcl_train.methods.self_supervised import WithPredictor, mean_over_pairs


def neighbour_contrast(prediction_BD: Tensor, neighbour_BD: Tensor, *, tau: float) -> Tensor:
    """Mean over the batch of

        -log( e^{n_i.p_i/tau} / sum_j e^{n_i.p_j/tau} )

    for unit rows: a neighbour n of one view and the predictions p of another. Source: Dwibedi et
    al. 2021, equation 2.
    """
    logit_BB = similarities(neighbour_BD, prediction_BD) / tau
    return (logit_BB.logsumexp(1) - logit_BB.diagonal()).mean()


class NNCLR(WithPredictor):
    """:func:`neighbour_contrast` of a predictor behind the projector, where a view's projection is
    replaced by the nearest row of a queue; the first view's projections join the queue afterwards.

    Args:
        tau: temperature.
        queue: rows that are kept.
        predictor_hidden_dim: of the predictor, which has the projector's output size.
    """

    def __init__(
        self,
        *,
        tau: float = 0.2,
        queue: int = 65536,
        predictor_hidden_dim: int = 4096,
        **parts: Any,
    ) -> None:
        super().__init__(predictor_hidden_dim=predictor_hidden_dim, **parts)
        self.tau = check_temperature(tau)
        self.queue = Queue(queue, self.projection_dim())
        self._rows: Tensor | None = None  # that join the queue after the update

    def compute_loss(self, embeddings: Embeddings, labels_B: Tensor, progress: float) -> StepOutput:  # noqa: ARG002
        z_ND, b = embeddings["z_ND"], len(labels_B)
        with record_function("loss"):
            unit_ND = normalize_rows(z_ND.detach())
            neighbour_VBD = by_view(self._nearest(unit_ND), b)
            prediction_ND = normalize_rows(embeddings["prediction_ND"])
            loss = mean_over_pairs(
                lambda p_BD, n_BD: neighbour_contrast(p_BD, n_BD, tau=self.tau),
                by_view(prediction_ND, b),
                neighbour_VBD,
            )
        self._rows = unit_ND[:b]
        return self.output(loss, z_ND, b)

    def chance_level(self, step: StepOutput) -> Tensor:
        """ln B, of predictions that are all equal."""
        images = step.labels_N.max() + 1
        return images.to(step.loss.dtype).log()

    @torch.no_grad()
    def _nearest(self, unit_ND: Tensor) -> Tensor:
        rows_SD = self.queue.rows_SD.to(unit_ND.dtype)
        return rows_SD[similarities(unit_ND, rows_SD).argmax(1)]

    def after_update(self, progress: float) -> None:  # noqa: ARG002
        if self._rows is not None:
            self.queue.push(self._rows)
            self._rows = None
