"""Weights that are published for an encoder, by download."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from tcl_train.models.encoder import Architecture
from tcl_train.models.timm import published_by_timm


def imagenet_weights(architecture: Architecture | None, image_size: int) -> Mapping[str, Tensor]:
    """torchvision's newest weights of a ResNet, or those that timm has for a model of it.

    Raises:
        ValueError: there are none, or they cannot be downloaded.
    """
    if architecture is None or architecture.package not in ("torchvision", "timm"):
        raise ValueError(
            "there are none for this encoder; give a FILE or RUN_DIR, or encoder=resnet18, "
            "resnet34, resnet50, resnet101 or timm"
        )
    try:
        if architecture.package == "timm":
            return published_by_timm(architecture.name, image_size)
        from torchvision.models import get_model_weights

        newest = get_model_weights(architecture.name).DEFAULT
        return newest.get_state_dict(progress=False, check_hash=True)
    except Exception as error:  # of the network, each library has its own
        first = (str(error).splitlines() or [""])[0].split(". ")[0]
        raise ValueError(
            f"{architecture.package} cannot give those of {architecture.name} "
            f"({type(error).__name__}: {first}); give them as a FILE, or try again with a network"
        ) from error
