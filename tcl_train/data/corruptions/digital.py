"""What cameras and files do: contrast, warping, large pixels and JPEG.

N: images; C: channels; H, W: rows and columns.
"""

from __future__ import annotations

import io

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from tcl_train.data.corruptions.blur import side_of
from tcl_train.data.corruptions.draws import Draws
from tcl_train.data.corruptions.fields import moved, random_field, smooth

ELASTIC_LENGTH = 0.1  # over which the displacement varies, as a share of the side


def contrast(x_NCHW: Tensor, factor: float, draws: Draws) -> Tensor:  # noqa: ARG001
    """factor: on the difference from the image's mean colour."""
    return torch.lerp(x_NCHW.mean((2, 3), keepdim=True), x_NCHW, factor)


def elastic_transform(x_NCHW: Tensor, amplitude: float, draws: Draws) -> Tensor:
    """Pixels are moved along a smooth random field. amplitude: the standard deviation of the
    displacement in each direction, as a share of the side."""
    gain = smooth(ELASTIC_LENGTH)
    down_NHW, right_NHW = (random_field(draws, x_NCHW, gain) for _ in range(2))
    scale = amplitude * side_of(x_NCHW)
    return moved(x_NCHW, down_NHW * scale, right_NHW * scale)


def pixelate(x_NCHW: Tensor, share: float, draws: Draws) -> Tensor:  # noqa: ARG001
    """share: of the pixels along each side that are left; each takes the mean of its area."""
    height, width = x_NCHW.shape[2:]
    rows_HH, columns_WW = _pixelating(height, share), _pixelating(width, share)
    return rows_HH.to(x_NCHW.device) @ x_NCHW @ columns_WW.T.to(x_NCHW.device)


def _pixelating(side: int, share: float) -> Tensor:
    """Along one side, the weights (side, side) with which pixels make large ones, seen as pixels of
    the old size again: by how much they overlap."""
    small = max(1, round(share * side))
    edge_S = torch.arange(small + 1) * (side / small)
    edge_P = torch.arange(side + 1)
    high_SP = torch.minimum(edge_S[1:, None], edge_P[1:])
    overlap_SP = (high_SP - torch.maximum(edge_S[:-1, None], edge_P[:-1])).clamp(min=0)
    return overlap_SP.T @ overlap_SP * (small / side)


def jpeg_compression(x_NCHW: Tensor, quality: float, draws: Draws) -> Tensor:  # noqa: ARG001
    """quality: of the JPEG, from 1 to 100."""
    level_NHWC = (x_NCHW * 255).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
    decoded = np.stack([_through_jpeg(level_HWC, int(quality)) for level_HWC in level_NHWC])
    return torch.from_numpy(decoded).permute(0, 3, 1, 2).to(x_NCHW.device).float() / 255


def _through_jpeg(level_HWC: np.ndarray, quality: int) -> np.ndarray:
    file = io.BytesIO()
    grey = level_HWC.shape[2] == 1
    Image.fromarray(level_HWC[:, :, 0] if grey else level_HWC).save(file, "JPEG", quality=quality)
    decoded = np.asarray(Image.open(file))
    return decoded[:, :, None] if grey else decoded
