"""AutoAugment and RandAugment, image by image, by torchvision's own operations."""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision import transforms

from tcl_train import checks
from tcl_train.data.augment.transform import Parameters, as_uint8

POLICIES = {policy.value: policy for policy in transforms.AutoAugmentPolicy}
LARGEST_SEED = 2**62


class _ImageByImage:
    """Gives each image a seed of its own, since torchvision draws from the global generator."""

    transform: torch.nn.Module

    def draw(self, count: int, height: int, width: int, g: torch.Generator) -> Parameters:  # noqa: ARG002
        return {"seed": torch.randint(LARGEST_SEED, (count,), generator=g)}

    def apply(self, x_NCHW: Tensor, parameters: Parameters, size: int) -> Tensor:  # noqa: ARG002
        images = as_uint8(x_NCHW).contiguous()
        with torch.random.fork_rng(devices=[]):
            changed = []
            for image_CHW, seed in zip(images, parameters["seed"].tolist(), strict=True):
                torch.default_generator.manual_seed(seed)
                changed.append(self.transform(image_CHW))
        return torch.stack(changed)


class AutoAugment(_ImageByImage):
    """A policy learned for a data set: `cifar10`, `imagenet` or `svhn`. Cubuk et al. 2019."""

    def __init__(self, policy: str = "cifar10") -> None:
        self.policy = checks.one_of("policy", policy, POLICIES)
        self.transform = transforms.AutoAugment(POLICIES[policy])


class RandAugment(_ImageByImage):
    """`num_ops` random operations of strength `magnitude` (of 31 bins). Cubuk et al. 2020."""

    def __init__(self, num_ops: int = 2, magnitude: int = 14) -> None:
        self.num_ops = checks.integer("num_ops", num_ops, at_least=1)
        self.magnitude = checks.integer("magnitude", magnitude, at_least=0)
        checks.number("magnitude", magnitude, at_most=30)
        self.transform = transforms.RandAugment(num_ops, magnitude)
