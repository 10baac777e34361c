"""Nearly orthogonal matrices by Newton-Schulz iterations: one at a time, or many with few kernels.

R, C: rows and columns of a matrix; S, L: its shorter and its longer side. K: matrices; N, E: rows
of equal width in which the values of all of them lie.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import groupby
from typing import NamedTuple

import torch
from torch import Tensor

# Coefficients of the odd polynomial a x + b x^3 + c x^5, which maps singular values in (0, 1] to
# about 1 in a few steps.
NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
TINY = 1e-7
# Rounding makes small negative numbers of G's eigenvalues that should be 0, and they grow a dozen
# times a step: after a few, G is computed anew.
STEPS_AT_ONCE = 3


def orthogonal(matrix_RC: Tensor, steps: int) -> Tensor:
    """Nearly the orthogonal matrix nearest to this one, up to a factor for each singular direction
    that comes closer to 1 with each step; zero stays zero."""
    rows, columns = matrix_RC.shape
    x = matrix_RC.T if rows > columns else matrix_RC
    x = x / (x.norm() + TINY)
    for done in range(0, steps, STEPS_AT_ONCE):
        x = _factor(x @ x.T, min(STEPS_AT_ONCE, steps - done)) @ x
    return x.T if rows > columns else x


def _factor(gram: Tensor, steps: int) -> Tensor:
    """A step is X <- (a + b G + c G^2) X with G = X X^T, the given one (S, S), or many of them
    (K, S, S). Its factor is a symmetric matrix P that commutes with G, so that the next G is
    G P^2, and X need not be known before the end: all steps are products of square matrices of the
    shorter side, and X is multiplied once, with the result."""
    a, b, c = NEWTON_SCHULZ
    add_product = torch.addmm if gram.ndim == 2 else torch.baddbmm
    factor: Tensor | None = None
    for step in range(steps):
        of_step = add_product(gram, gram, gram, beta=b, alpha=c)
        of_step.diagonal(dim1=-2, dim2=-1).add_(a)
        factor = of_step if factor is None else of_step @ factor
        if step + 1 < steps:
            gram = of_step @ (gram @ of_step)
    assert factor is not None
    return factor


# ------------------------------------------------------------------ many at once

# A class of sizes costs a dozen kernels; about so many operations take as long on a fast card.
WORTH_A_CLASS = 3e10
SQUARE_PRODUCTS = 9  # of three steps


class Alike(NamedTuple):
    """`size` matrices (R, C) of one shape; number k is the first and lies at `begin`."""

    k: int
    begin: int
    size: int
    rows: int
    columns: int

    @property
    def side(self) -> int:
        return min(self.rows, self.columns)


class Stack(NamedTuple):
    """How matrices of given shapes lie one after the other in a tensor, those of one shape side by
    side, and twice so: first what is made orthogonal, then the weights.

    order: the matrices in the order of the stack. fixed: places in it of those whose weights get
    the norm sqrt(R). classes: shapes that are handled together, zeros added to the smaller.
    width: of rows, each of which belongs to one matrix. dtype: of the products.
    lengths_K: the norms that all get, and at the end that of `one`, the scale of the other weights.
    """

    order: list[int]
    fixed: list[int]
    classes: list[list[Alike]]
    width: int
    dtype: torch.dtype
    one: Tensor
    lengths_K: Tensor
    scale_of_row_N: Tensor
    stretch_N1: Tensor

    @staticmethod
    def of(
        shapes: tuple[tuple[int, int], ...],
        fixed: tuple[bool, ...],
        device: torch.device,
        dtype: torch.dtype,
    ) -> Stack:
        """Of matrices (R, C) and whether their weights have a fixed norm."""
        order = sorted(range(len(shapes)), key=lambda k: (min(shapes[k]), shapes[k]), reverse=True)
        in_order = [shapes[k] for k in order]
        has_fixed = [place for place, k in enumerate(order) if fixed[k]]
        sizes = [rows * columns for rows, columns in in_order]
        width = math.gcd(*sizes)
        repeats = torch.tensor(sizes) // width
        last = len(sizes) + len(has_fixed)
        scales = [last] * len(sizes)
        for i, place in enumerate(has_fixed):
            scales[place] = len(sizes) + i
        scale_K = torch.tensor([*range(len(sizes)), *scales])
        scale_of_row_N = scale_K.repeat_interleave(
            repeats.repeat(2), output_size=2 * sum(sizes) // width
        )
        stretch_K = torch.tensor([max(1.0, r / c) ** 0.5 for r, c in in_order], dtype=dtype)
        stretch_N1 = stretch_K.repeat_interleave(repeats, output_size=sum(sizes) // width)[:, None]
        one = torch.ones((), dtype=dtype)
        lengths = [*[1.0] * len(sizes), *(in_order[k][0] ** 0.5 for k in has_fixed)]
        lengths_K = torch.cat([torch.tensor(lengths, dtype=dtype), (one + TINY)[None]])
        return Stack(
            order=order,
            fixed=has_fixed,
            classes=size_classes(in_order),
            width=width,
            dtype=product_dtype(device, dtype),
            one=one.to(device, non_blocking=True),
            lengths_K=lengths_K.to(device, non_blocking=True),
            scale_of_row_N=scale_of_row_N.to(device, non_blocking=True),
            stretch_N1=stretch_N1.to(device, non_blocking=True),
        )

    def orthogonal(self, x: Tensor, steps: int) -> Tensor:
        """:func:`orthogonal` of all matrices, which have the norm 1 and lie one after the other."""
        x = x.to(self.dtype)
        for done in range(0, steps, STEPS_AT_ONCE):
            result = torch.empty_like(x)
            for of_class in self.classes:
                _multiply(x, of_class, min(STEPS_AT_ONCE, steps - done), result)
            x = result
        return x


def _multiply(x: Tensor, of_class: list[Alike], steps: int, result: Tensor) -> None:
    """The steps for the matrices of one class. Zeros beside a smaller G change nothing in it."""
    first, count, side = of_class[0].k, sum(a.size for a in of_class), of_class[0].side
    gram_KSS = x.new_zeros(count, side, side)
    for alike in of_class:
        x_KRC = _matrices(x, alike)
        x_KSL = x_KRC.transpose(1, 2) if alike.rows > alike.columns else x_KRC
        torch.bmm(x_KSL, x_KSL.transpose(1, 2), out=_corner(gram_KSS, alike, first))
    factor_KSS = _factor(gram_KSS, steps)
    for alike in of_class:
        x_KRC, factor = _matrices(x, alike), _corner(factor_KSS, alike, first)
        pair = (x_KRC, factor) if alike.rows > alike.columns else (factor, x_KRC)
        torch.bmm(*pair, out=_matrices(result, alike))


def _matrices(flat: Tensor, alike: Alike) -> Tensor:
    values = alike.size * alike.rows * alike.columns
    return flat[alike.begin : alike.begin + values].view(alike.size, alike.rows, alike.columns)


def _corner(squares_KSS: Tensor, alike: Alike, first: int) -> Tensor:
    k = alike.k - first
    return squares_KSS[k : k + alike.size, : alike.side, : alike.side]


def size_classes(shapes: Sequence[tuple[int, int]]) -> list[list[Alike]]:
    """The shapes (R, C), sorted by their shorter sides, the largest first, in classes: a size joins
    the larger one before it where that costs less than separate kernels."""
    classes: list[list[Alike]] = []
    k = begin = 0
    for shape, same in groupby(shapes):
        alike = Alike(k, begin, len([*same]), *shape)
        k, begin = k + alike.size, begin + alike.size * shape[0] * shape[1]
        side = classes[-1][0].side if classes else 0
        more = 2 * SQUARE_PRODUCTS * alike.size * (side**3 - alike.side**3)
        if classes and more <= WORTH_A_CLASS:
            classes[-1].append(alike)
        else:
            classes.append([alike])
    return classes


def product_dtype(device: torch.device, dtype: torch.dtype) -> torch.dtype:
    """bf16 on GPUs that compute in it: three steps in it are within 1 to 4 % of float64, as the
    published form in bf16 is, which is far below what Newton-Schulz leaves of the differences
    between singular values."""
    in_bf16 = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.bfloat16 if in_bf16 and dtype == torch.float32 else dtype
