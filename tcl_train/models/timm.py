"""Any image encoder of the timm library.

N: images; H, W: rows and columns.
"""

from __future__ import annotations

import difflib
import logging
from collections.abc import Mapping
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from tcl_train import checks
from tcl_train.models.encoder import Architecture, Encoder
from tcl_train.models.resnet import initialise
from tcl_train.models.stem import (
    LARGEST_IMAGE_FOR_SMALL_STEM,
    SIDE_STRIDE_PADDING,
    first_convolution,
)

STEMS = ("auto", *SIDE_STRIDE_PADDING, "imagenet")
NEAREST = 3  # names that are proposed for an unknown one


def timm_encoder(image_size: int, *, name: str | None = None, stem: str = "auto") -> Encoder:
    """timm's model of this name without its classifier, (N, 3, H, W) -> (N, feature_dim), with
    random weights; its state dict has timm's keys.

    image_size: the side of the images in pixels, which is passed on where the architecture is
    built for one; it then takes other sizes, too, if timm's can (vision transformers do).
    stem: `imagenet` is timm's own; ResNets that begin with a 7x7 convolution take a smaller one,
    see :mod:`tcl_train.models.stem`.

    Raises:
        ValueError: there is no such model or stem, timm is not installed, or images of this size
            are too small for the model.
    """
    library = require_timm()
    name = known_name(library, name)
    model, arguments = _create(library, name, image_size)
    stem = _use_stem(model, name, stem, image_size)
    model.feature_dim = _feature_dim(model, name, image_size)
    model.architecture = Architecture("timm", name, stem, arguments=arguments)
    return model


def require_timm() -> ModuleType:
    """The library. Raises ValueError with the command that installs it."""
    try:
        import timm  # takes seconds
    except ImportError:
        raise ValueError("timm is not installed; pip install 'tcl-train[timm]'") from None
    return timm


def known_name(library: Any, name: str | None) -> str:
    """The name, if there is a model of it. Raises ValueError that proposes the nearest ones."""
    if not isinstance(name, str):
        raise TypeError(f"name must be one of timm's, as in encoder.name=resnet18d, got {name!r}")
    architecture, dot, _ = name.partition(".")  # a tag says which of its pretrained weights
    if library.is_model(architecture):
        names = library.list_pretrained(f"{architecture}.*")
        if not dot or name in names:
            return name
    else:
        names = library.list_models()
    near = difflib.get_close_matches(name, names, n=NEAREST, cutoff=0)
    raise ValueError(f"name={name}: timm has no such model; the nearest are {', '.join(near)}")


def published_by_timm(name: str, image_size: int) -> Mapping[str, Tensor]:
    """The state dict of the model with the weights that timm has for it, without its classifier,
    its position embeddings resized for images of this size."""
    hub = logging.getLogger("huggingface_hub")  # which warns of each of its attempts
    level = hub.level
    hub.setLevel(logging.ERROR)
    try:
        model, _ = _create(require_timm(), name, image_size, pretrained=True)
    finally:
        hub.setLevel(level)
    return model.state_dict()


# What is passed on to an architecture that is built for a size; others refuse it.
def _ways_to_pass_size(image_size: int) -> list[dict[str, Any]]:
    return [{"img_size": image_size, "dynamic_img_size": True}, {"img_size": image_size}, {}]


def _create(
    library: Any, name: str, image_size: int, *, pretrained: bool = False
) -> tuple[Any, dict[str, Any]]:
    """The model, and the arguments beside its name that have made it."""
    *sized, unsized = _ways_to_pass_size(image_size)
    for keys in sized:
        try:
            return library.create_model(name, pretrained=pretrained, num_classes=0, **keys), keys
        except TypeError:  # it takes no such argument
            continue
        except (RuntimeError, AssertionError, ZeroDivisionError) as error:
            raise _unsuited(name, image_size, error) from error
    return library.create_model(name, pretrained=pretrained, num_classes=0, **unsized), unsized


def _unsuited(name: str, image_size: int, error: Exception) -> ValueError:
    first = (str(error).splitlines() or [type(error).__name__])[0]
    return ValueError(
        f"name={name} cannot encode images of {image_size} x {image_size} pixels ({first}); give "
        "larger images (dataset.image_size) or another model"
    )


def _use_stem(model: Any, name: str, stem: str, image_size: int) -> str:
    """Replaces the stem in place where that is asked for; gives the stem that it has now."""
    checks.one_of("stem", stem, STEMS)
    before: Any = getattr(model, "conv1", None)
    replaceable = (
        isinstance(before, nn.Conv2d) and before.kernel_size == (7, 7) and hasattr(model, "maxpool")
    )
    if stem == "auto":
        small = replaceable and image_size <= LARGEST_IMAGE_FOR_SMALL_STEM
        stem = "small" if small else "imagenet"
    if stem == "imagenet":
        return stem
    if not replaceable:
        raise ValueError(
            f"stem={stem}: {name} does not begin with a 7x7 convolution that could be replaced; "
            "give stem=auto"
        )
    model.conv1 = first_convolution(stem, before.out_channels)
    model.maxpool = nn.Identity()
    initialise(model.conv1)
    return stem


@torch.no_grad()
def _feature_dim(model: nn.Module, name: str, image_size: int) -> int:
    """Of what the model gives for an image of this size; its attributes don't always say it."""
    model.eval()
    try:
        features_ND = model(torch.zeros(1, 3, image_size, image_size))
    except (RuntimeError, AssertionError, ZeroDivisionError, ValueError) as error:
        raise _unsuited(name, image_size, error) from error
    finally:
        model.train()
    if not isinstance(features_ND, torch.Tensor) or features_ND.ndim != 2:
        raise ValueError(f"name={name} does not give one row of features for each image")
    return features_ND.shape[1]
