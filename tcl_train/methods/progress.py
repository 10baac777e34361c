"""Settings that change with the progress of a run, from 0 to 1."""

from __future__ import annotations

import math


def along_cosine(first: float, last: float, progress: float) -> float:
    """From `first` at progress 0 to `last` at 1, along half a cosine."""
    return last + (first - last) * 0.5 * (1 + math.cos(math.pi * progress))
