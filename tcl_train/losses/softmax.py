"""What the softmax losses share: D of each row, by the blockwise engine."""

from __future__ import annotations

import torch
from torch import Tensor

from tcl_train.losses import blockwise
from tcl_train.losses.blockwise import Hardest, PairWeights
from tcl_train.losses.pair_loss import SortedRows


def log_denominator(
    rows: SortedRows,
    weights: PairWeights,
    *,
    unit_rows: bool = True,
    hardest: Hardest | None = None,
) -> Tensor:
    """log D of each row against all others, in the order of `rows`; see
    :mod:`tcl_train.losses.blockwise`. Takes the symmetric form wherever it is in range."""
    z_ND, group_N = rows.z_ND, rows.group_N
    in_range = unit_rows and blockwise.unit_rows_fit(z_ND.dtype, weights)
    if in_range and hardest is None:
        return blockwise.symmetric_log_denominator(z_ND, group_N, weights)
    own_N = torch.arange(len(z_ND), device=z_ND.device)
    return blockwise.rectangular_log_denominator(
        z_ND, z_ND, group_N, group_N, weights, own_N=own_N, hardest=hardest
    )
