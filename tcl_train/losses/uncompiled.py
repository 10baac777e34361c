"""Keeping torch.compile out of what it cannot make faster."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

import torch

P = ParamSpec("P")
T = TypeVar("T")


def uncompiled(function: Callable[P, T]) -> Callable[P, T]:
    """`torch.compiler.disable`, which always loads the compiler: two seconds at the start of every
    run. Here that waits until something else has loaded it; before, nothing is compiled."""
    disabled: list[Callable[P, T]] = []

    @wraps(function)
    def call(*args: P.args, **keys: P.kwargs) -> T:
        if not disabled:
            if "torch._dynamo" not in sys.modules:
                return function(*args, **keys)
            disabled.append(torch.compiler.disable(function))
        return disabled[0](*args, **keys)

    return call
