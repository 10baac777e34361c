"""A short form of scripts/fuzz_commands.py, and what it takes for a fault."""

from __future__ import annotations

import csv
import importlib
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

SCRIPTS = Path(__file__).parents[2] / "scripts"
COUNT = 60


@pytest.mark.slow
def test_random_command_lines_end_in_success_or_in_one_line(tmp_path: Path) -> None:
    out = tmp_path / "commands.csv"
    command = [sys.executable, str(SCRIPTS / "fuzz_commands.py"), "--count", str(COUNT)]
    done = subprocess.run([*command, "--out", str(out)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = [line for line in out.read_text().splitlines() if not line.startswith("#")]
    rows = list(csv.DictReader(lines))
    assert sum(int(row["count"]) for row in rows) == COUNT
    assert {row["exit status"] for row in rows} <= {"0", "1", "2"}
    assert {"choices", "values", "images", "resume", "eval"} <= {r["command lines"] for r in rows}


@pytest.fixture
def scripts(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(SCRIPTS))
    return importlib.import_module("fuzz_commands")


def faults(scripts: Any, here: Path, words: tuple[str, ...] = (), **did: Any) -> list[str]:
    usual = {"status": 0, "out": "", "err": "", "seconds": 0.1, "created": [], "changed": []}
    case = scripts.Case("values", words)
    return list(scripts.faults(case, scripts.Done(**{**usual, **did}), here))


def write(here: Path, name: str, content: str) -> str:
    path = here / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    return name


def test_success_and_one_line_are_no_faults(scripts: Any, tmp_path: Path) -> None:
    config, result = (
        write(tmp_path, "run/config.yaml", "a: 1"),
        write(tmp_path, "run/result.json", "{}"),
    )
    line = "tcl-train: epochs=0\n"
    assert faults(scripts, tmp_path, created=[config, result]) == []
    assert faults(scripts, tmp_path, status=2, err=line) == []
    assert faults(scripts, tmp_path, status=1, err=line, created=[config]) == []
    assert faults(scripts, tmp_path, ("--help",), out="help") == []


@pytest.mark.parametrize(
    ("did", "said"),
    [
        ({"status": -9}, "hangs"),
        ({"status": -11}, "exit status -11"),
        ({"status": 0}, "success without result.json"),
        ({"status": 2}, "0 lines on standard error"),
        ({"status": 2, "err": "tcl-train: a\ntcl-train: b\n"}, "2 lines on standard error"),
        ({"status": 2, "err": "a\n"}, "which command it is from"),
        ({"status": 1, "err": "Traceback (most recent call last):\n"}, "a traceback"),
        ({"status": 1, "err": "tcl-train: failed\n"}, "there is no run"),
        (
            {"status": 1, "err": f"tcl-train: x {'(HYDRA_FULL_ERROR=1 shows the traceback)'}"},
            "foresaw",
        ),
        ({"status": 2, "err": "tcl-train: x\n", "created": ["run"]}, "refused, but wrote"),
        ({"changed": ["images/train/red/0.png"]}, "changed images/train/red/0.png"),
        ({"created": ["run/result.json"]}, "run/result.json: half written"),
        ({"created": ["run/metrics.jsonl"]}, "run/metrics.jsonl: half written"),
        ({"created": ["run/config.yaml"]}, "run/config.yaml: half written"),
        ({"created": ["run/checkpoints/last.pt"]}, "last.pt: half written"),
        ({"created": ["run/.result.json.17"]}, "a temporary file was left"),
    ],
)
def test_all_else_is_a_fault(scripts: Any, tmp_path: Path, did: dict[str, Any], said: str) -> None:
    for name in did.get("created", ()):
        write(tmp_path, name, "{half")
    assert any(said in fault for fault in faults(scripts, tmp_path, **did))


def test_a_command_that_takes_too_long_is_killed(scripts: Any, tmp_path: Path) -> None:
    scripts.make_box(tmp_path / "box")
    done = scripts.run("tcl-train", ["epochs=0"], tmp_path / "box", 0.0)
    assert done.status == scripts.KILLED


def test_a_number_gives_the_same_command_line_each_time(scripts: Any) -> None:
    cases = importlib.import_module("fuzz_cases")
    assert [cases.draw_case(n, 1) for n in range(20)] == [cases.draw_case(n, 1) for n in range(20)]
    assert cases.draw_case(3, 1) != cases.draw_case(3, 2)
