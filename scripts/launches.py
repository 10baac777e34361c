"""Counts what a step would ask of a GPU, on fake CUDA tensors: no GPU and no CUDA are needed.

    with FakeTensorMode(), LaunchCounter() as counter:
        ...
    counter.total.launches, counter.phases["optimizer"].copies

What counts as a launch: each operation of ATen that computes something on the device, once, as
eager mode starts at least one kernel for it. Views, allocations, metadata and operations without a
value count as nothing; fused and foreach operations count as often as torch's multi-tensor kernels
are started for such tensors, one a tensor where their fast path does not take them; the norms of a
list count as three (a fill, the sums of parts, the sums of those). What libraries do inside of an
operation is not seen: a convolution's gradients are one operation and two kernels or more.

A copy is one between the host and the device. It blocks if the host waits for it: every copy to the
host, and one from it that is not non_blocking. (On CUDA only copies of pinned memory are sure not
to block; fake tensors do not tell whether memory is pinned.) Reading a value from the device
blocks, too (`.item()`, `nonzero`, an index by a mask).
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

WITHOUT_WORK = {
    "empty",
    "empty_like",
    "empty_strided",
    "empty_permuted",
    "new_empty",
    "new_empty_strided",
    "set_",
    "resize_",
    "record_stream",
    "is_pinned",
    "_unsafe_view",
    "_reshape_alias",
    "lift_fresh",
}
ASKING = {"_local_scalar_dense", "nonzero", "masked_select", "_unique2", "unique_consecutive"}
COPYING = ("_to_copy", "copy_")
OUTSIDE = "other"  # the phase of what no phase claims

# Of torch's multi-tensor kernels (aten/src/ATen/native/cuda/MultiTensorApply.cuh): values a chunk,
# chunks a launch, and tensors a launch by the number of lists.
CHUNK, CHUNKS = 65536, 320
TENSORS = (110, 64, 48, 36, 30)
NORM_OF_LIST = 2  # launches besides the multi-tensor ones


@dataclass
class Counts:
    """launches; copies between host and device; blocking: those and other waits of the host.
    operations: launches by the operation's name."""

    launches: int = 0
    copies: int = 0
    blocking: int = 0
    operations: Counter[str] = field(default_factory=Counter)

    def __add__(self, other: Counts) -> Counts:
        numbers = ("launches", "copies", "blocking", "operations")
        return Counts(*(getattr(self, name) + getattr(other, name) for name in numbers))


class LaunchCounter(TorchDispatchMode):
    """Counts inside the block, by the innermost `record_function` around each operation."""

    def __init__(self) -> None:
        super().__init__()
        self.phases: defaultdict[str, Counts] = defaultdict(Counts)
        self._inside: list[str] = []

    @property
    def total(self) -> Counts:
        return sum(self.phases.values(), Counts())

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        namespace, name = func._schema.name.split("::")
        if namespace == "profiler":
            self._enter_or_leave(name, args)
            return func(*args, **kwargs)
        given = _tensors((args, kwargs))
        # Fake tensors have no fused optimisers, which change tensors in place and return nothing.
        result = None if name.startswith("_fused_") else func(*args, **kwargs)
        counts = self.phases[self._inside[-1] if self._inside else OUTSIDE]
        made = _tensors(result)
        devices = {x.device.type for x in (*given, *made)}
        if namespace == "prim" or devices <= {"cpu", "meta"} or name in WITHOUT_WORK:
            return result
        if name in COPYING and "cpu" in devices:
            self._copied(counts, given[-1], _argument(func, args, kwargs, "non_blocking"))
            return result
        if name in ASKING or (name.startswith("index") and _has_mask(args)):
            counts.blocking += 1
        elif "cpu" in devices and any(x.device.type == "cpu" and x.ndim for x in given):
            counts.copies += 1  # an index of the host beside a tensor of the device
            counts.blocking += 1
        if name != "_local_scalar_dense":
            launches = _launches(func, name, args, made)
            counts.launches += launches
            counts.operations[name] += launches
        return result

    def _enter_or_leave(self, name: str, args: tuple[Any, ...]) -> None:
        if name.startswith("_record_function_enter"):
            phase, outer = args[0], self._inside[-1:]
            # An optimiser's own mark, Optimizer.step#SGD.step, belongs to the phase around it.
            self._inside.append(outer[0] if outer and "#" in phase else phase)
        elif self._inside:
            self._inside.pop()

    @staticmethod
    def _copied(counts: Counts, source: Tensor, non_blocking: bool) -> None:
        counts.copies += 1
        if source.device.type != "cpu" or not non_blocking:
            counts.blocking += 1


def _launches(func: Any, name: str, args: tuple[Any, ...], made: Sequence[Tensor]) -> int:
    if name.startswith(("_foreach_", "_fused_")):
        return _of_lists(name, args)
    aliases = [r.alias_info for r in func._schema.returns]
    if any(alias is not None and not alias.is_write for alias in aliases):
        return 0  # a view
    return int(not made or not all(_is_empty(x) for x in made))


def _is_empty(x: Tensor) -> bool:
    return any(isinstance(n, int) and n == 0 for n in x.shape)  # what depends on values is unknown


def _of_lists(name: str, args: tuple[Any, ...]) -> int:
    lists = [x for x in args if isinstance(x, (list, tuple)) and x and isinstance(x[0], Tensor)]
    lists = [x for x in lists if name.startswith("_foreach_") or x[0].ndim or x[0].numel() > 1]
    depth = len(lists) + (not name.endswith("_") and not name.startswith("_foreach_norm"))
    if name.startswith("_foreach_") and not _fast(lists):
        return len(lists[0])
    sizes = [x.numel() for x in lists[0]]
    return multi_tensor_launches(sizes, depth) + NORM_OF_LIST * (name == "_foreach_norm")


def _fast(lists: Sequence[Sequence[Tensor]]) -> bool:
    """Whether all tensors at one place have one size, dense and in one order, and all one type."""
    dtypes = {x.dtype for tensors in lists for x in tensors}
    alike = all(
        len({(x.shape, x.stride()) for x in together}) == 1 and _dense(together[0])
        for together in zip(*lists, strict=True)
    )
    return alike and len(dtypes) == 1


def _dense(x: Tensor) -> bool:
    """Whether its values lie side by side, in any order of the dimensions."""
    expected = 1
    for stride, size in sorted(zip(x.stride(), x.shape, strict=True)):
        if size > 1:
            if stride != expected:
                return False
            expected *= size
    return True


def multi_tensor_launches(sizes: Sequence[int], depth: int) -> int:
    """How many kernels a multi-tensor operation over `depth` lists of tensors of these sizes
    starts."""
    most = TENSORS[min(depth, len(TENSORS)) - 1]
    launches = tensors = chunks = 0
    for size in sizes:
        tensors += 1
        for chunk in range(last := -(-size // CHUNK)):
            chunks += 1
            ended = chunk == last - 1
            if chunks == CHUNKS or (ended and tensors == most):
                launches += 1
                chunks, tensors = 0, int(not ended)
    return launches + (chunks > 0)


def _tensors(tree: Any) -> list[Tensor]:
    return [x for x in tree_leaves(tree) if isinstance(x, Tensor)]


def _has_mask(args: tuple[Any, ...]) -> bool:
    indices = next((x for x in args if isinstance(x, (list, tuple))), ())
    return any(isinstance(x, Tensor) and x.dtype in (torch.bool, torch.uint8) for x in indices)


def _argument(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], name: str) -> Any:
    names = [argument.name for argument in func._schema.arguments]
    return {**dict(zip(names, args, strict=False)), **kwargs}.get(name)
