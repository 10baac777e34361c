"""Counting what a step asks of a GPU, on fake tensors."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

# Operations that start no kernel: other looks at the same memory, new memory, questions.
WITHOUT_KERNEL = {
    *("view", "_unsafe_view", "reshape", "_reshape_alias", "expand", "permute", "transpose", "t"),
    *("select", "slice", "narrow", "unsqueeze", "squeeze", "split", "split_with_sizes", "unbind"),
    *("as_strided", "alias", "detach", "unfold", "lift_fresh", "device", "is_pinned"),
    *("empty", "empty_strided", "empty_like", "new_empty", "new_empty_strided"),
}


class Launches(TorchDispatchMode):
    """`with Launches() as found:` below a FakeTensorMode: how many operations on a fake GPU start a
    kernel (`launches`, by name), and the copies to it from the host, `copies`: whether each lets
    the host go on. What asks for a value, and so waits, raises on fake tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.launches: Counter[str] = Counter()
        self.copies: list[bool] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        name = func.name().split("::")[1].split(".")[0]
        given = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        made = [x for x in tree_leaves(result) if isinstance(x, Tensor)]
        if all(x.device.type == "cpu" for x in (*given, *made)):
            return result
        if name in ("_to_copy", "copy_") and any(x.device.type == "cpu" for x in given):
            waits_not = args[2:3] == (True,) if name == "copy_" else False
            self.copies.append(bool(kwargs.get("non_blocking", waits_not)))
        elif name not in WITHOUT_KERNEL:
            self.launches[name] += 1
        return result


@pytest.fixture(scope="session")
def count_launches(fake_cuda: None) -> type[Launches]:
    """`with count_launches() as found:`"""
    return Launches
