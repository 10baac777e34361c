"""Optimisers. Each maker takes the module to train and the peak learning rate.

Those of torch are fused: one pass over a tensor for the whole update, and with a gradient scaler
no waiting for the device to know whether the gradients are finite.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from tcl_train import checks
from tcl_train.methods.method import Method, ParameterGroup
from tcl_train.runtime.optim import SGD, AdamW, without_compile_guards

Optimizer = torch.optim.Optimizer


def parameter_groups(
    module: nn.Module,
    *,
    weight_decay: float,
    weight_decay_end: float | None = None,
    decay_bias_and_norm: bool,
) -> list[dict[str, Any]]:
    """All trainable parameters, in the groups that a method makes of them. Biases and the
    parameters of normalisation layers (those of one dimension) form groups without weight decay,
    unless `decay_bias_and_norm`.

    weight_decay_end: what the weight decay has become at the end of the run, along half a cosine;
    None: it stays. The trainer sets it."""
    checks.number("weight_decay", weight_decay, at_least=0)
    if weight_decay_end is not None:
        checks.number("weight_decay_end (or null)", weight_decay_end, at_least=0)
    checks.boolean("decay_bias_and_norm", decay_bias_and_norm)
    if isinstance(module, Method):
        of_method = module.parameter_groups()
    else:
        of_method = [ParameterGroup([p for p in module.parameters() if p.requires_grad])]
    groups = []
    for group in of_method:
        rates = {"lr_scale": group.lr_scale, "fixed_lr": group.fixed_lr}
        for is_vector in (False, True):
            decays = group.decay and (decay_bias_and_norm or not is_vector)
            params = [p for p in group.parameters if (p.ndim <= 1) == is_vector]
            of_group = {"params": params, "weight_decay": weight_decay * decays, **rates}
            if weight_decay_end is not None and decays:
                of_group["weight_decay_ends"] = (weight_decay, weight_decay_end)
            groups.append(of_group)
        if decay_bias_and_norm:  # one group, in the order of the parameters
            groups[-2:] = [{**groups[-1], "params": group.parameters}]
    return [group for group in groups if group["params"]]


def sgd(
    module: nn.Module,
    lr: float,
    *,
    momentum: float = 0.9,
    nesterov: bool = False,
    weight_decay: float = 1e-4,
    weight_decay_end: float | None = None,
    decay_bias_and_norm: bool = True,
) -> Optimizer:
    """Stochastic gradient descent with momentum."""
    checks.number("momentum", momentum, at_least=0, below=1)
    if checks.boolean("nesterov", nesterov) and momentum == 0:
        raise ValueError("nesterov needs momentum > 0, got momentum 0")
    groups = parameter_groups(
        module,
        weight_decay=weight_decay,
        weight_decay_end=weight_decay_end,
        decay_bias_and_norm=decay_bias_and_norm,
    )
    return SGD(groups, lr=lr, momentum=momentum, nesterov=nesterov, fused=True)


def adamw(
    module: nn.Module,
    lr: float,
    *,
    betas: Iterable[float] = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 1e-2,
    weight_decay_end: float | None = None,
    decay_bias_and_norm: bool = False,
) -> Optimizer:
    """Adam with decoupled weight decay. Loshchilov and Hutter 2019."""
    betas = checks.several("betas", betas)
    if len(betas) != 2:
        raise ValueError(f"betas must be two numbers, got {betas}")
    beta1, beta2 = (
        checks.number(f"betas[{i}]", b, at_least=0, below=1) for i, b in enumerate(betas)
    )
    checks.number("eps", eps, above=0)
    groups = parameter_groups(
        module,
        weight_decay=weight_decay,
        weight_decay_end=weight_decay_end,
        decay_bias_and_norm=decay_bias_and_norm,
    )
    return AdamW(groups, lr=lr, betas=(beta1, beta2), eps=eps, fused=True)


def lars(
    module: nn.Module,
    lr: float,
    *,
    momentum: float = 0.9,
    trust: float = 1e-3,
    clip: bool = False,
    weight_decay: float = 1e-6,
    weight_decay_end: float | None = None,
    decay_bias_and_norm: bool = False,
) -> Optimizer:
    """SGD with layer-wise adaptive rates, for large batches. See :class:`LARS`."""
    checks.number("momentum", momentum, at_least=0, below=1)
    checks.number("trust", trust, above=0)
    checks.boolean("clip", clip)
    groups = parameter_groups(
        module,
        weight_decay=weight_decay,
        weight_decay_end=weight_decay_end,
        decay_bias_and_norm=decay_bias_and_norm,
    )
    return LARS(groups, lr=lr, momentum=momentum, trust=trust, clip=clip)


class MomentumOptimizer(Optimizer):
    """Base of this package's optimisers: one momentum buffer per weight, initially 0."""

    def update(
        self,
        ws: list[Tensor],
        gradients: list[Tensor],
        buffers: list[Tensor],
        group: dict[str, Any],
    ) -> None:
        """Changes weights of a group and their buffers."""
        raise NotImplementedError

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        value = None
        if closure is not None:
            with torch.enable_grad():
                value = closure()
        for group in self.param_groups:
            for ws in together([w for w in group["params"] if w.grad is not None]):
                gradients = [laid_out_as(w, w.grad) for w in ws if w.grad is not None]
                self.update(ws, gradients, [self._buffer(w) for w in ws], group)
        return value

    def _buffer(self, w: Tensor) -> Tensor:
        state = self.state[w]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(w)
        return state["momentum_buffer"]


