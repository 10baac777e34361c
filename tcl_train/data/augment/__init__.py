"""Augmentation on whole batches, on the training device, with separate parameters for each image
and view."""

from tcl_train.data.augment.blur import GaussianBlur
from tcl_train.data.augment.colour import ColorJitter, RandomGrayscale, Solarize
from tcl_train.data.augment.erasing import RandomErasing
from tcl_train.data.augment.geometry import HorizontalFlip, PadCrop, RandomResizedCrop
from tcl_train.data.augment.pipeline import Augment
from tcl_train.data.augment.policies import AutoAugment, RandAugment, TrivialAugment

__all__ = [
    "Augment",
    "AutoAugment",
    "ColorJitter",
    "GaussianBlur",
    "HorizontalFlip",
    "PadCrop",
    "RandAugment",
    "RandomErasing",
    "RandomGrayscale",
    "RandomResizedCrop",
    "Solarize",
    "TrivialAugment",
]
