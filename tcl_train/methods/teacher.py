"""A second network whose weights are running averages of those that are trained."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from tcl_train import checks


def check_momentum(first: float, last: float) -> tuple[float, float]:
    """Both ends of a teacher's momentum, which follows a cosine (Grill et al. 2020)."""
    checks.number("momentum", first, at_least=0, at_most=1)
    checks.number("momentum_end", last, at_least=0, at_most=1)
    return first, last


class Teacher(nn.Module):
    """The same network as `student`, of which no gradient is taken.

    own_statistics: whether its batch norms take the statistics of what it is given, as the
    student's do. Else they use running ones, which follow the student's as the weights do (Cai et
    al. 2021, "Exponential moving average normalization"), so that a row does not depend on the rows
    beside it.
    """

    def __init__(self, student: nn.Module, *, own_statistics: bool = True) -> None:
        super().__init__()
        self.network = copy.deepcopy(student).requires_grad_(False)
        self.own_statistics = own_statistics

    def train(self, mode: bool = True) -> Teacher:
        self.training = mode
        self.network.train(mode and self.own_statistics)
        return self

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        return self.network(x)

    @torch.no_grad()
    def follow(self, student: nn.Module, momentum: float) -> None:
        """t <- momentum t + (1 - momentum) s, for all weights."""
        share = 1 - momentum
        of_student = [p.detach() for p in student.parameters()]
        torch._foreach_lerp_([*self.network.parameters()], of_student, share)
        if not self.own_statistics:
            pairs = [*zip(self.network.buffers(), student.buffers(), strict=True)]
            running = [pair for pair in pairs if pair[0].is_floating_point()]
            counters = [pair for pair in pairs if not pair[0].is_floating_point()]
            if running:
                torch._foreach_lerp_([own for own, _ in running], [s for _, s in running], share)
            if counters:
                torch._foreach_copy_([own for own, _ in counters], [s for _, s in counters])
