"""Does every command line end in success or in one line?

    python scripts/fuzz_commands.py --count 2000 --seed 1
    python scripts/fuzz_commands.py --seed 1 --only 137   # one of them again

Random command lines of `tcl-train` and `tcl-eval` (scripts/fuzz_cases.py) with whole and damaged
inputs (scripts/fuzz_inputs.py) are run, each by the command's function in a forked process and a
separate folder, without a network and with a limit on time and memory. The exit status, the output
and all files are checked. A row is stored for each kind of command
line and exit status; each failure is printed with its command line, and its folder is kept. Exit
status 1 if there is any.
"""

from __future__ import annotations

import argparse
import gc
import hashlib
import io
import json
import os
import resource
import shlex
import shutil
import signal
import socket
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from bench_record import Table
from fuzz_cases import RUN_DIR, Case, draw_case, tiny
from fuzz_inputs import Images
from omegaconf import OmegaConf

from tcl_train.cli import main as cli
from tcl_train.cli import sweep
from tcl_train.run import checkpoint
from tcl_train.run.logs import PACKAGE

MEMORY = 4 * 2**30  # more than the process has at the start
KILLED, RAISED = -signal.SIGKILL, 99
UNFORESEEN = "(HYDRA_FULL_ERROR=1 shows the traceback)"
SWEEPING = ("-m", "--multirun")  # any other flag prints something and stops
MAINS: dict[str, Callable[[list[str]], int]] = {"tcl-train": cli.main, "tcl-eval": cli.main_eval}


# ------------------------------------------------------------------ carrying out


@dataclass
class Done:
    """What a command did. `created` and `changed` are paths below its folder; `copied` those of the
    created ones that are as another file was before."""

    status: int
    out: str
    err: str
    seconds: float
    created: list[str]
    changed: list[str]
    copied: list[str] = field(default_factory=list)
    inputs: list[str] = field(default_factory=list)


def run(program: str, words: list[str], box: Path, seconds: float) -> Done:
    """Carries out a command in `box/here`; what it caches is elsewhere in the box."""
    here = box / "here"
    before = contents(here)
    out, err = box / "out", box / "err"
    for path in (out, err):
        path.write_bytes(b"")
    begin = time.perf_counter()
    pid = os.fork()
    if pid == 0:
        _be_the_command(MAINS[program], words, box, out, err)
    with suppress(OSError):  # it has ended
        os.setpgid(pid, pid)  # as the child does: whoever comes first
    status = _wait(pid, seconds)
    after = contents(here)
    return Done(
        status=status,
        out=out.read_text(errors="replace"),
        err=err.read_text(errors="replace"),
        seconds=time.perf_counter() - begin,
        created=sorted(after.keys() - before.keys()),
        copied=[name for name in after.keys() - before.keys() if after[name] in before.values()],
        changed=sorted(name for name in before if after.get(name) != before[name]),
    )


def _wait(pid: int, seconds: float) -> int:
    """The exit status of a child; when the time is over, it is killed with its own children."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.005)
    os.killpg(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return KILLED


def _be_the_command(
    main: Callable[[list[str]], int], words: list[str], box: Path, out: Path, err: Path
) -> None:
    """The forked process; does not return."""
    status = RAISED
    try:
        os.setpgid(0, 0)
        for number, path in ((1, out), (2, err)):
            os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
        sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
        sys.stderr = open(2, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
        _confine(box)
        status = main(words)
    except SystemExit as error:
        status = error.code if isinstance(error.code, int) else RAISED
    except BaseException:
        traceback.print_exc()
    finally:
        _leave(status)


def _leave(status: int) -> None:
    """Ends a forked process without what its parent would do at its end."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def _confine(box: Path) -> None:
    """To the box, to its own processor time and memory, and to this machine."""
    os.chdir(box / "here")
    os.environ |= {"HOME": str(box / "home"), "XDG_CACHE_HOME": str(box / "cache")}
    for name in ("HYDRA_FULL_ERROR", "TCL_TRAIN_DATA", "WORLD_SIZE", "NOT_SET"):
        os.environ.pop(name, None)
    sweep._run = _fork_job
    socket.socket.connect = _no_network  # type: ignore[method-assign]
    used = Path("/proc/self/statm")
    if used.exists():
        pages = int(used.read_text().split()[0])
        most = pages * resource.getpagesize() + MEMORY
        resource.setrlimit(resource.RLIMIT_AS, (most, most))


