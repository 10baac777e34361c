"""What torch.compile is used for, and whether it pays."""

from __future__ import annotations

import importlib.util
import logging
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, ParamSpec, TypeVar

import torch
from torch import nn

from tcl_train.errors import RequestError

log = logging.getLogger(__name__)

P = ParamSpec("P")
T = TypeVar("T")

CHOICES = ("auto", "true", "false", "cuda_graphs")

# Estimates for a ResNet on a fast card, on the careful side and not yet measured on one: how long
# its two passes take to compile for one size of views, how many of their and the loss's kernels are
# joined to others, and how long the host takes to start one.
COMPILATION_SECONDS = 60.0
LAUNCHES_SAVED = 200
LAUNCH_SECONDS = 5e-6
MOST_SIZES = 32  # of views, each compiled separately


def seconds_gained(passes: int, sizes: int) -> float:
    """What compiling wins over a run of so many forward and backward passes, the compilation for
    so many sizes of views taken off; negative where it loses."""
    return passes * LAUNCHES_SAVED * LAUNCH_SECONDS - sizes * COMPILATION_SECONDS


class Compilation:
    """Of one run: `true`, `false`, `auto`, or `cuda_graphs`, which also records each program as
    CUDA graphs. `auto` compiles on CUDA where the run is long enough, see :func:`seconds_gained`.

    compiles: whether it does, from :meth:`decide` on.
    """

    def __init__(self, choice: str | bool, device: torch.device) -> None:
        self.choice = str(choice).lower()
        self.device = device
        self.compiles = False

    def decide(self, *, passes: int, sizes: int, chunks: int = 1) -> None:
        """For a run of so many passes on views of so many sizes, in so many chunks a step.

        Raises:
            RequestError: CUDA graphs are wanted where they cannot be used.
        """
        if self.records_graphs:
            self._check_graphs(chunks)
        if self.choice != "auto" or self.device.type != "cuda":
            self.compiles = self.choice in ("true", "cuda_graphs")
            return
        gained = seconds_gained(passes, sizes)
        self.compiles = gained > 0 and importlib.util.find_spec("triton") is not None
        log.info("compile %s", self._reason(passes, gained))

    def _reason(self, passes: int, gained: float) -> str:
        if self.compiles:
            return f"on (auto: saves about {gained / 60:.0f} minutes in {passes} passes)"
        if gained > 0:
            return "off (auto: there is no Triton, which compiling for a GPU needs)"
        return f"off (auto: {passes} passes are too few to win back the compilation)"

    def _check_graphs(self, chunks: int) -> None:
        if self.device.type != "cuda":
            raise RequestError(
                f"compile=cuda_graphs needs a CUDA device, this run has {self.device.type}; give "
                "compile=auto"
            )
        if chunks > 1:
            raise RequestError(
                "compile=cuda_graphs with chunk_size: a chunk's embeddings would be overwritten by "
                "the next one's; give compile=true"
            )

    @property
    def records_graphs(self) -> bool:
        return self.choice == "cuda_graphs"

    def of_parts(self, module: nn.Module) -> None:
        """Compiles each part of a module when it is first called, in place, so that the keys of its
        state stay as they are; separately for each size of views."""
        if not self.compiles:
            return
        _allow_many_sizes()
        for part in module.children():
            part.compile(dynamic=False, mode=self._mode(part, module))

    def _mode(self, part: nn.Module, module: nn.Module) -> str | None:
        # A loss that has recorded its graph would overwrite the value that is logged later.
        graphs = self.records_graphs and part is getattr(module, "encoder", None)
        return "reduce-overhead" if graphs else None

    def of(self, function: Callable[P, T], options: dict[str, Any] | None = None) -> Callable[P, T]:
        """The function, compiled if the run compiles, separately for each size. options: the
        compiler's."""
        if not self.compiles:
            return function
        _allow_many_sizes()
        return torch.compile(function, dynamic=False, options=options)

    def step_done(self) -> None:
        """From here on, what the graphs of the step before have left may be overwritten."""
        if self.compiles and self.records_graphs:
            torch.compiler.cudagraph_mark_step_begin()


def _allow_many_sizes() -> None:
    """By default the compiler silently gives up after eight."""
    from torch._dynamo import config  # which takes two seconds to load

    name = "recompile_limit" if hasattr(config, "recompile_limit") else "cache_size_limit"
    setattr(config, name, max(getattr(config, name), MOST_SIZES))


def uncompiled() -> AbstractContextManager[Any]:
    """Inside the block nothing is compiled: for what comes seldom and in sizes that differ."""
    if "torch._dynamo" not in sys.modules:
        return nullcontext()
    return torch.compiler.set_stance("force_eager")