def together(ws: list[Tensor]) -> list[list[Tensor]]:
    """Which weights are updated at once: on the CPU one at a time, since it then stays in the
    cache; on other devices all of a kind, with few kernels."""
    if ws and ws[0].device.type == "cpu":
        return [[w] for w in ws]
    kinds: dict[Any, list[Tensor]] = {}
    for w in ws:
        kinds.setdefault((w.device, w.dtype, w.ndim > 1), []).append(w)
    return list(kinds.values())


def laid_out_as(w: Tensor, gradient: Tensor) -> Tensor:
    """The gradient with the strides of its weight, which foreach kernels ask for. A convolution of
    1 x 1 has several that mean the same."""
    if gradient.stride() == w.stride():
        return gradient
    strides = zip(w.stride(), gradient.stride(), w.shape, strict=True)
    if all(a == b or size == 1 for a, b, size in strides):
        return gradient.as_strided(w.shape, w.stride())
    return torch.empty_like(w).copy_(gradient)


def lars_rule(
    ws: list[Tensor],
    gradients: list[Tensor],
    buffers: list[Tensor],
    lr: Tensor,
    *,
    momentum: float,
    trust: float,
    clip: bool,
    weight_decay: float,
) -> None:
    """:class:`LARS`'s update of K weights in place, all of two dimensions or more or all of one."""
    steps = torch._foreach_add(gradients, ws, alpha=weight_decay)
    if ws[0].ndim > 1:
        w_norm_K = torch.stack(torch._foreach_norm(ws))
        g_norm_K = torch.stack(torch._foreach_norm(steps))
        ratio_K = trust * w_norm_K / g_norm_K
        rate_K = ratio_K.minimum(lr) if clip else ratio_K * lr
        rate_K = torch.where((w_norm_K > 0) & (g_norm_K > 0), rate_K, lr)
        torch._foreach_mul_(steps, [*rate_K])
    else:
        torch._foreach_mul_(steps, lr)
    torch._foreach_mul_(buffers, momentum)
    torch._foreach_add_(buffers, steps)
    torch._foreach_sub_(ws, buffers)


@without_compile_guards
class LARS(MomentumOptimizer):
    """Layer-wise adaptive rate scaling. K: weights that are updated at once.

        g <- g + weight_decay w
        r = trust |w| / |g|  for tensors of two dimensions or more where both norms are > 0, else 1
        u <- momentum u + r lr g;   w <- w - u

    and with `clip` r lr is at most lr: min(r, lr) in place of r lr (LARC).

    Source: You, Gitman and Ginsburg 2017, with |g| after weight decay, as in the SimCLR code;
    biases and normalisation parameters are not scaled.

    rule: computes an update; :func:`compile_rule` compiles it.
    """

    rule: Callable[..., None] = staticmethod(lars_rule)

    def __init__(
        self,
        params: Any,
        *,
        lr: float,
        momentum: float,
        trust: float,
        clip: bool = False,
        weight_decay: float = 0.0,
    ) -> None:
        checks.number("lr", lr, at_least=0)
        defaults = {"lr": lr, "momentum": momentum, "trust": trust, "weight_decay": weight_decay}
        super().__init__(params, {**defaults, "clip": clip})

    def update(
        self,
        ws: list[Tensor],
        gradients: list[Tensor],
        buffers: list[Tensor],
        group: dict[str, Any],
    ) -> None:
        # As a tensor, which needs no copy: a compiled rule takes its numbers for constants.
        lr = torch.full((), group["lr"], dtype=ws[0].dtype, device=ws[0].device)
        self.rule(
            ws,
            gradients,
            buffers,
            lr,
            momentum=group["momentum"],
            trust=group["trust"],
            clip=group.get("clip", False),  # which checkpoints of earlier versions lack
            weight_decay=group["weight_decay"],
        )


def compile_rule(
    optimizer: Optimizer, compiled: Callable[[Callable[..., None]], Callable[..., None]]
) -> None:
    """Compiles the update of LARS, which is many small kernels where it takes all weights at once.
    torch's optimisers are one kernel each, and Muon's time goes into products of matrices.

    compiled: gives a compiled function, which takes numbers for constants; so a weight decay that
    changes with every step cannot be compiled."""
    groups = optimizer.param_groups
    at_once = groups[0]["params"][0].device.type != "cpu"
    constant = not any("weight_decay_ends" in group for group in groups)
    if isinstance(optimizer, LARS) and at_once and constant:
        optimizer.rule = compiled(optimizer.rule)
