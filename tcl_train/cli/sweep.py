"""Sweeps: `tcl-train -m loss=ce,tcl seed=1,2`.

Hydra expands the words into jobs (and any Hydra launcher may run them); each job is the very
command that a user would type for it, in a process of its own, so that jobs share nothing and a
job that fails or is killed takes no other with it. `sweep.csv` is brought up to date after each.
"""

from __future__ import annotations

import csv
import io
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import FrameType
from typing import Any

from tcl_train.cli.overrides import quoted, typed
from tcl_train.errors import Interrupted, RequestError
from tcl_train.run.directory import RunDir

RESULT_COLUMNS = ("top1", "top5", "knn_top1", "random_encoder_top1", "images_per_second")
STATUS = {0: "finished", 1: "failed", 2: "bad request", 130: "interrupted", 143: "interrupted"}


def run_job(words: list[str], job_dir: Path, sweep_dir: Path) -> int:
    """Runs one job (goes on with it if it was interrupted, passes it if it is finished), notes it
    in `sweep.csv` and returns its exit status."""
    run_dir = RunDir(job_dir)
    title = " ".join(words) or "(no overrides)"
    if run_dir.started and list(run_dir.read_config().overrides) != words:
        before = " ".join(run_dir.read_config().overrides)
        raise RequestError(f"{job_dir}: holds another run ({before}); give another hydra.sweep.dir")
    if run_dir.finished:
        print(f"--- {title}: finished before, passed", flush=True)
        status = 0
    else:
        print(f"--- {title}", flush=True)
        key = "resume" if run_dir.started else "hydra.run.dir"
        status = _run([sys.executable, "-m", "tcl_train", *words, f"{key}={quoted(job_dir)}"])
    _note(sweep_dir / "sweep.csv", job_dir, words, status)
    if status in (130, 143):
        again = f"run the same sweep again with {typed('hydra.sweep.dir', sweep_dir)} to go on"
        raise Interrupted(status - 128, f"sweep interrupted; {again}")
    return status


def _run(command: list[str]) -> int:
    """A child process that hears the signals that we do; it stops in good order, and we wait."""
    child = subprocess.Popen(command)

    def forward(signum: int, frame: FrameType | None) -> None:  # noqa: ARG001
        if signum == signal.SIGTERM:  # a terminal sends SIGINT to both of us by itself
            child.send_signal(signum)

    before = {s: signal.signal(s, forward) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        status = child.wait()
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)
    return 128 - status if status < 0 else status


def _note(table: Path, job_dir: Path, words: list[str], status: int) -> None:
    """Adds or renews the job's row; columns are the overrides and the main results."""
    rows = {row["dir"]: row for row in _read(table)}
    row: dict[str, Any] = dict(word.split("=", 1) for word in words if "=" in word)
    row |= {"status": STATUS.get(status, f"exit status {status}"), "dir": os.fspath(job_dir)}
    if (job_dir / "result.json").is_file():
        result = json.loads((job_dir / "result.json").read_text())
        row |= {name: result.get(name) for name in (*RESULT_COLUMNS, "wall_seconds")}
    rows[row["dir"]] = row
    last = ["status", *RESULT_COLUMNS, "wall_seconds", "dir"]
    columns = list(dict.fromkeys(k for r in rows.values() for k in r if k not in last)) + last
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows.values())
    temporary = table.with_name(f".{table.name}.{os.getpid()}")
    temporary.write_text(text.getvalue())
    temporary.replace(table)


def _read(table: Path) -> list[dict[str, Any]]:
    if not table.exists():
        return []
    with table.open(newline="") as file:
        return list(csv.DictReader(file))
