"""Muon: momentum whose update of each weight matrix is made orthogonal.

R, C: rows and columns of a weight matrix; of a convolution, output channels and all the rest.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from tcl_train import checks
from tcl_train.engine.optimizers import (
    MomentumOptimizer,
    Optimizer,
    parameter_groups,
    without_compile_guards,
)

# Coefficients of the odd polynomial a x + b x^3 + c x^5, which maps singular values in (0, 1] to
# about 1 in a few steps.
NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
TINY = 1e-7
# Rounding makes small negative numbers of G's eigenvalues that should be 0, and they grow a dozen
# times a step: after a few, G is computed anew.
STEPS_AT_ONCE = 3


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

    def update(self, w: Tensor, gradient: Tensor, buffer: Tensor, group: dict[str, Any]) -> None:
        is_vector = w.ndim < 2
        momentum = group["vector_momentum" if is_vector else "momentum"]
        buffer.mul_(momentum).add_(gradient)
        lookahead = gradient.add(buffer, alpha=momentum)
        if is_vector:
            w.sub_(lookahead, alpha=group["lr"] * group["vector_lr"])
            return
        rows, columns = len(w), w[0].numel()
        if group["fixed_norm"] and w.ndim > 2:
            w.mul_(rows**0.5 / w.norm().clamp(min=TINY))
        update_RC = orthogonal(lookahead.reshape(rows, columns), group["newton_schulz_steps"])
        w.sub_(update_RC.view(w.shape), alpha=group["lr"] * max(1.0, rows / columns) ** 0.5)


def orthogonal(matrix_RC: Tensor, steps: int) -> Tensor:
    """Nearly the orthogonal matrix nearest to this one, up to a factor for each singular direction
    that comes closer to 1 with each step; zero stays zero."""
    rows, columns = matrix_RC.shape
    x = matrix_RC.T if rows > columns else matrix_RC
    x = x / (x.norm() + TINY)
    for done in range(0, steps, STEPS_AT_ONCE):
        x = _newton_schulz(x, min(STEPS_AT_ONCE, steps - done))
    return x.T if rows > columns else x


def _newton_schulz(x: Tensor, steps: int) -> Tensor:
    """A step is X <- (a + b G + c G^2) X with G = X X^T. Its factor is a symmetric matrix P that
    commutes with G, so that the next G is G P^2, and X need not be known before the end: all
    steps are products of square matrices of the shorter side, and X is multiplied once."""
    a, b, c = NEWTON_SCHULZ
    gram = x @ x.T
    factor: Tensor | None = None
    for step in range(steps):
        of_step = torch.addmm(gram, gram, gram, beta=b, alpha=c)
        of_step.diagonal().add_(a)
        factor = of_step if factor is None else of_step @ factor
        if step + 1 < steps:
            gram = of_step @ (gram @ of_step)
    assert factor is not None
    return factor @ x
