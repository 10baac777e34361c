"""The contrastive losses, each beside its equation, and the batches that the tests show them.

A new contrastive loss is one line in CONTRASTIVE: its equation for one anchor, and the settings to
try. The tests of this folder then go over it.

The oracle is a float64 double loop written from the equations, with no log-sum-exp and no tensor
algebra in common with the package: e^{1/0.01} fits into float64 as it is.

N: rows; D: embedding dimensions; `positives`, `negatives`: lists of s_ij of one anchor.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import ceil, exp, log, sqrt
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tcl_train.losses import (
    TCL,
    HardContrastive,
    NPairs,
    NTXent,
    PairLoss,
    SimpleContrastive,
    SupCon,
    Triplet,
    blockwise,
    negatives,
)

# ------------------------------------------------------------------ the equations


def ntxent_anchor(positives: list[float], negatives: list[float], *, tau: float) -> float:
    """SimCLR's loss for each positive of the anchor in turn, averaged."""
    everyone = sum(exp(s / tau) for s in positives + negatives)
    return sum(-log(exp(s / tau) / everyone) for s in positives) / len(positives)


def supcon_anchor(
    positives: list[float], negatives: list[float], *, tau: float, form: str
) -> float:
    """SupCon, equations 2 (out) and 3 (in)."""
    everyone = sum(exp(s / tau) for s in positives + negatives)
    if form == "out":
        return -sum(log(exp(s / tau) / everyone) for s in positives) / len(positives)
    return -log(sum(exp(s / tau) for s in positives) / len(positives) / everyone)


def tcl_anchor(
    positives: list[float], negatives: list[float], *, tau: float, k1: float, k2: float
) -> float:
    """TCL, with D_i as printed."""
    d = (
        sum(exp(s / tau) for s in positives)
        + k1 * sum(exp(-s) for s in positives)
        + k2 * sum(exp(s / tau) for s in negatives)
    )
    return -sum(log(exp(s / tau) / d) for s in positives) / len(positives)


def npairs_anchor(positives: list[float], negatives: list[float]) -> float:
    """L_out without temperature."""
    return ntxent_anchor(positives, negatives, tau=1.0)


def hardest(negatives: list[float], alpha: float | None) -> list[float]:
    """The share alpha with the largest similarity, at least one; None keeps all."""
    kept = len(negatives) if alpha is None else max(1, ceil(round(alpha * len(negatives), 9)))
    return sorted(negatives, reverse=True)[:kept]


def hard_anchor(
    positives: list[float], negatives: list[float], *, tau: float, alpha: float
) -> float:
    """Wang and Liu, equation 8."""
    return ntxent_anchor(positives, hardest(negatives, alpha), tau=tau)


def simple_anchor(
    positives: list[float], negatives: list[float], *, lam: float, alpha: float | None
) -> float:
    """Wang and Liu, equations 6 and 9."""
    return -sum(positives) / len(positives) + lam * sum(hardest(negatives, alpha))


def triplet_anchor(positives: list[float], negatives: list[float], *, margin: float) -> float:
    """For unit rows |a - b|^2 = 2 - 2 s."""
    triplets = [max(0.0, (2 - 2 * p) - (2 - 2 * n) + margin) for p in positives for n in negatives]
    return sum(triplets) / len(triplets) if triplets else 0.0


@lru_cache
def pairs(
    rows: tuple[tuple[float, ...], ...], labels: tuple[int, ...], unit_rows: bool
) -> list[tuple[list[float], list[float]]]:
    """For each anchor, its similarities with its positives and with its negatives."""
    norms = [sqrt(sum(x * x for x in row)) if unit_rows else 1.0 for row in rows]
    anchors = []
    for i, row in enumerate(rows):
        positives: list[float] = []
        negatives: list[float] = []
        for j, other in enumerate(rows):
            if j != i:
                s = sum(a * b for a, b in zip(row, other, strict=True)) / (norms[i] * norms[j])
                (positives if labels[i] == labels[j] else negatives).append(s)
        anchors.append((positives, negatives))
    return anchors


