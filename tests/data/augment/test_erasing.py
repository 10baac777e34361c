"""Random erasing, against torchvision's.

N: images; C: channels; H, W: rows and columns.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from scipy.stats import ks_2samp
from torchvision import transforms
from torchvision.transforms.v2 import functional as torchvisions

from tcl_train.data.augment import RandomErasing


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_chosen_images_lose_a_box_as_by_torchvision(channels: int, dtype: torch.dtype) -> None:
    x_NCHW = torch.randint(256, (30, channels, 12, 17), generator=seeded(0), dtype=torch.uint8)
    white = 255
    if dtype == torch.float32:
        x_NCHW, white = x_NCHW / 255, 1
    erasing = RandomErasing(value=1.0)
    p = erasing.draw(30, 12, 17, seeded(1))
    assert 5 < p["erase"].sum() < 25
    found_NCHW = erasing.apply(x_NCHW, p, 12)
    for i, x_CHW in enumerate(x_NCHW):
        box = [int(p[key][i]) for key in ("top", "left", "height", "width")]
        erased_CHW = torchvisions.erase(x_CHW, *box, v=torch.tensor(white, dtype=dtype))
        assert torch.equal(found_NCHW[i], erased_CHW if p["erase"][i] else x_CHW)


@pytest.mark.parametrize("keys", [{}, {"scale": (0.1, 0.9), "ratio": (0.2, 1.0)}])
def test_boxes_are_distributed_as_torchvisions(keys: dict[str, Any]) -> None:
    count = 2000
    erasing = RandomErasing(p=1, **keys)
    drawn = erasing.draw(count, 24, 32, seeded(0))
    image = torch.zeros(1, 24, 32)
    theirs = []
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for _ in range(count):
            *box, _ = transforms.RandomErasing.get_params(
                image, list(erasing.scale), list(erasing.ratio), [0.0]
            )
            if box[2:] != [24, 32]:  # its way of saying that no box was found
                theirs.append(box)
    ours = [drawn[key][drawn["erase"]] for key in ("top", "left", "height", "width")]
    assert abs(len(ours[0]) - len(theirs)) < 60
    for mine, other in zip(ours, zip(*theirs, strict=True), strict=True):
        assert ks_2samp(mine.numpy(), other).pvalue > 0.005
    assert (ours[0] + ours[2] <= 24).all()
    assert (ours[1] + ours[3] <= 32).all()


def test_an_image_in_which_no_box_fits_stays() -> None:
    assert not RandomErasing(scale=(1, 1), p=1).draw(20, 8, 8, seeded(0))["erase"].any()


@pytest.mark.parametrize(
    ("keys", "name"),
    [
        ({"scale": [0, 1]}, r"scale\[0\]"),
        ({"ratio": [1, 100]}, r"ratio\[1\]"),
        ({"value": 2}, "value"),
        ({"p": -1}, "p"),
    ],
)
def test_a_setting_out_of_range_is_named(keys: dict[str, Any], name: str) -> None:
    with pytest.raises((ValueError, TypeError), match=rf"^{name} must be .*got "):
        RandomErasing(**keys)
