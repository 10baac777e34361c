"""Methods on the digits: they learn, and no collapse is found in healthy runs. One of each kind;
scripts/digits_methods.py has them all."""

from __future__ import annotations

import csv
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
METHODS = ("simclr", "byol", "barlow_twins", "dino")


@pytest.mark.slow
def test_healthy_runs_on_the_digits_are_silent_and_beat_the_untrained_encoder(
    tmp_path: Path,
) -> None:
    out = tmp_path / "table.csv"
    command = [sys.executable, str(ROOT / "scripts" / "digits_methods.py")]
    words = ["--seeds", "1", "--out", str(out), "--methods", "untrained", *METHODS]
    subprocess.run([*command, *words], check=True, capture_output=True, timeout=280)
    lines = [line for line in out.read_text().splitlines() if not line.startswith("#")]
    untrained, *rows = csv.DictReader(lines)
    assert [row["method"] for row in rows] == list(METHODS)
    for row in rows:
        assert row["collapsed"] == "False", row["method"]
        assert float(row["top1"]) > float(untrained["top1"]), row["method"]