# ------------------------------------------------------------------ the losses

TAUS = (0.01, 0.05, 0.1, 0.5, 1.0)

CONTRASTIVE: tuple[tuple[type[PairLoss], Callable[..., float], Mapping[str, Sequence[Any]]], ...]
CONTRASTIVE = (
    (NTXent, ntxent_anchor, {"tau": TAUS}),
    (SupCon, supcon_anchor, {"tau": TAUS, "form": ("out", "in")}),
    (TCL, tcl_anchor, {"tau": TAUS, "k1": (0.0, 1.0, 5e4, 1e6), "k2": (3.0,)}),
    (NPairs, npairs_anchor, {}),
    (HardContrastive, hard_anchor, {"tau": TAUS, "alpha": (0.01, 0.5)}),
    (SimpleContrastive, simple_anchor, {"lam": (0.1, 1.0), "alpha": (None, 0.01, 0.5)}),
    (Triplet, triplet_anchor, {"margin": (0.0, 0.5, 4.0)}),
)


@dataclass(frozen=True, repr=False)
class Setting:
    """A loss with its hyper-parameters, and what it should say."""

    kind: type[PairLoss]
    anchor_loss: Callable[..., float]
    hyper: Mapping[str, Any]

    def __repr__(self) -> str:
        return f"{self.kind.__name__}({', '.join(f'{k}={v}' for k, v in self.hyper.items())})"

    def loss(self) -> PairLoss:
        return self.kind(**self.hyper)

    def extreme(self, tau: float, weight: float) -> PairLoss:
        """With its temperature and its weights at these values, where it has them."""
        values = {"tau": tau, "k1": weight, "k2": weight, "lam": weight}
        return self.kind(**{k: values.get(k, v) for k, v in self.hyper.items()})

    def expected(self, z_ND: Tensor, y_N: Tensor) -> float:
        """The mean over the anchors that have a positive; 0 if none has."""
        rows = tuple(map(tuple, z_ND.detach().double().tolist()))
        anchors = pairs(rows, tuple(y_N.tolist()), self.kind.unit_rows)
        losses = [self.anchor_loss(p, n, **self.hyper) for p, n in anchors if p]
        return sum(losses) / len(losses) if losses else 0.0

    @property
    def slack(self) -> float:
        """What float32 may be off by where the loss is near zero: a similarity is right to about
        1e-7, a hundred times less where rows are not normalised; tau divides that error, and up to
        sixty of them are added."""
        if not self.kind.unit_rows:
            return 1e-4
        return max(1e-6 / self.hyper.get("tau", 1.0), 1e-5)


def settings_of(
    kind: type[PairLoss], anchor_loss: Callable[..., float], grid: Mapping[str, Sequence[Any]]
) -> list[Setting]:
    return [
        Setting(kind, anchor_loss, dict(zip(grid, values, strict=True)))
        for values in itertools.product(*grid.values())
    ]


KINDS = {kind.__name__: settings_of(kind, *rest) for kind, *rest in CONTRASTIVE}
MILD = [s for settings in KINDS.values() for s in settings if s.hyper.get("tau", 0.5) == 0.5]


@pytest.fixture(scope="session")
def kinds() -> set[str]:
    """The names of the losses that the tests of this folder go over."""
    return set(KINDS)


@pytest.fixture(scope="session")
def one_of_each() -> list[Setting]:
    """Each contrastive loss in its first setting."""
    return [settings[0] for settings in KINDS.values()]


@pytest.fixture(scope="session", params=KINDS.values(), ids=KINDS)
def every_setting(request: pytest.FixtureRequest) -> list[Setting]:
    """Each contrastive loss once, with all of its settings. A test that needs them all loops over
    them: as tests of their own they would be thousands."""
    return request.param


@pytest.fixture(scope="session", params=MILD, ids=repr)
def mild(request: pytest.FixtureRequest) -> Setting:
    """Each contrastive loss in each of its settings with tau = 0.5, or without tau."""
    return request.param


# ------------------------------------------------------------------ the batches


