"""Contrastive pretraining with a learned row for each class in every batch."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from tcl_train import checks
from tcl_train.methods.contrastive import Contrastive
from tcl_train.methods.method import embedding_dim


class ClassRows(Contrastive):
    """`copies` times K learned rows, one per class and labelled with it, join each batch; the loss
    is unchanged.

    A batch of N images has only N / K positives an anchor, so that with many classes and few steps
    little is learned; a class row gathers what the images of its class have in common. The rows are
    for training only: diagnostics and features come from images.

    Source: the parametric class centres of Cui et al. 2021 (PaCo), there weighted separately;
    here the number of copies weighs them.
    """

    needs_labels = True

    def __init__(self, *, copies: int = 8, num_classes: int, **parts: Any) -> None:
        super().__init__(num_classes=num_classes, **parts)
        self.copies = checks.integer("copies", copies, at_least=1)
        self.row_KD = nn.Parameter(
            torch.randn(num_classes, embedding_dim(self.encoder, self.projector))
        )

    def rows_of_loss(self, z_ND: Tensor, labels_N: Tensor) -> tuple[Tensor, Tensor]:
        row_KD = self.row_KD.to(z_ND.dtype)
        label_K = torch.arange(len(row_KD), device=labels_N.device)
        return (
            torch.cat([z_ND, row_KD.repeat(self.copies, 1)]),
            torch.cat([labels_N, label_K.repeat(self.copies)]),
        )
