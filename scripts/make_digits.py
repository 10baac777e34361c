"""Makes tcl_train/data/digits.npz, the embedded data set, from scikit-learn's copy of it.

    python scripts/make_digits.py

A fifth of the images are for testing, as many of each class as chance allows; the split is fixed.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

TARGET = Path(__file__).parents[1] / "tcl_train" / "data" / "digits.npz"
TEST_SHARE = 0.2
SPLIT_SEED = 0


def main() -> None:
    bunch = load_digits()
    train_N, test_N = train_test_split(
        np.arange(len(bunch.target)),
        test_size=TEST_SHARE,
        random_state=SPLIT_SEED,
        stratify=bunch.target,
    )
    np.savez_compressed(
        TARGET,
        images_NHW=bunch.images.astype(np.uint8),
        labels_N=bunch.target.astype(np.uint8),
        train_N=train_N.astype(np.int16),
        test_N=test_N.astype(np.int16),
    )


if __name__ == "__main__":
    main()
