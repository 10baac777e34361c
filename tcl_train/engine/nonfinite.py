"""What happens at a step whose loss is not finite."""

from __future__ import annotations

import logging
import math

import torch
from torch import Tensor, nn

from tcl_train import checks
from tcl_train.errors import TrainingError

log = logging.getLogger(__name__)

ON_NONFINITE = ("stop", "skip")


class NonFinite:
    """`stop`: the run ends, when the loss is next looked at, so that no step waits for the device.
    `skip`: the step changes nothing, up to `limit` steps of a run; every step waits for its loss.

    skipped: how many steps were.
    """

    def __init__(self, policy: str = "stop", limit: int = 10) -> None:
        self.policy = checks.one_of("on_nonfinite", policy, ON_NONFINITE)
        self.limit = checks.integer("nonfinite_limit", limit, at_least=1)
        self.skipped = 0

    @property
    def stops(self) -> bool:
        return self.policy == "stop"

    def remember(self, method: nn.Module) -> dict[str, Tensor]:
        """What a forward pass may change: the statistics of normalisation layers."""
        return {} if self.stops else {name: b.clone() for name, b in method.named_buffers()}

    def may_update(
        self, loss: Tensor, method: nn.Module, before: dict[str, Tensor], *, step: int
    ) -> bool:
        """Whether the weights may follow the gradients of this loss; if not, the buffers are what
        they were.

        Raises:
            TrainingError: more steps than `limit` had to be skipped.
        """
        if self.stops or math.isfinite(loss.item()):
            return True
        self.skipped += 1
        if self.skipped > self.limit:
            raise TrainingError(
                f"the loss is {loss.item()} at step {step}, and {self.limit} steps were skipped "
                "already (nonfinite_limit); try a lower lr, warm-up (scheduler.warmup_epochs) or "
                "precision=fp32"
            )
        with torch.no_grad():
            for name, buffer in method.named_buffers():
                buffer.copy_(before[name])
        log.warning(
            "step %d: the loss is %s; skipped, %d of at most %d",
            step,
            loss.item(),
            self.skipped,
            self.limit,
        )
        return False
