"""A picture of augmented views, as the encoder sees them."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from tcl_train.data.augment.pipeline import Augment


def picture_of_views(
    augment: Augment, images_BCHW: Tensor, *, views: int, generator: torch.Generator
) -> Tensor:
    """Freshly drawn views of uint8 images: one row per image, one column per view; uint8, (3, H,
    W)."""
    views_NCSS = augment(images_BCHW, views=views, generator=generator)
    looks_NCSS = F.pad(augment.normalize.undo(views_NCSS), [1] * 4).cpu()
    columns = [torch.cat(view.unbind(), 1) for view in looks_NCSS.chunk(views)]
    return torch.cat(columns, 2)
