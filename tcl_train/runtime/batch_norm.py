"""Batch normalisation by the statistics of all processes' rows.

torch's SyncBatchNorm does it on GPUs only; this is for CPUs.

N: rows of this process; P: processes; C: channels.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tcl_train.autograd import ClosedForm, first_derivative
from tcl_train.errors import RequestError
from tcl_train.runtime.processes import ALONE, Processes


def use_global_statistics(module: nn.Module, processes: Processes) -> None:
    """Batch norms of the module take their statistics over all processes from now on, in place;
    parameters and state-dict keys stay as they are. Every process must have as many rows.

    Raises:
        RequestError: a layer normalises over the batch in a way that is not known here.
    """
    if processes.count == 1:
        return
    for part in module.modules():
        if not isinstance(part, nn.modules.batchnorm._BatchNorm):
            continue
        on_gpu = part.running_mean is not None and part.running_mean.device.type == "cuda"
        if type(part) in (nn.BatchNorm1d, nn.BatchNorm2d):
            part.__class__ = nn.SyncBatchNorm if on_gpu else GlobalBatchNorm
        elif _has_activation(part):
            part.__class__ = SyncBatchNormAct if on_gpu else GlobalBatchNormAct
        else:
            raise RequestError(
                f"several processes: {type(part).__name__} cannot take its statistics over all of "
                "them; train with one process, or give another encoder"
            )
        part.process_group = None  # type: ignore[assignment]
        part.processes = processes  # type: ignore[assignment]


def _has_activation(part: nn.Module) -> bool:
    """timm's batch norms for images have dropout and activation in them."""
    layers = getattr(part, "drop", None), getattr(part, "act", None)
    return isinstance(part, nn.BatchNorm2d) and all(isinstance(x, nn.Module) for x in layers)


class GlobalBatchNorm(nn.modules.batchnorm._BatchNorm):
    """`nn.BatchNorm1d` and `2d` over the rows of all processes."""

    processes: Processes = ALONE

    def _check_input_dim(self, input: Tensor) -> None: ...

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x)
        mean_C, var_C = _global_statistics(x, self.processes)
        if self.track_running_stats:
            self._remember(mean_C, var_C, rows=self.processes.count * x.numel() // x.shape[1])
        return _Normalised.call(x, self.weight, self.bias, mean_C, var_C, self.eps, self.processes)

    @torch.no_grad()
    def _remember(self, mean_C: Tensor, var_C: Tensor, *, rows: int) -> None:
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        self.num_batches_tracked += 1
        share = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean_C, share)
        self.running_var.lerp_(var_C * (rows / (rows - 1)), share)


@torch.no_grad()
def _global_statistics(x: Tensor, processes: Processes) -> tuple[Tensor, Tensor]:
    """Mean and variance of each channel, over all rows."""
    dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
    unused_C = x.new_zeros(x.shape[1], dtype=dtype)  # but for its dtype, which the results have
    own_2C = torch.stack(torch.batch_norm_update_stats(x, unused_C, unused_C, 0.0))
    mean_PC, var_PC = processes.gather(own_2C).unbind(1)
    mean_C = mean_PC.mean(0)
    return mean_C, var_PC.mean(0) + (mean_PC - mean_C).square().mean(0)


class GlobalBatchNormAct(GlobalBatchNorm):
    """With a dropout and an activation after it."""

    drop: nn.Module
    act: nn.Module

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.drop(super().forward(x)))


class SyncBatchNormAct(nn.SyncBatchNorm):
    """The same on GPUs."""

    drop: nn.Module
    act: nn.Module

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.drop(super().forward(x)))


class _Normalised(ClosedForm):
    """y = w (x - mean) / std + b, where mean and std are functions of the x of all processes:

    dl/dx = w / std (dl/dy - mean(dl/dy) - x^ mean(x^ dl/dy)),    x^ = (x - mean) / std
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight_C: Tensor | None,
        bias_C: Tensor | None,
        mean_C: Tensor,
        var_C: Tensor,
        eps: float,
        processes: Processes,
    ) -> Tensor:
        ctx.save_for_backward(x, weight_C, mean_C, var_C)
        ctx.eps, ctx.processes = eps, processes
        return F.batch_norm(x, mean_C, var_C, weight_C, bias_C, training=False, eps=eps)

    @staticmethod
    @first_derivative
    def backward(ctx: Any, gradient: Tensor) -> Any:
        x, weight_C, mean_C, var_C = ctx.saved_tensors
        learned = weight_C is not None
        weight_C = weight_C if learned else torch.ones_like(mean_C)
        _, by_weight_C, by_bias_C = torch.ops.aten.native_batch_norm_backward(
            gradient, x, weight_C, mean_C, var_C, None, None, False, ctx.eps, [False, True, True]
        )
        total_2C = torch.stack([by_weight_C, by_bias_C])  # sums of x^ dl/dy and of dl/dy
        ctx.processes.add_up([total_2C])
        rows = ctx.processes.count * x.numel() // x.shape[1]
        scale_C = weight_C * (var_C + ctx.eps).rsqrt()
        slope_C, level_C = -total_2C / rows * scale_C
        by_x = F.batch_norm(x, mean_C, var_C, slope_C, level_C, training=False, eps=ctx.eps)
        if gradient.dtype == scale_C.dtype:
            by_x.addcmul_(gradient, scale_C.view(-1, *[1] * (x.dim() - 2)))
        else:  # half precision: the factor stays in float32
            zero_C = torch.zeros_like(mean_C)
            by_x += F.batch_norm(gradient, zero_C, var_C, weight_C, training=False, eps=ctx.eps)
        if not learned:
            by_weight_C = by_bias_C = None
        return by_x, by_weight_C, by_bias_C, None, None, None, None
