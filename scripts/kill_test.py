"""Does a run survive being killed at any moment?

    python scripts/kill_test.py --kills 30

A short run on the digits is started and killed at a random moment: by SIGKILL, SIGTERM and SIGINT
in turn, every third time as a run of two processes of which one is killed. What it left is looked
at (no file may be damaged), it is resumed, and its last checkpoint must be bit for bit that of a
run that nobody killed. A row is stored for each kill. Exit status 1 if anything was otherwise.
"""

from __future__ import annotations

import argparse
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from bench_record import Table
from ranks import environments

from tcl_train.run import checkpoint
from tcl_train.run.directory import RunDir

SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
TWO_EVERY = 3
SECONDS = 400  # that nothing may take
# Some seconds of training, with checkpoints within the epochs.
WORDS = (
    *("epochs=12", "encoder.width=4", "batch_size=128", "device=cpu", "precision=fp32"),
    *("log_every=1", "checkpoint.every_minutes=0.003", "checkpoint.keep=2"),
    *("random_encoder_baseline=false", "probe.l2=[1e-3]"),
)


def start(words: list[str], processes: int) -> list[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "tcl_train", *words]
    pipe = subprocess.PIPE
    return [
        subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env=environment)
        for environment in environments(processes, threads=1)
    ]


def wait(running: list[subprocess.Popen[str]]) -> tuple[list[int], str]:
    """Exit statuses, and all that was printed to standard error."""
    errors = [process.communicate(timeout=SECONDS)[1] for process in running]
    return [process.returncode for process in running], "".join(errors)


def finish(words: list[str], processes: int) -> None:
    statuses, errors = wait(start(words, processes))
    if any(statuses):
        raise SystemExit(f"{words}: ended with {statuses}: {errors}")


def weights(run_dir: RunDir) -> dict[str, torch.Tensor]:
    return checkpoint.load(run_dir.last_checkpoint)["method"]


def damaged_files(run_dir: RunDir) -> list[str]:
    """The files of a killed run that cannot be read. The last line of metrics.jsonl may be half
    written: resuming takes it out."""
    found = []
    for path in sorted(run_dir.checkpoints.glob("*.pt")):
        try:
            checkpoint.load(path)
        except Exception as error:
            found.append(f"{path.name}: {error}")
    for path, read in (
        (run_dir.config, run_dir.read_config),
        (run_dir.result, run_dir.read_result),
    ):
        try:
            if path.exists():
                read()
        except Exception as error:
            found.append(f"{path.name}: {error}")
    return found


def steps_done(run_dir: RunDir) -> int:
    last = run_dir.last_checkpoint
    return checkpoint.load(last)["step"] if last.exists() else 0


def one_kill(
    number: int, folder: Path, seconds: dict[int, float], wanted: dict[int, Any], rng: random.Random
) -> dict[str, Any]:
    run_dir = RunDir(folder / f"run-{number}")
    processes = 2 if number % TWO_EVERY == TWO_EVERY - 1 else 1
    of_two = number // TWO_EVERY
    signum = SIGNALS[(of_two if processes == 2 else number - of_two) % len(SIGNALS)]
    moment = rng.uniform(0, seconds[processes])
    running = start([*WORDS, f"hydra.run.dir={run_dir}"], processes)
    target = rng.randrange(processes)
    time.sleep(moment)
    running[target].send_signal(signum)
    statuses, errors = wait(running)
    row: dict[str, Any] = {
        "kill": number,
        "processes": processes,
        "signal": signum.name,
        "to process": target,
        "after seconds": round(moment, 2),
        "exit status": " ".join(map(str, statuses)),
        "checkpoint at step": steps_done(run_dir),
        "damaged files": "; ".join(damaged_files(run_dir)) or 0,
        "traceback": "Traceback" in errors,
    }
    again = [f"resume={run_dir}"] if run_dir.started else [*WORDS, f"hydra.run.dir={run_dir}"]
    if not run_dir.finished:
        finish(again, processes)
    end = weights(run_dir)
    same = end.keys() == wanted[processes].keys() and all(
        torch.equal(end[name], value) for name, value in wanted[processes].items()
    )
    shutil.rmtree(run_dir.path)
    return {**row, "same end": same}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--out", type=Path, default=Path("results/kill_test.csv"))
    given = parser.parse_args()
    rng = random.Random(given.seed)
    table = Table(given.out, torch.device("cpu"))
    good = True
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        seconds, wanted = {}, {}
        for processes in (1, 2):
            run_dir = RunDir(folder / f"whole-{processes}")
            begin = time.perf_counter()
            finish([*WORDS, f"hydra.run.dir={run_dir}"], processes)
            seconds[processes] = time.perf_counter() - begin
            wanted[processes] = weights(run_dir)
        for number in range(given.kills):
            row = one_kill(number, folder, seconds, wanted, rng)
            table.add(row)
            good &= row["same end"] and not row["damaged files"] and not row["traceback"]
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
