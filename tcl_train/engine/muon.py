"""Muon: momentum whose update of each weight matrix is made orthogonal.

R, C: rows and columns of a weight matrix; of a convolution, output channels and all the rest. K:
weights that are updated at once; N, E: rows of equal width in which their values lie.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from tcl_train import checks
from tcl_train.engine.optimizers import (
    MomentumOptimizer,
    Optimizer,
    parameter_groups,
)
from tcl_train.engine.orthogonal import TINY, Stack, orthogonal
from tcl_train.runtime.optim import without_compile_guards


def muon(
    module: nn.Module,
    lr: float,
    *,
    momentum: float = 0.8,
    newton_schulz_steps: int = 3,
    fixed_norm: bool = True,
    vector_lr: float = 0.3,
    vector_momentum: float = 0.85,
) -> Optimizer:
    """See :class:`Muon`."""
    checks.number("momentum", momentum, at_least=0, below=1)
    checks.integer("newton_schulz_steps", newton_schulz_steps, at_least=1)
    checks.boolean("fixed_norm", fixed_norm)
    checks.number("vector_lr", vector_lr, at_least=0)
    checks.number("vector_momentum", vector_momentum, at_least=0, below=1)
    groups = parameter_groups(module, weight_decay=0.0, decay_bias_and_norm=False)
    return Muon(
        groups,
        lr=lr,
        momentum=momentum,
        newton_schulz_steps=newton_schulz_steps,
        fixed_norm=fixed_norm,
        vector_lr=vector_lr,
        vector_momentum=vector_momentum,
    )


@without_compile_guards
class Muon(MomentumOptimizer):
    """For weights of two dimensions or more, as matrices W (R, C),

        u <- momentum u + g
        W <- W - lr sqrt(max(1, R / C)) orthogonal(g + momentum u)

    where orthogonal(G) is nearly the orthogonal matrix nearest to G, by Newton-Schulz iterations on
    products of matrices. With `fixed_norm`, W of a convolution is first scaled to the norm sqrt(R):
    right where a normalisation follows, so that its length says nothing. Vectors (biases,
    normalisation) have SGD with Nesterov momentum at lr times `vector_lr`.

    Source: Jordan et al. 2024. torch.optim.Muon takes matrices only, no convolutions.
    """

    def __init__(
        self,
        params: Any,
        *,
        lr: float,
        momentum: float,
        newton_schulz_steps: int,
        fixed_norm: bool,
        vector_lr: float,
        vector_momentum: float,
    ) -> None:
        checks.number("lr", lr, at_least=0)
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "newton_schulz_steps": newton_schulz_steps,
            "fixed_norm": fixed_norm,
            "vector_lr": vector_lr,
            "vector_momentum": vector_momentum,
        }
        super().__init__(params, defaults)

    def update(
        self,
        ws: list[Tensor],
        gradients: list[Tensor],
        buffers: list[Tensor],
        group: dict[str, Any],
    ) -> None:
        are_vectors = ws[0].ndim < 2
        momentum = group["vector_momentum" if are_vectors else "momentum"]
        torch._foreach_mul_(buffers, momentum)
        torch._foreach_add_(buffers, gradients)
        directions = torch._foreach_add(gradients, buffers, alpha=momentum)
        if are_vectors:
            torch._foreach_sub_(ws, directions, alpha=group["lr"] * group["vector_lr"])
        elif len(ws) == 1:
            self._update_matrix(ws[0], directions[0], group)
        else:
            self._update_matrices(ws, directions, group)

    @staticmethod
    def _update_matrix(w: Tensor, direction: Tensor, group: dict[str, Any]) -> None:
        rows, columns = len(w), w[0].numel()
        if group["fixed_norm"] and w.ndim > 2:
            w.mul_(rows**0.5 / w.norm().clamp(min=TINY))
        update_RC = orthogonal(direction.reshape(rows, columns), group["newton_schulz_steps"])
        w.sub_(update_RC.view(w.shape), alpha=group["lr"] * max(1.0, rows / columns) ** 0.5)

    def _update_matrices(
        self, ws: Sequence[Tensor], directions: Sequence[Tensor], group: dict[str, Any]
    ) -> None:
        """The same with few kernels: all matrices lie one after the other in one tensor. They are
        taken in the order of their memory, since orthogonal(G) commutes with an order of columns.
        """
        stack = self._stack(ws, fixed_norm=group["fixed_norm"])
        in_order = [ws[k] for k in stack.order], [directions[k] for k in stack.order]
        w_views, x_views = ([_by_memory(x) for x in tensors] for tensors in in_order)
        flat = torch.cat([x.reshape(-1) for x in (*x_views, *w_views)])
        flat_NE = flat.view(-1, stack.width)
        norms = torch._foreach_norm([*x_views, *(w_views[k] for k in stack.fixed)])
        scale_K = stack.lengths_K / (torch.stack([*norms, stack.one]) + TINY)
        flat_NE.mul_(scale_K.index_select(0, stack.scale_of_row_N)[:, None])
        x, w = flat.chunk(2)
        update = stack.orthogonal(x, group["newton_schulz_steps"]).view(-1, stack.width)
        w.view(-1, stack.width).addcmul_(update, stack.stretch_N1, value=-group["lr"])
        parts = w.split([view.numel() for view in w_views])
        torch._foreach_copy_(w_views, [p.view_as(v) for p, v in zip(parts, w_views, strict=True)])

    def _stack(self, ws: Sequence[Tensor], *, fixed_norm: bool) -> Stack:
        shapes = tuple((len(w), w[0].numel()) for w in ws)
        fixed = tuple(fixed_norm and w.ndim > 2 for w in ws)
        key = shapes, fixed, ws[0].device, ws[0].dtype
        stacks = self.__dict__.setdefault("_stacks", {})  # which a copied optimiser lacks
        if key not in stacks:
            stacks[key] = Stack.of(*key)
        return stacks[key]


def _by_memory(w: Tensor) -> Tensor:
    """Its dimensions behind the first one in the order in which they lie in memory."""
    return w.permute(0, *sorted(range(1, w.ndim), key=w.stride, reverse=True))
