"""Crops, flips and affine maps."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from tcl_train import checks
from tcl_train.data.augment.transform import (
    OfChosen,
    Parameters,
    Transform,
    as_float,
    draw_chosen,
    sides_of,
    truncated,
)


class RandomResizedCrop(Transform):
    """A random box of the image, resized to the output size.

    The box has a share of the image's area from `scale` and a side ratio from `ratio`
    (log-uniform); its position is uniform. If ten tries give no box inside the image, the whole
    image is taken. Distribution and pixels (bilinear, antialiased where it shrinks) equal
    torchvision's transform of the same name on tensors.

    The parameters may hold those of a :class:`HorizontalFlip` that comes next: it costs nothing to
    take the pixels from right to left.
    """

    TRIES = 10
    NUMBERS = 2 * TRIES + 2

    def __init__(
        self, scale: Sequence[float] = (0.2, 1.0), ratio: Sequence[float] = (3 / 4, 4 / 3)
    ) -> None:
        self.scale = checks.interval("scale", scale, at_least=1e-3, at_most=1)
        self.ratio = checks.interval("ratio", ratio, at_least=0.1, at_most=10)

    def output_size(self, height: int, width: int, size: int) -> tuple[int, int]:  # noqa: ARG002
        return size, size

    def draw(self, count: int, height: int, width: int, g: torch.Generator) -> Parameters:
        return self.boxes(self.draw_numbers(count, g), height, width)

    def draw_numbers(self, count: int, g: torch.Generator) -> Tensor:
        """Random numbers that determine a box for any image size: (count, NUMBERS), uniform in
        [0, 1)."""
        tries = (torch.rand(count, self.TRIES, generator=g) for _ in range(2))
        place = (torch.rand(count, 1, generator=g) for _ in range(2))
        return torch.cat([*tries, *place], 1)

    def boxes(self, numbers_NK: Tensor, height: int | Tensor, width: int | Tensor) -> Parameters:
        """The boxes in images of this size; for all, or of each (N,)."""
        u_NT, v_NT, place_N2 = numbers_NK.split([self.TRIES, self.TRIES, 2], 1)
        height_N1, width_N1 = (
            torch.as_tensor(side, dtype=torch.float32).expand(len(numbers_NK))[:, None]
            for side in (height, width)
        )
        w_NT, h_NT = sides_of(
            u_NT, v_NT, area=height_N1 * width_N1, scale=self.scale, ratio=self.ratio
        )
        return self._first_that_fits(h_NT, w_NT, place_N2, height_N1, width_N1)

    def _first_that_fits(
        self, h_NT: Tensor, w_NT: Tensor, place_N2: Tensor, height_N1: Tensor, width_N1: Tensor
    ) -> Parameters:
        fits_NT = (w_NT >= 1) & (w_NT <= width_N1) & (h_NT >= 1) & (h_NT <= height_N1)
        first_N1 = fits_NT.int().argmax(1, keepdim=True)
        any_N = fits_NT.any(1)
        height_N, width_N = height_N1[:, 0], width_N1[:, 0]
        h_N = torch.where(any_N, h_NT.gather(1, first_N1)[:, 0], height_N)
        w_N = torch.where(any_N, w_NT.gather(1, first_N1)[:, 0], width_N)
        top_N = (place_N2[:, 0] * (height_N - h_N + 1)).floor()
        left_N = (place_N2[:, 1] * (width_N - w_N + 1)).floor()
        return {"top": top_N, "left": left_N, "height": h_N, "width": w_N}

    def columns(self, parameters: Parameters, height: int, width: int, size: int) -> Parameters:  # noqa: ARG002
        """Both axes of a box side by side."""
        start_N2 = torch.stack([parameters["top"], parameters["left"]], 1)
        length_N2 = torch.stack([parameters["height"], parameters["width"]], 1)
        return {"start": start_N2, "length": length_N2}

    def apply(self, x_NCHW: Tensor, parameters: Parameters, size: int) -> Tensor:
        height, width = x_NCHW.shape[2:]
        columns = self.columns(parameters, height, width, size)
        if "flip" in parameters:
            columns["flip"] = parameters["flip"]
        there = {
            name: value.to(x_NCHW.device, non_blocking=True) for name, value in columns.items()
        }
        return self.apply_static(x_NCHW, there, size)

    def apply_static(self, x_NCHW: Tensor, columns: Parameters, size: int) -> Tensor:
        start_N2, length_N2 = columns["start"], columns["length"]
        height, width = x_NCHW.shape[2:]
        if max(height, width) <= size:  # no box shrinks
            rows_NS, columns_NS = enlarging_positions(start_N2, length_N2, size).unbind(1)
            columns_NS = mirrored(columns_NS, columns.get("flip"))
            return sample(as_float(x_NCHW), rows_NS, columns_NS)
        (top_N, left_N), (height_N, width_N) = start_N2.unbind(1), length_N2.unbind(1)
        rows_NSH = interpolation_weights(top_N, height_N, height, size)
        columns_NSW = interpolation_weights(left_N, width_N, width, size)
        return resample(x_NCHW, rows_NSH, mirrored(columns_NSW, columns.get("flip")))


def mirrored(output_NS: Tensor, flip_N: Tensor | None) -> Tensor:
    """From the last output pixel to the first (along dimension 1) where `flip`."""
    if flip_N is None:
        return output_NS
    flip_N1 = flip_N.view(-1, *[1] * (output_NS.dim() - 1))
    return torch.where(flip_N1, output_NS.flip(1), output_NS)


def enlarging_positions(start_NA: Tensor, length_NA: Tensor, size: int) -> Tensor:
    """Along each of A axes, where in the interval [start, start + length) of pixels each of `size`
    output pixels, no larger than those, has its centre (N, A, size); the centre of pixel 0 is at
    0, and positions stay between the centres of the interval's first and last pixel."""
    output_S = torch.arange(size, device=start_NA.device) + 0.5
    position_NAS = output_S * (length_NA / size)[..., None] + (start_NA - 0.5)[..., None]
    last_NA1 = (start_NA + length_NA - 1)[..., None]
    return torch.minimum(torch.maximum(position_NAS, start_NA[..., None]), last_NA1)


