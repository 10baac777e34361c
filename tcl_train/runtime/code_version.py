"""Which version of the code runs."""

from __future__ import annotations

import subprocess
from pathlib import Path

THIS = Path(__file__).resolve().parents[2]


def git_commit(checkout: Path = THIS) -> str | None:
    """The commit of a checkout, if none is given of the one that runs, with `+` where it has
    changes; None when installed."""
    if not (checkout / ".git").exists():
        return None
    try:
        head = _git(checkout, "rev-parse", "HEAD")
        changed = _git(checkout, "status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.SubprocessError):
        return None
    return head + ("+" if changed else "")


def _git(folder: Path, *words: str) -> str:
    command = ["git", "-C", str(folder), *words]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=10)
    return done.stdout.strip()