def _no_network(*_: Any) -> None:
    raise ConnectionRefusedError(111, "Connection refused")


def _fork_job(command: list[str]) -> int:
    """In place of a new Python for a job of a sweep: `python -m tcl_train WORD ...`."""
    sys.stdout.flush()
    pid = os.fork()
    if pid == 0:
        status = RAISED
        try:
            status = cli.main(command[3:])
        except BaseException:
            traceback.print_exc()
        finally:
            _leave(status)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def contents(folder: Path) -> dict[str, str]:
    """All paths below a folder with a digest of what is there."""
    found = {}
    for path in folder.rglob("*"):
        kind = "link" if path.is_symlink() else "folder" if path.is_dir() else "file"
        data = path.read_bytes() if kind == "file" else b""
        found[str(path.relative_to(folder))] = kind + hashlib.blake2b(data).hexdigest()
    return found


# ------------------------------------------------------------------ judging


def faults(case: Case, done: Done, here: Path) -> Iterator[str]:
    """What is wrong with what a command did; nothing if it is as the contract says."""
    if done.status == KILLED:
        yield "hangs"
        return
    if done.status not in (0, 1, 2):
        yield f"exit status {done.status}"
    if "Traceback" in done.out + done.err:
        yield "a traceback"
    lines = done.err.splitlines()
    jobs = any(word in SWEEPING for word in case.words)
    if done.status == 0 and lines:
        yield f"success with {len(lines)} lines on standard error"
    if done.status in (1, 2) and not jobs and len(lines) != 1:
        yield f"{len(lines)} lines on standard error"
    if any(not line.startswith((f"{case.program}: ", "tcl-train: ")) for line in lines):
        yield "a line that does not say which command it is from"
    if UNFORESEEN in done.err:
        yield "an error that nobody foresaw"
    if done.status == 2 and not jobs and (done.created or done.changed):
        yield f"refused, but wrote {[*done.created, *done.changed][:3]}"
    yield from _wrong_files(case, done, here)


def _wrong_files(case: Case, done: Done, here: Path) -> Iterator[str]:
    mine = ("stored",) if "resume" in " ".join(case.words) else ("outputs", "run", "sweep")
    for name in done.changed:
        if Path(name).parts[0] not in mine:
            yield f"changed {name}"
    written = [here / name for name in [*done.created, *done.changed] if (here / name).is_file()]
    for path in written:
        name = str(path.relative_to(here))
        if name not in done.copied and (problem := half_written(path)) is not None:
            yield f"{name}: {problem}"
    names = [path.name for path in written]
    printing = any(word.startswith("-") and word not in SWEEPING for word in case.words)
    if done.status == 0 and not printing:
        folder = "result.json" if case.program == "tcl-train" else "evaluations"
        if not any(folder in path.parts for path in written):
            yield f"success without {folder}"
    if done.status == 1 and "config.yaml" not in names and case.stored is None:
        yield "training failed, but there is no run"


def half_written(path: Path) -> str | None:
    """Why a file that a command wrote is not whole."""
    if path.name.startswith(".") and not path.name.endswith(".lock"):
        return "a temporary file was left"
    try:
        if path.suffix == ".json":
            json.loads(path.read_text())
        elif path.suffix == ".jsonl":
            list(map(json.loads, path.read_text().splitlines()))
        elif path.suffix == ".yaml":
            OmegaConf.load(path)
        elif path.suffix == ".pt":
            checkpoint.load(path)
    except Exception as error:
        return f"half written ({type(error).__name__}: {str(error)[:100]})"
    return None


# ------------------------------------------------------------------ runs from before


def warm_up(place: Path) -> None:
    """Carries out a run and an evaluation in this process, so that those that are forked from it
    need not load and compile the same once more."""
    make_box(place)
    Images().make(place / "here" / "images")
    os.environ["XDG_CACHE_HOME"] = str(place / "cache")
    before = Path.cwd()
    os.chdir(place / "here")
    for main, words in ((cli.main, tiny([])), (cli.main_eval, ["run=run"])):
        with redirect_stdout(io.StringIO()):
            if main(words):
                raise SystemExit(f"{shlex.join(words)}: failed")
    os.chdir(before)
    PACKAGE.handlers.clear()


