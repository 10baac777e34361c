"""Encoders and projectors."""

from tcl_train.models.projector import linear, mlp, none
from tcl_train.models.resnet import (
    resnet8,
    resnet18,
    resnet20,
    resnet32,
    resnet34,
    resnet50,
    resnet56,
    resnet101,
)
from tcl_train.models.timm import timm_encoder

__all__ = [
    "linear",
    "mlp",
    "none",
    "resnet8",
    "resnet18",
    "resnet20",
    "resnet32",
    "resnet34",
    "resnet50",
    "resnet56",
    "resnet101",
    "timm_encoder",
]
