"""A share of the images, evenly from each class.

N: images.
"""

from __future__ import annotations

import torch
from torch import Tensor


def held_out_rows(y_N: Tensor, share: float, g: torch.Generator) -> Tensor:
    """A mask with about `share` of the rows, drawn at random and evenly from each class; at least
    one row, and at least one is left."""
    shuffled_N = torch.randperm(len(y_N), generator=g)
    by_class_N = shuffled_N[y_N.cpu()[shuffled_N].argsort(stable=True)]
    count = min(max(1, round(share * len(y_N))), len(y_N) - 1)
    # Evenly spaced places in the rows sorted by class take the same share of each class.
    places = ((torch.arange(count) + 0.5) * len(y_N) / count).long()
    mask_N = torch.zeros(len(y_N), dtype=torch.bool)
    mask_N[by_class_N[places]] = True
    return mask_N.to(y_N.device)


def few_rows(y_N: Tensor, amount: float, g: torch.Generator) -> Tensor:
    """Places of some rows of each class, drawn at random, in order. amount: below 1 a share of each
    class, but at least one row; else a number of rows of each class, all where it has fewer."""
    shuffled_N = torch.randperm(len(y_N), generator=g)
    shuffled_y_N = y_N.cpu()[shuffled_N]
    chosen = []
    for label in shuffled_y_N.unique().tolist():
        of_class = shuffled_N[shuffled_y_N == label]
        count = max(1, round(amount * len(of_class))) if amount < 1 else int(amount)
        chosen.append(of_class[:count])
    return torch.cat(chosen).sort().values