def batch(labels: Sequence[int], dimensions: int, seed: int) -> tuple[Tensor, Tensor]:
    """Random float64 rows of uneven lengths for these labels."""
    draw = torch.Generator().manual_seed(seed)
    z_ND = torch.randn(len(labels), dimensions, generator=draw, dtype=torch.float64)
    scale_N1 = 0.5 + torch.rand(len(labels), 1, generator=draw, dtype=torch.float64)
    return z_ND * scale_N1, torch.tensor(labels)


BATCHES = {
    "two rows, one pair": batch([4, 4], 3, 0),
    "random labels": batch([2, 0, 1, 1, 3, 0, 2, 2, 1, 0, 3, 3], 8, 1),
    "random labels, 60 rows": batch([(7 * i * i + i) % 9 for i in range(60)], 16, 2),
    "imbalanced": batch([0] * 14 + [1] * 3 + [2, 3], 5, 3),
    "one class": batch([7] * 9, 4, 4),
    "all distinct": batch([5, 3, 9, 0, 1, 8], 4, 5),
    "one pair among strangers": batch([0, 1, 2, 6, 3, 6, 4, 5], 4, 6),
    "one view, some without positives": batch([0, 1, 0, 2, 1, 3, 4], 6, 7),
    "two views": batch([0, 1, 2, 3, 4] * 2, 6, 8),
    "three views": batch([0, 1, 2, 3] * 3, 6, 9),
    "four views of two": batch([0, 1] * 4, 2, 10),
}


@pytest.fixture(scope="session", params=BATCHES.values(), ids=BATCHES)
def any_batch(request: pytest.FixtureRequest) -> tuple[Tensor, Tensor]:
    """Float64 rows and their labels."""
    return request.param


@pytest.fixture(scope="session")
def batches() -> list[tuple[Tensor, Tensor]]:
    """All of them, for a test that loops."""
    return list(BATCHES.values())


@pytest.fixture(scope="session")
def mixed_batch() -> tuple[Tensor, Tensor]:
    """Random rows with several positives, one, and none."""
    return batch([0, 1, 0, 2, 1, 3, 0, 5, 5, 1], 8, 11)


# ------------------------------------------------------------------ gradients


@pytest.fixture(scope="session")
def value_and_gradient() -> Callable[[nn.Module, Tensor, Tensor], tuple[Tensor, Tensor]]:
    """(loss, z, y) -> the loss and its gradient by the rows."""

    def measure(loss: nn.Module, z_ND: Tensor, y_N: Tensor) -> tuple[Tensor, Tensor]:
        z_ND = z_ND.detach().clone().requires_grad_()
        value = loss(z_ND, y_N)
        value.backward()
        assert z_ND.grad is not None
        return value.detach(), z_ND.grad

    return measure


@pytest.fixture(scope="session")
def gradient_by_similarity() -> Callable[[nn.Module, Tensor, Tensor], Tensor]:
    """(loss, z, y) -> the gradient by each similarity s_ij = s_ji of the batch, worked out from
    the gradient by the rows, so that it needs nothing of how a loss is computed.

    On unit rows the gradient by row i is sum_j h_ij (z_j - s_ij z_i). Where the rows are linearly
    independent (N <= D), h_ij is therefore its coordinate on z_j. The diagonal is no gradient.
    """

    def measure(loss: nn.Module, z_ND: Tensor, y_N: Tensor) -> Tensor:
        unit_ND = nn.functional.normalize(z_ND.double()).requires_grad_()
        loss(unit_ND, y_N).backward()
        return (unit_ND.grad @ torch.linalg.pinv(unit_ND.detach())).fill_diagonal_(0)

    return measure


@pytest.fixture(params=["one block", "many blocks"])
def engine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The batches of these tests fit into one block; those of users do not."""
    if request.param == "many blocks":
        monkeypatch.setitem(blockwise.TILES, "cpu", blockwise.Tile(3, 4, whole=2))
        monkeypatch.setattr(negatives, "MOST_PAIRS", 40)
