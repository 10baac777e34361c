"""What every loss demands of its inputs."""

from __future__ import annotations

import torch
from torch import Tensor


def check_rows(z_ND: Tensor, y_N: Tensor, *, at_least: int = 2) -> None:
    """Raises TypeError or ValueError that names the argument, what it is, and what is right."""
    if z_ND.ndim != 2:
        raise ValueError(f"z must have shape (N, D), got {tuple(z_ND.shape)}")
    if not z_ND.is_floating_point():
        raise TypeError(f"z must have a floating-point dtype, got {z_ND.dtype}")
    if y_N.ndim != 1 or y_N.shape[0] != z_ND.shape[0]:
        raise ValueError(
            f"y must have shape (N,) with the N of z, here ({z_ND.shape[0]},), "
            f"got {tuple(y_N.shape)}"
        )
    if y_N.is_floating_point() or y_N.is_complex() or y_N.dtype == torch.bool:
        raise TypeError(f"y must have an integer dtype (int64), got {y_N.dtype}")
    if z_ND.shape[0] < at_least:
        raise ValueError(f"z must have at least {at_least} rows, got {z_ND.shape[0]}")
