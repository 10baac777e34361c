"""A short form of scripts/kill_test.py: three kills, one of them of one of two processes."""

from __future__ import annotations

import csv
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "kill_test.py"


@pytest.mark.slow
def test_killed_runs_are_resumed_to_the_same_end(tmp_path: Path) -> None:
    out = tmp_path / "kills.csv"
    command = [sys.executable, str(SCRIPT), "--kills", "3", "--seed", "1", "--out", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = [line for line in out.read_text().splitlines() if not line.startswith("#")]
    rows = list(csv.DictReader(lines))
    assert [row["processes"] for row in rows] == ["1", "1", "2"]
    assert {row["same end"] for row in rows} == {"True"}
