"""3x3 convolutions by Winograd's minimal filtering, for CPUs that compute in float32.

A tile of m x m outputs of a 3x3 convolution needs 9 m^2 products when each output is computed by
itself, and (m + 2)^2 by Toom and Cook's interpolation. With the matrices of F(m, 3),

    y = A^T [(G w G^T) * (B^T x B)] A

for a tile x of (m + 2) x (m + 2) inputs and a filter w of 3 x 3, where * is element by element.
Summed over channels, the products become (m + 2)^2 products of matrices, and these are most of the
work. Source: Lavin and Gray 2016, "Fast Algorithms for Convolutional Neural Networks".

The gradient by the input is the same convolution with each filter turned by 180 degrees and the
channels swapped. The gradient by the filters is the adjoint of the equation:

    dw = G^T [(B^T x B) * (A dy A^T)] G, summed over the tiles

Rounding errors are two to three times those of the direct form, some 1e-5 of a standard deviation
of the outputs; training computes in far less precision on other devices.

Dimensions in names: N images, H rows, W columns, C channels in, O channels out, R and S rows and
columns of tiles, I and J the two axes within a tile, K those two as one, T tiles, X any others.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, library, nn

from tcl_train.autograd import ClosedForm, first_derivative

POINTS = (0.0, 1.0, -1.0, 0.5, -2.0)  # of the interpolation, and infinity
TILE_SIDES = (4, 3, 2)  # outputs along one axis of a tile
# With fewer channels than these the transforms cost more than the products save. The gradient by
# the filters gains more than the convolution, since oneDNN takes twice the time for it.
FEWEST_CHANNELS = 128
FEWEST_CHANNELS_OF_FILTERS = 64
SCRATCH_BYTES = 2**20  # of transformed tiles at a time for each thread: what a cache holds
FEWEST_TILES = 128  # at a time, so that the matrices are large enough to be multiplied fast


class WinogradConv2d(nn.Conv2d):
    """`nn.Conv2d` that uses Winograd's algorithm where it computes on a CPU in float32.

    Only for what :func:`suits` accepts. On other devices and in other precisions it is the usual
    convolution; parameters and state-dict keys are those of `nn.Conv2d` everywhere.
    """

    def forward(self, x_NCHW: Tensor) -> Tensor:
        on_cpu = x_NCHW.device.type == "cpu" and not torch.is_autocast_enabled("cpu")
        if on_cpu and x_NCHW.dtype == self.weight.dtype == torch.float32:
            return _Convolution.call(x_NCHW, self.weight)
        return super().forward(x_NCHW)


def suits(convolution: nn.Conv2d) -> bool:
    """Whether the algorithm can compute this convolution, and is likely to be faster."""
    return (
        convolution.kernel_size == (3, 3)
        and convolution.stride == convolution.dilation == convolution.padding == (1, 1)
        and convolution.padding_mode == "zeros"
        and convolution.groups == 1
        and convolution.bias is None
        and min(convolution.in_channels, convolution.out_channels) >= FEWEST_CHANNELS_OF_FILTERS
    )


def use_winograd(encoder: nn.Module) -> None:
    """Turns each `nn.Conv2d` that suits into a :class:`WinogradConv2d`, in place."""
    for module in encoder.modules():
        if type(module) is nn.Conv2d and suits(module):
            module.__class__ = WinogradConv2d


class _Convolution(ClosedForm):
    @staticmethod
    def forward(ctx: Any, x_NCHW: Tensor, w_OC33: Tensor) -> Tensor:
        ctx.save_for_backward(x_NCHW, w_OC33)
        return _faster(x_NCHW, w_OC33)

    @staticmethod
    @first_derivative
    def backward(ctx: Any, dy_NOHW: Tensor) -> tuple[Tensor | None, Tensor | None]:
        x_NCHW, w_OC33 = ctx.saved_tensors
        of_input, of_filters = ctx.needs_input_grad
        turned_CO33 = w_OC33.flip(2, 3).transpose(0, 1)
        return (
            _faster(dy_NOHW, turned_CO33) if of_input else None,
            torch.ops.tcl_train.winograd_filters(x_NCHW, dy_NOHW) if of_filters else None,
        )


def _faster(x_NCHW: Tensor, w_OC33: Tensor) -> Tensor:
    """The convolution by the algorithm that is faster for so many channels."""
    if min(w_OC33.shape[:2]) >= FEWEST_CHANNELS:
        return torch.ops.tcl_train.winograd(x_NCHW, w_OC33)
    return F.conv2d(x_NCHW, w_OC33, padding=1)


# ------------------------------------------------------------------ the matrices


class _Matrices(NamedTuple):
    """Of F(m, 3)."""

    inputs: Tensor  # B^T, (m + 2, m + 2)
    filters: Tensor  # G, (m + 2, 3)
    outputs: Tensor  # A^T, (m, m + 2)


@cache
def matrices(m: int) -> _Matrices:
    """Evaluation of polynomials at the points, and its transposed inverse."""
    cpu = torch.device("cpu")  # and not torch's default device
    points = torch.tensor(POINTS[: m + 1], dtype=torch.float64, device=cpu)

    def values(coefficients: int) -> Tensor:
        """At each point, from the coefficients; at infinity it is the leading one."""
        at_infinity = F.one_hot(torch.tensor([coefficients - 1], device=cpu), coefficients)
        return torch.cat([points[:, None] ** torch.arange(coefficients, device=cpu), at_infinity])

    return _Matrices(
        inputs=torch.linalg.inv(values(m + 2)).T.float().contiguous(),
        filters=values(3).float(),
        outputs=values(m).T.float().contiguous(),
    )


def _on_both_axes(matrix_JI: Tensor, x: Tensor, between: Tensor, out: Tensor) -> None:
    """out_JJX = sum over I, I' of matrix_JI matrix_JI' x_II'X; all flat. `out` may be `x`."""
    after, before = matrix_JI.shape
    torch.mm(matrix_JI, x.view(before, -1), out=between.view(after, -1))
    matrix_JJI = matrix_JI.expand(after, after, before)
    torch.bmm(matrix_JJI, between.view(after, before, -1), out=out.view(after, after, -1))


