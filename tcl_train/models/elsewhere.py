"""How an encoder is made and loaded elsewhere, as lines of Python."""

from __future__ import annotations

from collections.abc import Sequence

from tcl_train.models.encoder import Architecture
from tcl_train.models.stem import SIDE_STRIDE_PADDING

OF_ANY = ("safetensors", "torchscript", "onnx")  # formats for every encoder
FORMATS = ("torchvision", "timm", *OF_ANY)
EVALUATION = "model.eval()"
IN_TIMM = ("torchvision", "timm")  # libraries whose names and keys timm has


def lines_to_load(
    format: str, architecture: Architecture | None, file: str, *, ours: Sequence[str]
) -> list[str]:
    """Lines of Python that load the file as `model`: (N, 3, H, W) -> (N, feature_dim).

    ours: lines that make the encoder by this package, for a format that holds only its weights.

    Raises:
        ValueError: the library that the format is named after has no such encoder.
    """
    load_torchs = f"model.load_state_dict(torch.load({file!r}, weights_only=True))"
    if format == "torchvision":
        return [*_by_torchvision(architecture), load_torchs, EVALUATION]
    if format == "timm":
        return [*_by_timm(architecture), load_torchs, EVALUATION]
    if format == "torchscript":
        return ["import torch", f"model = torch.jit.load({file!r})"]
    if format == "onnx":
        return [
            "import onnxruntime",
            f"session = onnxruntime.InferenceSession({file!r})",
            "model = lambda images: session.run(None, {'images': images})[0]",
        ]
    load = [
        "from safetensors.torch import load_file",
        f"model.load_state_dict(load_file({file!r}))",
        EVALUATION,
    ]
    for make in (_by_torchvision, _by_timm):
        try:
            return [*make(architecture), *load]
        except ValueError:
            continue
    return [*ours, *load]


def _by_torchvision(architecture: Architecture | None) -> list[str]:
    known = _known("torchvision", ("torchvision",), architecture)
    return [
        "import torch, torchvision",
        f"model = torchvision.models.{known.name}()",
        "model.fc = torch.nn.Identity()",
        *_replaced_stem(known),
    ]


def _by_timm(architecture: Architecture | None) -> list[str]:
    known = _known("timm", IN_TIMM, architecture)
    further = "".join(f", {key}={value!r}" for key, value in (known.arguments or {}).items())
    return [
        "import timm, torch",
        f"model = timm.create_model({known.name!r}, num_classes=0{further})",
        *_replaced_stem(known),
    ]


def _known(
    library: str, libraries: Sequence[str], architecture: Architecture | None
) -> Architecture:
    others = f"give one of {', '.join(OF_ANY)}"
    if architecture is None or architecture.package not in libraries:
        if architecture is not None and architecture.package == "timm":
            others = f"give one of timm, {', '.join(OF_ANY)}"
        name = "this encoder" if architecture is None else f"the {architecture.name} of this run"
        raise ValueError(f"{library} does not have {name}; {others}")
    if architecture.norm != "batch" or architecture.stem not in ("imagenet", *SIDE_STRIDE_PADDING):
        raise ValueError(
            f"{library}'s {architecture.name} does not take stem={architecture.stem} with "
            f"norm={architecture.norm}; {others}"
        )
    return architecture


def _replaced_stem(architecture: Architecture) -> list[str]:
    if architecture.stem == "imagenet":
        return []
    side, stride, padding = SIDE_STRIDE_PADDING[architecture.stem]
    sizes = f"{side}, stride={stride}, padding={padding}, bias=False"
    return [
        f"model.conv1 = torch.nn.Conv2d(3, model.conv1.out_channels, {sizes})",
        "model.maxpool = torch.nn.Identity()",
    ]
