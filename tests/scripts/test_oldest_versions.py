"""The lower bounds are read from pyproject.toml."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def bounds(pyproject: Path) -> list[str]:
    command = [sys.executable, str(ROOT / "scripts" / "oldest_versions.py"), str(pyproject)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()


def test_each_dependency_has_its_lower_bound() -> None:
    found = dict(line.split("==") for line in bounds(ROOT / "pyproject.toml"))
    assert {"torch", "torchvision", "hydra-core", "omegaconf", "tensorboard"} <= found.keys()
    assert found["torch"] == "2.6"  # not that of another platform


def test_extras_and_markers_are_left_out(tmp_path: Path) -> None:
    (tmp_path / "p.toml").write_text(
        'dependencies = [\n    "one>=1.2,<2",  # why\n    "two>=3; os_name == \'nt\'",\n]\n'
        '[project.optional-dependencies]\ntest = ["three>=4"]\n'
    )
    assert bounds(tmp_path / "p.toml") == ["one==1.2"]