# ------------------------------------------------------------------ the tiles


class _Grid:
    """How images fall into tiles, and how many images are transformed at a time.

    channels: the most that any image has on its way.
    """

    def __init__(self, x_NCHW: Tensor, channels: int) -> None:
        self.images, _, height, width = x_NCHW.shape
        self.height, self.width = height, width
        self.new_empty, self.new_zeros = x_NCHW.new_empty, x_NCHW.new_zeros
        self.m = min(TILE_SIDES, key=lambda m: -(-height // m) * -(-width // m) * (m + 2) ** 2)
        self.rows, self.columns = -(-height // self.m), -(-width // self.m)
        self.points = (self.m + 2) ** 2
        tiles = SCRATCH_BYTES * torch.get_num_threads() / (4 * self.points * channels)
        enough = 1 + int(max(tiles, FEWEST_TILES)) // self.tiles(1)
        self.at_a_time = max(1, min(self.images, enough))

    def tiles(self, images: int) -> int:
        return images * self.rows * self.columns

    def chunks(self) -> Iterator[slice]:
        for start in range(0, self.images, self.at_a_time):
            yield slice(start, min(start + self.at_a_time, self.images))

    def scratch(self, channels: int) -> Tensor:
        """Space for the transformed tiles of a chunk."""
        return self.new_empty(self.points * self.tiles(self.at_a_time) * channels)

    def frame(self, channels: int, *, border: int) -> Tensor:
        """Zeros, in which a chunk's images of H x W lie inside a border, N R C."""
        height, width = self.rows * self.m + 2 * border, self.columns * self.m + 2 * border
        return self.new_zeros(self.at_a_time, height, width, channels)

    def fill(self, frame_NHWC: Tensor, x_NCHW: Tensor, *, border: int) -> Tensor:
        """Puts images into a frame; the part of it that holds them, with the border."""
        frame_NHWC = frame_NHWC[: len(x_NCHW)]
        inside = frame_NHWC[:, border : border + self.height, border : border + self.width]
        inside.copy_(x_NCHW.permute(0, 2, 3, 1))
        return frame_NHWC

    def inputs(self, frame_NHWC: Tensor, out: Tensor) -> Tensor:
        """Tiles of (m + 2) x (m + 2), which overlap by 2, out of a frame with a border of 1."""
        n, height, width, channels = frame_NHWC.shape
        row, pixel = width * channels, channels
        side = self.m + 2
        shape = (side, side, n, self.rows, self.columns, channels)
        strides = (row, pixel, height * row, self.m * row, self.m * pixel, 1)
        tiles = out[: self.points * self.tiles(n) * channels]
        tiles.view(shape).copy_(frame_NHWC.as_strided(shape, strides))
        return tiles

    def outputs(self, y_NHWC: Tensor) -> Tensor:
        """Tiles of m x m side by side, as I J N R S C; a view."""
        n, _, _, channels = y_NHWC.shape
        y_NRISJC = y_NHWC.view(n, self.rows, self.m, self.columns, self.m, channels)
        return y_NRISJC.permute(2, 4, 0, 1, 3, 5)


# ------------------------------------------------------------------ the two operators


def _convolve(x_NCHW: Tensor, w_OC33: Tensor) -> Tensor:
    """The 3x3 convolution with a border of zeros; (N, O, H, W) in channels-last order."""
    n, c, height, width = x_NCHW.shape
    o = len(w_OC33)
    grid = _Grid(x_NCHW, max(c, o))
    m, points = grid.m, grid.points
    b, g, a = matrices(m)
    w_KCO = grid.new_empty(points, c, o)
    filters = w_OC33.permute(2, 3, 1, 0).contiguous()
    between = grid.new_empty((m + 2) * 3 * c * o)
    _on_both_axes(g, filters.view(-1), between, w_KCO.view(-1))
    frame_NHWC = grid.frame(c, border=1)
    one, two = grid.scratch(max(c, o)), grid.scratch(max(c, o))
    y_NHWO = grid.new_empty(n, grid.rows * m, grid.columns * m, o)
    for chunk in grid.chunks():
        x_KTC = grid.inputs(grid.fill(frame_NHWC, x_NCHW[chunk], border=1), out=one)
        _on_both_axes(b, x_KTC, two[: x_KTC.numel()], x_KTC)
        tiles = grid.tiles(chunk.stop - chunk.start)
        y_KTO = two[: points * tiles * o]
        torch.bmm(x_KTC.view(points, tiles, c), w_KCO, out=y_KTO.view(points, tiles, o))
        y_IJTO = two[: m * m * tiles * o]
        _on_both_axes(a, y_KTO, one[: m * (m + 2) * tiles * o], y_IJTO)
        y = grid.outputs(y_NHWO[chunk])
        y.copy_(y_IJTO.view(y.shape))
    return y_NHWO[:, :height, :width].contiguous().permute(0, 3, 1, 2)


def _gradient_by_filters(x_NCHW: Tensor, dy_NOHW: Tensor) -> Tensor:
    """(O, C, 3, 3), summed over images and positions."""
    c, o = x_NCHW.shape[1], dy_NOHW.shape[1]
    grid = _Grid(x_NCHW, max(c, o))
    m, points = grid.m, grid.points
    b, g, a = matrices(m)
    adjoint_of_a, adjoint_of_g = a.T.contiguous(), g.T.contiguous()
    x_frame_NHWC, dy_frame_NHWO = grid.frame(c, border=1), grid.frame(o, border=0)
    one, two, between = grid.scratch(c), grid.scratch(o), grid.scratch(max(c, o))
    dw_KCO = grid.new_zeros(points, c, o)
    for chunk in grid.chunks():
        x_KTC = grid.inputs(grid.fill(x_frame_NHWC, x_NCHW[chunk], border=1), out=one)
        _on_both_axes(b, x_KTC, between[: x_KTC.numel()], x_KTC)
        tiles = grid.tiles(chunk.stop - chunk.start)
        dy = grid.outputs(grid.fill(dy_frame_NHWO, dy_NOHW[chunk], border=0))
        dy_IJTO = two[: m * m * tiles * o]
        dy_IJTO.view(dy.shape).copy_(dy)
        dy_KTO = two[: points * tiles * o]
        _on_both_axes(adjoint_of_a, dy_IJTO, between[: (m + 2) * m * tiles * o], dy_KTO)
        x_KCT = x_KTC.view(points, tiles, c).transpose(1, 2)
        dw_KCO.baddbmm_(x_KCT, dy_KTO.view(points, tiles, o))
    dw_33CO = grid.new_empty(3, 3, c, o)
    between = grid.new_empty(3 * (m + 2) * c * o)
    _on_both_axes(adjoint_of_g, dw_KCO.view(-1), between, dw_33CO.view(-1))
    return dw_33CO.permute(3, 2, 0, 1)


# As operators they stay whole under torch.compile and have shapes for tensors without values.
# (A `custom_op` would do both, and load the compiler at the start of every run.)
_LIBRARY = library.Library("tcl_train", "DEF")
_LIBRARY.define("winograd(Tensor x, Tensor w) -> Tensor")
_LIBRARY.define("winograd_filters(Tensor x, Tensor dy) -> Tensor")
_LIBRARY.impl("winograd", _convolve, "CPU")
_LIBRARY.impl("winograd_filters", _gradient_by_filters, "CPU")


def _shape_of_convolution(x_NCHW: Tensor, w_OC33: Tensor) -> Tensor:
    n, _, height, width = x_NCHW.shape
    y_NHWO = x_NCHW.new_empty(n, height, width, len(w_OC33))
    return y_NHWO.permute(0, 3, 1, 2)


def _shape_of_gradient(x_NCHW: Tensor, dy_NOHW: Tensor) -> Tensor:
    dw_33CO = x_NCHW.new_empty(3, 3, x_NCHW.shape[1], dy_NOHW.shape[1])
    return dw_33CO.permute(3, 2, 0, 1)


_LIBRARY.impl("winograd", _shape_of_convolution, "Meta")
_LIBRARY.impl("winograd_filters", _shape_of_gradient, "Meta")
