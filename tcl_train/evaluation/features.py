"""Features of a frozen encoder.

N: images; D: features.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn

from tcl_train.data.dataset import Split
from tcl_train.data.normalize import Normalize
from tcl_train.errors import TrainingError
from tcl_train.runtime.compilation import uncompiled
from tcl_train.runtime.device import Runtime

BATCH_SIZE = 500


class Features(NamedTuple):
    """float32 features and int64 labels of a split, on the run's device."""

    x_ND: Tensor
    y_N: Tensor


class MirrorMean(nn.Module):
    """(N, 3, H, W) -> (N, D): the mean of an encoder's features of an image and of its mirror
    image, for images whose class does not depend on left and right."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, x_NCHW: Tensor) -> Tensor:
        return (self.encoder(x_NCHW) + self.encoder(x_NCHW.flip(3))) / 2


@contextmanager
def frozen(module: nn.Module) -> Iterator[None]:
    """Evaluation mode, without gradients; nothing in the module changes inside the block, batch
    statistics included. The mode is restored after. Nothing is compiled for it."""
    modes = {part: part.training for part in module.modules()}
    module.eval()
    try:
        with torch.no_grad(), uncompiled():
            yield
    finally:
        for part, mode in modes.items():
            part.training = mode


def apply_frozen(
    module: nn.Module,
    split: Split,
    normalize: Normalize,
    runtime: Runtime,
    function: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """The outputs of the module (or of a function of its) for all images of a split, in order,
    float32 (N, ...). Each process of the run takes a part of them, and has all afterwards."""
    function = function or module
    processes = runtime.processes
    parts = torch.arange(len(split)).tensor_split(processes.count)
    own = parts[processes.rank]
    outputs = []
    with frozen(module), runtime.autocast():  # once: it keeps the weights in half precision
        for images_BCHW in split.images.batches(own.split(BATCH_SIZE), runtime.device):
            outputs.append(function(normalize(images_BCHW)).float())
    return processes.concatenate(torch.cat(outputs), [len(part) for part in parts])


def extract(encoder: nn.Module, split: Split, normalize: Normalize, runtime: Runtime) -> Features:
    """Features and labels of a labelled split.

    Raises:
        TrainingError: a feature is not finite, which no probe could work with.
    """
    assert split.labels_N is not None
    x_ND = apply_frozen(encoder, split, normalize, runtime)
    if not x_ND.isfinite().all():
        raise TrainingError(
            "the features of the encoder are not finite: training has diverged; train again with "
            "a lower lr, or evaluate with precision=fp32"
        )
    return Features(x_ND, split.labels_N.to(runtime.device))


def accuracy(score_NK: Tensor, y_N: Tensor, *, top: int = 1) -> float:
    """Percent of rows whose label is among the `top` highest scores.

    Raises:
        TrainingError: a score is not finite.
    """
    if not score_NK.isfinite().all():
        raise TrainingError(
            "the scores of the evaluation are not finite: the probe has diverged, or the features "
            "are not finite; evaluate again with tcl-eval, with a lower probe.lr, another probe or "
            "precision=fp32"
        )
    best_NT = score_NK.topk(min(top, score_NK.shape[1]), dim=1).indices
    return 100 * (best_NT == y_N[:, None]).any(1).sum().item() / len(y_N)
