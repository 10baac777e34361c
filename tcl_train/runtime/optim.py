"""torch's optimisers without what makes them load its compiler."""

from __future__ import annotations

import inspect
from typing import TypeVar

import torch

Kind = TypeVar("Kind", bound=torch.optim.Optimizer)


def without_compile_guards(kind: type[Kind]) -> type[Kind]:
    """The same optimiser without the wrappers that keep torch.compile out of its methods: at their
    first call they load the compiler, which takes a second or two of every run, and none of these
    methods is compiled here."""
    methods = {
        name: inspect.unwrap(getattr(kind, name))
        for name in ("add_param_group", "zero_grad", "state_dict", "load_state_dict")
    }
    methods["step"] = torch.no_grad()(inspect.unwrap(kind.step))
    named = {"__doc__": kind.__doc__, "__module__": kind.__module__}
    return type(kind.__name__, (kind,), {**named, **methods})


SGD = without_compile_guards(torch.optim.SGD)
AdamW = without_compile_guards(torch.optim.AdamW)
LBFGS = without_compile_guards(torch.optim.LBFGS)
