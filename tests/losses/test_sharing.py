"""Losses whose blocks are shared out: the same values and gradients in each process as alone.

The processes are threads here; tests/engine/test_processes.py has real ones.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import Tensor

from tcl_train.losses import TCL, HardContrastive, NPairs, PairLoss, SupCon, blockwise, negatives
from tcl_train.losses.blockwise import Tile, WorkShare, current_share, symmetric, work_shared

ROWS = 60
LOSSES = {
    "tcl": TCL(k1=5.0),
    "supcon": SupCon(tau=0.1),
    "logarithms": SupCon(tau=0.001),
    "npairs": NPairs(),
    "hard": HardContrastive(tau=0.2),
}


class AddingUp:
    """What `count` threads bring is added up."""

    def __init__(self, count: int) -> None:
        self.barrier = threading.Barrier(count, timeout=30)
        self.brought: dict[int, list[Tensor]] = {}

    def of_rank(self, rank: int) -> Callable[[list[Tensor]], None]:
        def add_up(tensors: list[Tensor]) -> None:
            self.brought[rank] = [tensor.clone() for tensor in tensors]
            self.barrier.wait()
            totals = [sum(parts) for parts in zip(*self.brought.values(), strict=True)]
            self.barrier.wait()
            for tensor, total in zip(tensors, totals, strict=True):
                tensor.copy_(total)

        return add_up


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(blockwise.TILES, "cpu", Tile(7, 9, 8))
    monkeypatch.setattr(negatives, "MOST_PAIRS", 8 * ROWS)


def rows_and_labels() -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(0)
    z_ND = torch.randn(ROWS, 5, generator=g, dtype=torch.float64)
    return z_ND, torch.randint(9, (ROWS,), generator=g)


def value_and_gradient(loss: PairLoss) -> tuple[Tensor, Tensor]:
    z_ND, y_N = rows_and_labels()
    z_ND.requires_grad_()
    value = loss(z_ND, y_N)
    (gradient_ND,) = torch.autograd.grad(value, z_ND)
    return value.detach(), gradient_ND


@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize("name", LOSSES)
def test_every_process_has_the_whole_loss(name: str, count: int) -> None:
    value, gradient_ND = value_and_gradient(LOSSES[name])
    adding_up = AddingUp(count)

    def in_thread(rank: int) -> tuple[Tensor, Tensor]:
        with work_shared(rank, count, adding_up.of_rank(rank)):
            return value_and_gradient(LOSSES[name])

    with ThreadPoolExecutor(count) as threads:
        for shared_value, shared_ND in threads.map(in_thread, range(count)):
            torch.testing.assert_close(shared_value, value, rtol=1e-12, atol=0)
            torch.testing.assert_close(shared_ND, gradient_ND, rtol=1e-10, atol=1e-14)
    assert adding_up.brought  # nothing would be shared of rows that are one block


def test_each_process_makes_its_part_of_the_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []
    make = symmetric._logits_of_unit_rows

    def counted(*arguments: object) -> Tensor:
        made.append(1)
        return make(*arguments)

    monkeypatch.setattr(symmetric, "_logits_of_unit_rows", counted)
    value_and_gradient(LOSSES["tcl"])
    alone = len(made)
    made.clear()
    with work_shared(1, 3, lambda _: None):
        value_and_gradient(LOSSES["tcl"])
    assert abs(len(made) - alone / 3) <= 2


def test_outside_of_the_block_nothing_is_shared() -> None:
    with work_shared(1, 2, lambda _: None):
        assert current_share().count == 2
    assert current_share() == WorkShare()
