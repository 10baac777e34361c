"""Nearest images and near-duplicates by cosine similarity, block by block: memory grows with the
number of images, not with its square.

N: images; Q: queries; D: features; T: the nearest; P: pairs.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

BLOCK = 4096  # rows
ROUNDING = 1e-6  # by which the cosine of two equal rows may differ from 1


class Nearest(NamedTuple):
    """Of each query, the nearest first."""

    similarity_QT: Tensor
    index_QT: Tensor


class Pairs(NamedTuple):
    """first < second; the most similar pair first."""

    similarity_P: Tensor
    first_P: Tensor
    second_P: Tensor


class TooManyPairs(ValueError):
    """More than `most`."""


def nearest(x_ND: np.ndarray, query_QD: Tensor, *, top: int) -> Nearest:
    """The `top` rows (all, where there are fewer) with the largest cosine to each query."""
    query_QD = F.normalize(query_QD.float())
    best = Nearest(torch.empty(len(query_QD), 0), torch.empty(len(query_QD), 0, dtype=torch.int64))
    for start, block_BD in _blocks(x_ND):
        similarity_QB = query_QD @ block_BD.T
        index_B = torch.arange(start, start + len(block_BD)).expand_as(similarity_QB)
        all_QT = torch.cat([best.similarity_QT, similarity_QB], 1)
        index_QT = torch.cat([best.index_QT, index_B], 1)
        similarity_QT, places_QT = all_QT.topk(min(top, all_QT.shape[1]), dim=1)
        best = Nearest(similarity_QT, index_QT.gather(1, places_QT))
    return Nearest(best.similarity_QT.clamp_(-1, 1), best.index_QT)


def near_duplicates(x_ND: np.ndarray, *, threshold: float, most: int) -> Pairs:
    """All pairs of rows whose cosine is at least `threshold`, up to rounding.

    Raises:
        TooManyPairs: there are more than `most`.
    """
    parts: list[tuple[Tensor, Tensor, Tensor]] = []
    count = 0
    for row, rows_BD in _blocks(x_ND):
        for column, columns_BD in _blocks(x_ND, start=row):
            similarity_BB = rows_BD @ columns_BD.T
            found_BB = similarity_BB >= threshold - ROUNDING
            if row == column:
                found_BB = found_BB.triu(1)
            first_P, second_P = found_BB.nonzero(as_tuple=True)
            parts.append((similarity_BB[first_P, second_P], first_P + row, second_P + column))
            count += len(first_P)
            if count > most:
                raise TooManyPairs(f"more than {most:,} pairs")
    if not parts:
        empty = torch.empty(0, dtype=torch.int64)
        return Pairs(torch.empty(0), empty, empty)
    similarity_P, first_P, second_P = (torch.cat(of_all) for of_all in zip(*parts, strict=True))
    order_P = similarity_P.argsort(descending=True, stable=True)
    return Pairs(similarity_P[order_P].clamp_(-1, 1), first_P[order_P], second_P[order_P])


def _blocks(x_ND: np.ndarray, start: int = 0) -> Iterator[tuple[int, Tensor]]:
    """Rows of unit length, and the place of the first."""
    for place in range(start, len(x_ND), BLOCK):
        block_BD = torch.from_numpy(np.array(x_ND[place : place + BLOCK], np.float32))
        yield place, F.normalize(block_BD)
