"""Convolutions that torch computes wrongly on a CPU in half precision.

Where a convolution with a stride above 1 has outputs one pixel wide, oneDNN reads memory that
nobody has written: seen in torch 2.14 in bf16, with AMX in the outputs and the gradient by the
filters, with AVX-512 in the latter. Such layers are computed in float32; they are the smallest.
`scripts/check_half_convolutions.py` looks for such shapes on the CPU at hand.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class StridedConv2d(nn.Conv2d):
    """`nn.Conv2d`, in float32 where half precision would be wrong. Parameters and state-dict keys
    are those of `nn.Conv2d`."""

    def forward(self, x_NCHW: Tensor) -> Tensor:
        if x_NCHW.device.type == "cpu" and self._is_one_wide(x_NCHW.shape[3]):
            with torch.autocast("cpu", enabled=False):
                return super().forward(x_NCHW.to(self.weight.dtype))
        return super().forward(x_NCHW)

    def _is_one_wide(self, width: int) -> bool:
        padding, kernel, stride = self.padding[1], self.kernel_size[1], self.stride[1]
        return (width + 2 * int(padding) - kernel) // stride == 0


def use_float32_where_half_is_wrong(module: nn.Module) -> None:
    """Turns each `nn.Conv2d` with a stride into a :class:`StridedConv2d`, in place."""
    for part in module.modules():
        if type(part) is nn.Conv2d and part.stride[1] > 1 and part.dilation == (1, 1):
            part.__class__ = StridedConv2d