def make_stock(place: Path, seconds: float) -> None:
    """The runs of which the commands find copies, damaged or not."""
    box = place / "box"
    words = {
        "finished": ["epochs=2", "checkpoint.keep=all"],
        "foreign": ["encoder=resnet20", "loss=ce", "probe=sgd"],
    }
    for name, more in words.items():
        make_box(box)
        Images().make(box / "here" / "images")
        done = run("tcl-train", tiny(more), box, seconds)
        if done.status:
            raise SystemExit(f"{name}: {done.err}")
        shutil.move(box / "here" / RUN_DIR.split("=")[1], place / name)
    unfinished = shutil.copytree(place / "finished", place / "unfinished")
    (unfinished / "result.json").unlink()
    checkpoints = unfinished / "checkpoints"
    (checkpoints / "epoch-00002.pt").unlink()
    (checkpoints / "last.pt").unlink()
    (checkpoints / "epoch-00001.pt").rename(checkpoints / "last.pt")
    (place / "only config").mkdir()
    shutil.copy(place / "finished" / "config.yaml", place / "only config")


def make_box(box: Path) -> None:
    shutil.rmtree(box, ignore_errors=True)
    for name in ("here", "home", "cache"):
        (box / name).mkdir(parents=True)


def carry_out(case: Case, box: Path, stock: Path, seconds: float) -> Done:
    make_box(box)
    inputs = []
    if case.images is not None:
        inputs += case.images.make(box / "here" / "images")
    if case.stored is not None:
        inputs += case.stored.make(box / "here" / "stored", stock)
    done = run(case.program, list(case.words), box, seconds)
    done.inputs = inputs
    return done


# ------------------------------------------------------------------ the whole


def describe(number: int, case: Case, done: Done) -> str:
    lines = [f"--- {number} ({case.kind}): {shlex.join([case.program, *case.words])}"]
    if case.images is not None and case.images != Images():
        lines.append(f"    images: {case.images.layout}, {case.images}"[:300])
    if case.stored is not None:
        lines.append(f"    stored: {case.stored.run}")
    lines += [f"    damaged: {said}" for said in done.inputs]
    lines.append(f"    exit status {done.status}, {done.seconds:.2f} s")
    lines += [f"    {line[:400]}" for line in done.err.splitlines()[-12:]]
    return "\n".join(lines).encode(errors="backslashreplace").decode()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", type=int, nargs="*", help="these numbers, and show all of them")
    parser.add_argument("--seconds", type=float, default=60, help="that a command may take")
    parser.add_argument("--keep", type=Path, help="folder for those of failures")
    parser.add_argument("--log", type=Path, help="file in which all command lines are described")
    parser.add_argument("--out", type=Path, default=Path("results/fuzz_commands.csv"))
    given = parser.parse_args()
    torch.set_num_threads(1)
    table = Table(given.out, torch.device("cpu"))  # now: the checkout may change meanwhile
    counts: Counter[tuple[str, int]] = Counter()
    failed: Counter[tuple[str, int]] = Counter()
    longest: dict[tuple[str, int], float] = {}
    log = None if given.log is None else given.log.open("w", encoding="utf-8")
    with tempfile.TemporaryDirectory() as place:
        stock, box = Path(place) / "stock", Path(place) / "box"
        stock.mkdir()
        warm_up(box)
        gc.collect()
        gc.freeze()  # the forked processes need not look through all that is loaded
        make_stock(stock, given.seconds)
        for number in range(given.count) if given.only is None else given.only:
            case = draw_case(number, given.seed)
            done = carry_out(case, box, stock, given.seconds)
            found = list(faults(case, done, box / "here"))
            row = case.kind, done.status
            counts[row] += 1
            failed[row] += bool(found)
            longest[row] = max(longest.get(row, 0.0), done.seconds)
            said = "\n".join([describe(number, case, done), *(f"    FAULT {f}" for f in found)])
            if log is not None:
                print(said, file=log, flush=True)
            if found or given.only is not None:
                print(said, flush=True)
            if found and given.keep is not None:
                shutil.rmtree(given.keep / str(number), ignore_errors=True)
                shutil.copytree(box, given.keep / str(number), symlinks=True)
    if given.only is None:
        for kind, status in sorted(counts):
            row = kind, status
            table.add(
                {
                    "command lines": kind,
                    "exit status": status,
                    "count": counts[row],
                    "failures": failed[row],
                    "longest seconds": round(longest[row], 1),
                }
            )
    return 1 if failed.total() else 0


if __name__ == "__main__":
    sys.exit(main())