def sample(x_NCHW: Tensor, rows_NS: Tensor, columns_NS: Tensor) -> Tensor:
    """The images (N, C, S, S) at these positions, bilinear between pixels."""
    n, _, h, w = x_NCHW.shape
    size = rows_NS.shape[1]
    # In the unit of grid_sample, pixels have a width of 2 / w and the image begins at -1.
    across_N1S = ((columns_NS * 2 + 1) / w - 1)[:, None, :]
    along_NS1 = ((rows_NS * 2 + 1) / h - 1)[:, :, None]
    planes = [across_N1S.expand(n, size, size), along_NS1.expand(n, size, size)]
    grid_NSS2 = torch.stack(planes, 1).permute(0, 2, 3, 1)
    return F.grid_sample(
        x_NCHW, grid_NSS2, mode="bilinear", padding_mode="border", align_corners=False
    )


def interpolation_weights(start_N: Tensor, length_N: Tensor, extent: int, size: int) -> Tensor:
    """Along one axis, the weights (N, size, extent) with which the pixels of the interval
    [start, start + length) make `size` output pixels: a triangle filter, as wide as an output
    pixel where the interval shrinks (antialiasing) and as an input pixel where it grows."""
    scale_N11 = (length_N / size)[:, None, None]
    low_N11 = start_N[:, None, None]
    output_S1 = torch.arange(size, device=start_N.device)[:, None] + 0.5
    input_E = torch.arange(extent, device=start_N.device) + 0.5
    centre_NS1 = low_N11 + output_S1 * scale_N11
    weight_NSE = (input_E - centre_NS1).abs_().div_(scale_N11.clamp(min=1)).neg_().add_(1)
    # The distance to the interval's nearer end, plus a half: 1 or more inside and 0 or less
    # outside, since ends are whole and pixel centres are halves. So the minimum cuts it out.
    inside_N1E = torch.minimum(input_E - low_N11, low_N11 + length_N[:, None, None] - input_E)
    weight_NSE = torch.minimum(weight_NSE, inside_N1E.add_(0.5)).clamp_(min=0)
    return weight_NSE.div_(weight_NSE.sum(2, keepdim=True))


def resample(x_NCHW: Tensor, rows_NSH: Tensor, columns_NSW: Tensor) -> Tensor:
    """Applies one weight matrix per axis and image: float32 in [0, 1], (N, C, S, S)."""
    n, c, h, w = x_NCHW.shape
    size = rows_NSH.shape[1]
    if x_NCHW.dtype == torch.uint8:
        rows_NSH = rows_NSH / 255
    # Rows outermost, so that both products are one batched matrix product without a copy.
    x_NHCW = x_NCHW.permute(0, 2, 1, 3).to(torch.float32, memory_format=torch.contiguous_format)
    x_NSCW = torch.bmm(rows_NSH, x_NHCW.reshape(n, h, c * w))
    x_NSCS = torch.bmm(x_NSCW.view(n, size * c, w), columns_NSW.transpose(1, 2))
    return x_NSCS.view(n, size, c, size).permute(0, 2, 1, 3)


