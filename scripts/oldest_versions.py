"""The lower bounds of a pyproject.toml's dependencies as pip's constraints, a line each.

    python scripts/oldest_versions.py pyproject.toml

Bounds that are for another platform or Python are left out. The test extras stay at their newest.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path


def dependencies(pyproject: str) -> list[str]:
    """The strings in the `dependencies` list. (Python 3.10 has no reader of TOML.)"""
    (listed,) = re.findall(r"^dependencies = \[\n(.*?)^\]", pyproject, re.MULTILINE | re.DOTALL)
    return re.findall(r'^\s*"([^"]+)"', listed, re.MULTILINE)


def oldest(requirement: str) -> str | None:
    """`name==bound` of `name>=bound,<other`; None for one with an environment marker."""
    if ";" in requirement:
        return None
    match = re.match(r"([A-Za-z0-9_.-]+)>=([0-9.]+)", requirement)
    if match is None:
        raise SystemExit(f"{requirement}: has no lower bound; write name>=version")
    return f"{match[1]}=={match[2]}"


def main() -> None:
    text = Path(sys.argv[1]).read_text(encoding="utf-8")
    for bound in filter(None, map(oldest, dependencies(text))):
        print(bound)


if __name__ == "__main__":
    main()
