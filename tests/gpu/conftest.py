"""The device of these tests: a GPU, without which they are skipped, or what TCL_TRAIN_TEST_DEVICE
names, for scripts/gpu_check.sh to be rehearsed on a CPU."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import pytest
import torch


@pytest.fixture(scope="session")
def device() -> str:
    name = os.environ.get("TCL_TRAIN_TEST_DEVICE", "cuda")
    if name == "cuda" and not torch.cuda.is_available():
        pytest.skip("there is no GPU")
    return name


@pytest.fixture
def waiting_forbidden(device: str) -> Callable[[], AbstractContextManager[None]]:
    """`with waiting_forbidden():` raises where the host waits for a GPU."""

    @contextmanager
    def forbid() -> Iterator[None]:
        if device == "cpu":
            yield
            return
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch calls the mode a prototype
            torch.cuda.set_sync_debug_mode("error")
            try:
                yield
            finally:
                torch.cuda.set_sync_debug_mode(0)

    return forbid
