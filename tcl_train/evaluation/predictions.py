"""What the probe said of each test image, for tables and pictures made later.

N: test images; n: images of the sample; K: classes; D: features; S: side of thumbnails.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np
import torch

from tcl_train.data.images import resized
from tcl_train.errors import RequestError
from tcl_train.evaluation.measure import Evaluated
from tcl_train.runtime.files import write_atomically

LARGEST_THUMBNAIL = 32


@dataclass(frozen=True, kw_only=True, eq=False)
class Predictions:
    """Arrays, as `predictions.npz` holds them under these names.

    labels, predicted: int64 (N,), the latter of the probe; confidence: float32 (N,), the largest
    probability of its softmax; classes: (K,) names. sample: int64 (n,), places of at most 1,000
    test images; sample_features: float16 (n, D), of the frozen encoder; thumbnails: uint8
    (n, S, S, 3), S at most 32.
    """

    labels: np.ndarray
    predicted: np.ndarray
    confidence: np.ndarray
    classes: np.ndarray
    sample: np.ndarray
    sample_features: np.ndarray
    thumbnails: np.ndarray

    def save(self, path: Path) -> None:
        """Writes the file atomically. Raises OSError where it cannot be written."""

        def write(temporary: Path) -> None:
            with temporary.open("wb") as file:  # numpy would add .npz to a name
                np.savez_compressed(file, **asdict(self))

        write_atomically(path, write)

    @classmethod
    def load(cls, path: Path) -> Predictions:
        """What :meth:`save` wrote. Raises RequestError for a file that is not that."""
        try:
            with np.load(path, allow_pickle=False) as stored:
                return cls(**{field.name: stored[field.name] for field in fields(cls)})
        except FileNotFoundError:
            raise RequestError(f"{path}: there are no predictions") from None
        except Exception as error:  # numpy and zipfile raise many kinds for a broken file
            raise RequestError(
                f"{path}: not a whole file of predictions ({type(error).__name__})"
            ) from error


def predictions(of: Evaluated) -> Predictions:
    """Those of an evaluation."""
    confidence_N, predicted_N = of.score_NK.softmax(1).max(1)
    largest = float(torch.finfo(torch.float16).max)
    features_nD = of.test.x_ND.cpu()[of.sample_n].clamp(-largest, largest)
    return Predictions(
        labels=of.test.y_N.cpu().numpy(),
        predicted=predicted_N.cpu().numpy(),
        confidence=confidence_N.float().cpu().numpy(),
        classes=np.array(of.classes, dtype=str),
        sample=of.sample_n.numpy(),
        sample_features=features_nD.half().numpy(),
        thumbnails=_thumbnails(of.sample_nCHW),
    )


def _thumbnails(images_nCHW: torch.Tensor) -> np.ndarray:
    small_nCSS = resized(images_nCHW, min(LARGEST_THUMBNAIL, max(images_nCHW.shape[2:])))
    small_n3SS = small_nCSS.expand(-1, 3, -1, -1)  # a grey channel three times
    return np.ascontiguousarray(small_n3SS.permute(0, 2, 3, 1).cpu().numpy())
