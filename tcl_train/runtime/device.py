"""The device and the precision that a run computes with."""

from __future__ import annotations

import logging
import os
import platform
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor, nn
from torch.profiler import record_function

from tcl_train.errors import RequestError
from tcl_train.runtime.compilation import Compilation
from tcl_train.runtime.half_precision import use_float32_where_half_is_wrong
from tcl_train.runtime.processes import ALONE, Processes
from tcl_train.runtime.randomness import derive, seeded
from tcl_train.runtime.winograd import use_winograd

log = logging.getLogger(__name__)

Module = TypeVar("Module", bound=nn.Module)
P = ParamSpec("P")
T = TypeVar("T")

DEVICES = ("auto", "cpu", "cuda", "mps")
PRECISIONS = ("auto", "fp32", "bf16", "fp16")
_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class Runtime:
    """One device and one precision, in each of the run's processes.

    `precision` and `device` hold what was chosen; a step asks for nothing but :meth:`autocast`,
    :meth:`drawing`, :meth:`scaled` and :meth:`update`.
    """

    def __init__(
        self,
        *,
        device: str,
        precision: str,
        compile: bool | str = False,
        processes: Processes = ALONE,
    ) -> None:
        self.processes = processes
        self.device = choose_device(device)
        if self.device.type == "cuda" and processes.count > 1:
            self.device = own_gpu(processes)
        self.precision, why = choose_precision(precision, self.device)
        self.compilation = Compilation(compile, self.device)
        self._scaler = torch.amp.GradScaler(self.device.type, enabled=self.precision == "fp16")
        if self.device.type == "cuda":
            torch.backends.cudnn.benchmark = True
        log.info("device %s, precision %s (%s)", self.device, self.precision, why)

    def prepare(self, method: nn.Module) -> None:
        """Moves a method to the device; compiles its parts (encoder, projector, loss, teacher) if
        that was decided."""
        self.place(method)
        self.compilation.of_parts(method)

    def compiled(
        self, function: Callable[P, T], options: dict[str, Any] | None = None
    ) -> Callable[P, T]:
        """A function of tensors, such as an augmentation, compiled if that was decided. options:
        the compiler's."""
        return self.compilation.of(function, options)

    def place(self, module: Module) -> Module:
        """Moves a module to the device, in channels-last order, in place; on the CPU its
        convolutions are those that are fast and right there."""
        if self.device.type == "cpu":
            use_winograd(module)  # which computes as usual in half precision
            use_float32_where_half_is_wrong(module)
        return module.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]

    def autocast(self) -> AbstractContextManager[None]:
        """Half precision where the run uses it; float32 otherwise."""
        return torch.autocast(
            self.device.type, _DTYPES[self.precision], enabled=self.precision != "fp32"
        )

    @contextmanager
    def drawing(self, seed: int, *name: str | int) -> Iterator[None]:
        """Layers that draw (dropout) draw as the seed and the name say, and leave no trace."""
        with seeded(seed, *name):
            if self.device.type != "cuda" or not torch.cuda.is_available():
                yield
                return
            with torch.random.fork_rng(devices=[self.device]):
                torch.cuda.manual_seed(derive(seed, *name))
                yield

    def scaled(self, loss: Tensor) -> Tensor:
        """The loss to go backward from: in fp16 it is scaled, so that gradients don't vanish."""
        return self._scaler.scale(loss)

    def update(self, optimizer: torch.optim.Optimizer) -> None:
        """One optimiser step with the gradients of a scaled loss."""
        with record_function("optimizer"):
            self._scaler.step(optimizer)
            self._scaler.update()
        self.compilation.step_done()

    def state_dict(self) -> dict[str, Any]:
        return {"precision": self.precision, "scaler": self._scaler.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._scaler.load_state_dict(state["scaler"])


@contextmanager
def reproducible(device: torch.device, *, wanted: bool) -> Iterator[None]:
    """On CUDA, the same bits each time inside the block: operations that sum in any order are
    replaced by slower ones, or raise RuntimeError where there is none. A CPU always computes so. It
    must be entered before the first product on the GPU."""
    if not wanted or device.type != "cuda":
        yield
        return
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # as cuBLAS asks for
    before = torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0])
        torch.backends.cudnn.benchmark = before[1]


def choose_device(name: str) -> torch.device:
    """`auto` is CUDA, else MPS, else the CPU. Raises RequestError for one that is not there."""
    there = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    if name == "auto":
        name = next(device for device, available in there.items() if available)
    if not there.get(name):
        available = ", ".join(device for device, yes in there.items() if yes)
        raise RequestError(f"device={name}: there is none on this machine; give {available}")
    return torch.device(name)


def own_gpu(processes: Processes) -> torch.device:
    """The GPU of this process, one each. Raises RequestError where there are too few."""
    count = torch.cuda.device_count()
    if processes.local_count > count:
        raise RequestError(
            f"{processes.local_count} processes and {count} GPUs on this machine; start at most "
            f"{count} here (torchrun --nproc-per-node {count})"
        )
    torch.cuda.set_device(processes.local_rank)
    return torch.device("cuda", processes.local_rank)


def choose_precision(name: str, device: torch.device) -> tuple[str, str]:
    """The precision for `name` and the reason for it."""
    if name == "fp16" and device.type == "cpu":
        raise RequestError("precision=fp16 does not train on the CPU; give auto, fp32 or bf16")
    if name != "auto":
        return name, "as given"
    if device.type == "cuda":
        if torch.cuda.is_bf16_supported(including_emulation=False):
            return "bf16", "auto: the GPU computes in it"
        return "fp16", "auto: the GPU has no bf16"
    if device.type == "cpu":
        if cpu_computes_in_bf16():
            return "bf16", "auto: the CPU has instructions for it"
        return "fp32", "auto: the CPU has no bf16 instructions, so half precision would be slower"
    return "fp32", "auto"


def cpu_computes_in_bf16() -> bool:
    """Whether the CPU has AVX-512-bf16 or AMX; without them bf16 is emulated and slower."""
    if hasattr(torch.cpu, "get_capabilities"):
        has = torch.cpu.get_capabilities()
        return bool(has.get("avx512_bf16") or has.get("amx_bf16"))
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def device_name(device: torch.device) -> str:
    """The device with its maker's name where that is known: `cuda (NVIDIA H100)`."""
    if device.type == "cuda":
        return f"cuda ({torch.cuda.get_device_name(device)})"
    if device.type == "cpu":
        return f"cpu ({torch.backends.cpu.get_cpu_capability()})"
    return f"{device.type} ({platform.processor() or platform.machine()})"


def available_cpus() -> int:
    """The CPUs that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
