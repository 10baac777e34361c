"""Cross-entropy over classes, the baseline of the contrastive losses."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tcl_train import checks
from tcl_train.losses.pair_loss import check_rows

NO_LABEL = -(2**63)


def cross_entropy_loss(logit_NK: Tensor, y_N: Tensor, *, label_smoothing: float = 0.0) -> Tensor:
    """Mean cross-entropy of softmax(logits) against the labels.

        l_i = -sum_k q_ik log( e^{o_ik} / sum_c e^{o_ic} )

    with q_ik = (1 - label_smoothing) [k = y_i] + label_smoothing / K.

    Args:
        logit_NK: a score a class, any float dtype; computed in float32 or better.
        y_N: int64 in [0, K).
        label_smoothing: in [0, 1).
    """
    with torch.autocast(logit_NK.device.type, enabled=False):
        logit_NK = logit_NK.double() if logit_NK.dtype == torch.float64 else logit_NK.float()
        # No label is one that torch would ignore: a negative one is an error.
        return F.cross_entropy(
            logit_NK, y_N.long(), label_smoothing=label_smoothing, ignore_index=NO_LABEL
        )


class CrossEntropy(nn.Module):
    """:func:`cross_entropy_loss` with a checked label smoothing in [0, 1)."""

    def __init__(self, label_smoothing: float = 0.0) -> None:
        super().__init__()
        self.label_smoothing = checks.number(
            "label_smoothing", label_smoothing, at_least=0, below=1
        )

    def forward(self, logit_NK: Tensor, y_N: Tensor) -> Tensor:
        check_rows(logit_NK, y_N, at_least=1)
        return cross_entropy_loss(logit_NK, y_N, label_smoothing=self.label_smoothing)

    def extra_repr(self) -> str:
        return f"label_smoothing={self.label_smoothing:g}"
