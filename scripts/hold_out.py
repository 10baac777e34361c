"""A folder to choose settings with, so that the test split decides nothing.

    python scripts/hold_out.py DIR NEW --every 10
    tcl-train dataset=cifar100 dataset.root=NEW …

DIR holds train/CLASS/ with images. NEW gets links to them: every tenth image of each class as
NEW/test/CLASS/, the others as NEW/train/CLASS/. What DIR has for testing is left alone.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", type=Path, metavar="DIR")
    parser.add_argument("target", type=Path, metavar="NEW")
    parser.add_argument(
        "--every", type=int, default=10, help="which share is held out: 1 in so many"
    )
    given = parser.parse_args()
    if given.every < 2:
        parser.error(f"--every must be at least 2, got {given.every}")
    classes = sorted(path for path in (given.source / "train").glob("*") if path.is_dir())
    if not classes:
        parser.error(f"{given.source / 'train'}: no folders of classes")
    if given.target.exists():
        parser.error(f"{given.target} is there already; give a new folder")
    for folder in classes:
        for number, image in enumerate(sorted(path for path in folder.iterdir() if path.is_file())):
            split = "test" if number % given.every == 0 else "train"
            link = given.target / split / folder.name / image.name
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(image.resolve())
    return 0


if __name__ == "__main__":
    sys.exit(main())
