"""How often the probe is right, on which classes, and whether it knows.

N: test images; K: classes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from tcl_train.evaluation.features import accuracy
from tcl_train.evaluation.measure import Evaluated

BINS = 15


def classification(of: Evaluated) -> Iterator[tuple[str, Any]]:
    """Accuracies of the probe in percent: of the test split, of each class in it, and of the
    validation images, None where none were kept out; and its calibration error."""
    y_N = of.test.y_N
    yield "top1", accuracy(of.score_NK, y_N)
    yield "top5", accuracy(of.score_NK, y_N, top=5)
    val_top1 = None
    if of.validation is not None and of.validation_split is not None:
        x_ND, y_V = of.validation
        val_top1 = accuracy(of.classifier.scores(of.given, of.validation_split, x_ND), y_V)
    yield "val_top1", val_top1
    yield "calibration_error", calibration_error(of.score_NK, y_N)
    yield (
        "calibration_protocol",
        f"expected calibration error of the probe's softmax, {BINS} bins of equal width, percent",
    )
    yield "per_class_top1", per_class_top1(of.score_NK, y_N, of.classes)


def calibration_error(score_NK: Tensor, y_N: Tensor, *, bins: int = BINS) -> float:
    """Expected calibration error in percent, from 0 to 100: images are sorted into bins of equal
    width by the confidence of the prediction (the largest softmax probability), and the difference
    between accuracy and mean confidence of a bin is averaged over the images:

        sum_b n_b / N |accuracy_b - confidence_b|

    Source: Guo et al. 2017, equation 3, with their 15 bins (b-1)/15 < confidence <= b/15.
    """
    confidence_N, predicted_N = score_NK.float().softmax(1).max(1)
    bin_N = (confidence_N * bins).ceil().long().clamp(1, bins) - 1
    gap_N = (predicted_N == y_N).float() - confidence_N
    gap_B = torch.zeros(bins, device=gap_N.device).index_add_(0, bin_N, gap_N)
    return 100 * gap_B.abs().sum().item() / len(y_N)


def per_class_top1(
    score_NK: Tensor, y_N: Tensor, classes: Sequence[str]
) -> dict[str, float | None]:
    """Percent of the images of each class that are classified right; None for a class without."""
    right_N = score_NK.argmax(1) == y_N
    count_K = torch.bincount(y_N, minlength=len(classes)).tolist()
    right_K = torch.bincount(y_N[right_N], minlength=len(classes)).tolist()
    return {
        name: 100 * right / count if count else None
        for name, right, count in zip(classes, right_K, count_K, strict=True)
    }