class PadCrop(Transform):
    """Zero padding on all sides, then a crop of the output size at a uniform position. The
    parameters may hold those of a :class:`HorizontalFlip` that comes next."""

    def __init__(self, padding: int = 4) -> None:
        self.padding = checks.integer("padding", padding, at_least=0)

    def output_size(self, height: int, width: int, size: int) -> tuple[int, int]:
        if min(height, width) + 2 * self.padding < size:
            raise ValueError(
                f"images of {height} x {width} pixels, padded by {self.padding}, have no crop of "
                f"{size}"
            )
        return size, size

    def draw(self, count: int, height: int, width: int, g: torch.Generator) -> Parameters:  # noqa: ARG002
        return {"top": torch.rand(count, generator=g), "left": torch.rand(count, generator=g)}

    def columns(self, parameters: Parameters, height: int, width: int, size: int) -> Parameters:
        """The first row and column of a crop in its padded image."""
        self.output_size(height, width, size)
        share_N2 = torch.stack([parameters["top"], parameters["left"]], 1)
        room_2 = torch.tensor([height, width]) + 2 * self.padding - size + 1
        return {"start": (share_N2 * room_2).long()}

    def apply(self, x_NCHW: Tensor, parameters: Parameters, size: int) -> Tensor:
        columns = self.columns(parameters, x_NCHW.shape[2], x_NCHW.shape[3], size)
        padded_NCHW = F.pad(x_NCHW, [self.padding] * 4)
        n, c, h, w = padded_NCHW.shape
        device = x_NCHW.device
        top_N, left_N = columns["start"].to(device, non_blocking=True).unbind(1)
        # Every `size` neighbours in memory are a row of this view, so that the crop's rows are
        # picked out by where they begin: an index a row instead of one a pixel.
        starts = n * c * h * w - size + 1
        run_PS = padded_NCHW.view(-1).as_strided((starts, size), (1, 1))
        channel_NC1 = torch.arange(n * c, device=device).view(n, c, 1) * h
        row_NCS = channel_NC1 + top_N[:, None, None] + torch.arange(size, device=device)
        start_NCS = row_NCS * w + left_N[:, None, None]
        cropped_NCSS = run_PS.index_select(0, start_NCS.view(-1)).view(n, c, size, size)
        if "flip" in parameters:
            return HorizontalFlip().apply(cropped_NCSS, {"flip": parameters["flip"]}, size)
        return cropped_NCSS

    def apply_static(self, x_NCHW: Tensor, columns: Parameters, size: int) -> Tensor:
        n, c = x_NCHW.shape[:2]
        device = x_NCHW.device
        place_N2S = columns["start"][:, :, None] + torch.arange(size, device=device)
        rows_NS, columns_NS = place_N2S.unbind(1)
        columns_NS = mirrored(columns_NS, columns.get("flip"))
        image_N111 = torch.arange(n, device=device)[:, None, None, None]
        channel_C11 = torch.arange(c, device=device)[:, None, None]
        # The padding and the index are one loop where this is compiled.
        padded_NCHW = F.pad(x_NCHW, [self.padding] * 4)
        return padded_NCHW[
            image_N111, channel_C11, rows_NS[:, None, :, None], columns_NS[:, None, None]
        ]


class HorizontalFlip(OfChosen):
    """Mirrors left and right, with probability p."""

    choice = "flip"
    takes_levels = True

    def __init__(self, p: float | Sequence[float] = 0.5) -> None:
        self.p = checks.probability("p", p)

    def draw(self, count: int, height: int, width: int, g: torch.Generator) -> Parameters:  # noqa: ARG002
        return {"flip": draw_chosen(g, self.p, count)}

    def change(self, x_NCHW: Tensor, parameters: Parameters, size: int) -> Tensor:  # noqa: ARG002
        return x_NCHW.flip(3)


def affine(x_NCHW: Tensor, matrix_N23: Tensor) -> Tensor:
    """Each output pixel is the nearest input pixel to where its image's matrix maps it, in pixels
    from the image's centre, or black outside.

    uint8 in and out. Equals torchvision's affine on tensors, except that positions halfway between
    two pixels may round the other way.
    """
    return truncated(moved(x_NCHW.float(), grid_matrices(matrix_N23, *x_NCHW.shape[2:])))


def grid_matrices(matrix_N23: Tensor, height: int, width: int) -> Tensor:
    """From matrices that map to pixels to those that map to the unit of grid_sample, in which the
    image reaches from -1 to 1."""
    x_N3, y_N3 = matrix_N23.unbind(1)
    return torch.stack([x_N3 * (2 / width), y_N3 * (2 / height)], 1)


def moved(x_NCHW: Tensor, matrix_N23: Tensor) -> Tensor:
    """:func:`affine` of floats by matrices that map pixels to the unit of grid_sample."""
    h, w = x_NCHW.shape[2:]
    device = x_NCHW.device
    down_H1 = torch.arange(-(h - 1) / 2, h / 2, device=device)[:, None]
    right_W = torch.arange(-(w - 1) / 2, w / 2, device=device)
    # Sums rather than a matrix product, which a GPU may carry out in half precision.
    across_N2, along_N2, shift_N2 = matrix_N23.unbind(2)
    moved_N2H1 = along_N2[..., None, None] * down_H1 + shift_N2[..., None, None]
    grid_N2HW = across_N2[..., None, None] * right_W + moved_N2H1
    return F.grid_sample(
        x_NCHW,
        grid_N2HW.permute(0, 2, 3, 1),
        mode="nearest",
        padding_mode="zeros",
        align_corners=False,
    )
