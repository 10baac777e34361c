"""Does a run over two machines end as a run on one?

    sudo .venv/bin/python scripts/two_nodes.py

Two network namespaces that a cable (veth) joins stand in for the machines: each has an address, a
host name and its own torchrun, and folders can be hidden from one of them. Needs Linux, root
and iproute2. A tiny run on the digits is trained so, interrupted and resumed, and killed, and
compared with one process and with as many processes of one torchrun; a row is stored for each
trial. Exit status 1 if anything was otherwise than docs/processes.md says.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from bench_record import Table
from PIL import Image

from tcl_train.run import checkpoint
from tcl_train.run.directory import RunDir

SECONDS = 300  # that nothing may take
SECONDS_TO_END = 20  # of both machines, after one has failed or was interrupted
TOLERANCE = 1e-4  # of the weights, which are float32
PORT = 29500
WORDS = (
    *("encoder=resnet8", "encoder.width=4", "batch_size=128", "lr=0.001", "log_every=1"),
    *("device=cpu", "precision=fp32", "random_encoder_baseline=false", "probe.l2=[1e-3]"),
)
REPOSITORY = Path(__file__).parents[1]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)}
SHORT, LONG = "epochs=3", "epochs=100"
# Before the command takes the shell's place: the machine's name, the addresses of both, and folders
# that are hidden from it. Mounts are those of this command alone.
ON_A_MACHINE = """
hostname "$1" && mount --bind "$2" /etc/hosts || exit
for folder in $3; do mount -t tmpfs none "$folder" || exit; done
shift 3
exec "$@"
"""


@dataclass
class Machine:
    """A network namespace. hosts: a file for its /etc/hosts. hidden: folders that are empty
    there."""

    name: str
    address: str
    cable: str
    hosts: Path
    hidden: list[Path] = field(default_factory=list)

    def command(self, command: Sequence[str]) -> list[str]:
        hidden = " ".join(map(str, self.hidden))
        shell = ["sh", "-c", ON_A_MACHINE, "sh", self.name, str(self.hosts), hidden, *command]
        return ["ip", "netns", "exec", self.name, "unshare", "--uts", *shell]

    def trainers(self) -> list[int]:
        """The process ids of those that its torchrun has started, in their order."""
        listed = subprocess.run(
            ["ip", "netns", "pids", self.name], capture_output=True, text=True, check=True
        )
        return sorted(pid for pid in map(int, listed.stdout.split()) if _trains(pid))


def _trains(pid: int) -> bool:
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:  # it has ended
        return False
    return b"tcl_train" in words and b"torch.distributed.run" not in words


@contextmanager
def two_machines(folder: Path) -> Iterator[tuple[Machine, Machine]]:
    names = [f"tcl-{letter}-{os.getpid()}" for letter in "ab"]
    cables = [f"tcl{letter}{os.getpid()}" for letter in "ab"]
    hosts = folder / "hosts"
    machines = [
        Machine(name, f"10.77.0.{i + 1}", cable, hosts)
        for i, (name, cable) in enumerate(zip(names, cables, strict=True))
    ]
    lines = ["127.0.0.1 localhost", *(f"{machine.address} {machine.name}" for machine in machines)]
    hosts.write_text("".join(f"{line}\n" for line in lines))
    try:
        for name in names:
            _ip("netns", "add", name)
        _ip("link", "add", cables[0], "type", "veth", "peer", "name", cables[1])
        for machine in machines:
            _ip("link", "set", machine.cable, "netns", machine.name)
            within = ("-n", machine.name)
            _ip(*within, "addr", "add", f"{machine.address}/24", "dev", machine.cable)
            _ip(*within, "link", "set", machine.cable, "up")
            _ip(*within, "link", "set", "lo", "up")
        yield machines[0], machines[1]
    finally:
        for name in names:  # and the cable with them
            subprocess.run(["ip", "netns", "delete", name], capture_output=True)


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True)


# ------------------------------------------------------------------ runs


@dataclass
class Ended:
    """torchrun's exit statuses, what was printed on each machine, and the seconds since the last
    deed."""

    statuses: list[int]
    printed: list[str]
    seconds: float

    def own_lines(self) -> list[int]:
        """How many lines our program wrote on each machine about a failure."""
        return [
            sum(line.startswith("tcl-train: ") for line in text.splitlines())
            for text in self.printed
        ]

    def last_lines(self) -> int:
        return sum(line.startswith("top-1 ") for text in self.printed for line in text.splitlines())


Deed = Callable[["list[subprocess.Popen[bytes]]"], None]  # done while both machines run


def _nothing(running: list[subprocess.Popen[bytes]]) -> None:
    pass


def run_on_both(
    machines: tuple[Machine, Machine],
    words: Sequence[str],
    folder: Path,
    *,
    processes: int,
    deed: Deed = _nothing,
) -> Ended:
    """One run over both, of so many processes on each; the deed is done meanwhile."""
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nnodes", "2"]
    torchrun += ["--nproc-per-node", str(processes), "--rdzv-backend", "c10d"]
    torchrun += ["--rdzv-endpoint", f"{machines[0].name}:{PORT}"]
    running = []
    for machine in machines:
        command = [*torchrun, "-m", "tcl_train", *words]
        with (folder / f"{machine.name}.txt").open("w") as file:
            running.append(
                subprocess.Popen(
                    machine.command(command),
                    cwd=folder,
                    stdout=file,
                    stderr=subprocess.STDOUT,
                    env={**ENVIRONMENT, "GLOO_SOCKET_IFNAME": machine.cable},
                )
            )
    try:
        deed(running)
        begin = time.monotonic()
        statuses = [process.wait(timeout=SECONDS) for process in running]
    finally:
        for process in running:
            process.kill()
    seconds = time.monotonic() - begin
    printed = [(folder / f"{machine.name}.txt").read_text() for machine in machines]
    return Ended(statuses, printed, seconds)


def run_on_one(words: Sequence[str], folder: Path, *, processes: int) -> None:
    """The same on this machine."""
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    subprocess.run(
        [sys.executable, *(torchrun if processes > 1 else []), "-m", "tcl_train", *words],
        cwd=folder,
        check=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=ENVIRONMENT,
    )


def runs_below(folder: Path) -> list[RunDir]:
    return [RunDir(path.parent) for path in folder.rglob("config.yaml")]


def weights(run_dir: RunDir) -> dict[str, torch.Tensor]:
    return checkpoint.load(run_dir.last_checkpoint)["method"]


def difference(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    """The norm of the difference of all weights, relative to that of the weights."""
    a, b = (torch.cat([x.double().flatten() for x in given.values()]) for given in (one, other))
    return float((a - b).norm() / a.norm())


def signal_when_training(machine: Machine, run_dir: RunDir, signum: int) -> Deed:
    """To the first process of the machine, after some steps."""

    def deed(running: list[subprocess.Popen[bytes]]) -> None:
        while not run_dir.metrics.exists() or len(run_dir.metrics.read_text().splitlines()) < 20:
            if any(process.poll() is not None for process in running):
                return
            time.sleep(0.05)
        os.kill(machine.trainers()[0], signum)

    return deed


def write_images(root: Path) -> None:
    rng = np.random.default_rng(0)
    for split, count in (("train", 96), ("test", 8)):
        for number, name in enumerate(("red", "green")):
            (root / split / name).mkdir(parents=True)
            for i in range(count):
                image = rng.integers(0, 60, (8, 8, 3))
                image[:, :, number] += 180
                Image.fromarray(image.astype(np.uint8)).save(root / split / name / f"{i}.png")


# ------------------------------------------------------------------ trials


class Trials:
    """Each method is a trial; it gives what was seen, and whether that was right."""

    def __init__(self, machines: tuple[Machine, Machine], folder: Path, processes: int) -> None:
        self.machines = machines
        self.folder = folder
        self.processes = processes
        words = [*WORDS, "dataset=digits", SHORT]
        run_on_one([*words, "hydra.run.dir=alone"], folder, processes=1)
        run_on_one([*words, "hydra.run.dir=near"], folder, processes=2 * processes)
        self.alone = weights(RunDir(folder / "alone"))
        self.near = weights(RunDir(folder / "near"))
        self.together: dict[str, torch.Tensor] = {}

    def run(self, *words: str, deed: Deed = _nothing) -> Ended:
        return run_on_both(self.machines, words, self.folder, processes=self.processes, deed=deed)

    def the_same_as_one_process(self) -> tuple[Ended, str, bool]:
        ended = self.run(*WORDS, "dataset=digits", SHORT)
        made = runs_below(self.folder / "outputs")
        if len(made) != 1:
            return ended, f"{len(made)} run directories", False
        self.together = weights(made[0])
        apart = difference(self.alone, self.together)
        same = difference(self.near, self.together) == 0
        count = made[0].read_result()["processes"]
        seen = f"{count} processes, 1 run directory, {ended.last_lines()} last line; weights "
        seen += f"{apart:.1e} from those of one process, those of {count} of one machine: {same}"
        good = same and ended.statuses == [0, 0] and count == 2 * self.processes
        return ended, seen, good and apart < TOLERANCE and ended.last_lines() == 1

    def interrupted_and_resumed(self) -> tuple[Ended, str, bool]:
        run_dir = RunDir(self.folder / "interrupted")
        words = [*WORDS, "dataset=digits", SHORT, f"hydra.run.dir={run_dir}"]
        term = signal_when_training(self.machines[1], run_dir, signal.SIGTERM)
        ended = self.run(*words, deed=term)
        good = self._ended_well(ended, lines=[1, 1]) and ended.seconds < SECONDS_TO_END
        good &= all("interrupted by SIGTERM; resume with: " in text for text in ended.printed)
        again = self.run(f"resume={run_dir}")
        same = again.statuses == [0, 0] and difference(weights(run_dir), self.together) == 0
        return ended, f"resumed; same weights as uninterrupted: {same}", good and same

    def killed(self) -> tuple[Ended, str, bool]:
        run_dir = RunDir(self.folder / "killed")
        words = [*WORDS, "dataset=digits", LONG, f"hydra.run.dir={run_dir}"]
        kill = signal_when_training(self.machines[1], run_dir, signal.SIGKILL)
        ended = self.run(*words, deed=kill)
        there = [1, 1 if self.processes > 1 else 0]  # who was killed says nothing
        good = self._ended_well(ended, lines=there) and ended.seconds < SECONDS_TO_END
        return ended, f"a checkpoint is left: {run_dir.last_checkpoint.exists()}", good

    def no_data_on_the_second(self) -> tuple[Ended, str, bool]:
        root = self._images()
        self.machines[1].hidden = [root]
        words = ["dataset=image_folder", f"dataset.root={root}", f"hydra.run.dir={self.folder}/no"]
        ended = self.run(*WORDS, *words, SHORT)
        self.machines[1].hidden = []
        made = (self.folder / "no").exists()
        good = self._ended_well(ended, lines=[1, 1]) and not made
        good &= f"(on {self.machines[1].name})" in ended.printed[0]
        return ended, f"a run directory was made: {made}", good

    def disks_of_their_own(self) -> tuple[Ended, str, bool]:
        """The second machine sees neither the first one's cache nor its run directory."""
        root, cache = self._images(), self.folder / "cache"
        shutil.rmtree(cache, ignore_errors=True)
        cache.mkdir()
        (self.folder / "apart").mkdir()
        self.machines[1].hidden = [cache, self.folder / "apart"]
        run_dir = RunDir(self.folder / "apart" / "run")
        ended = self.run(
            *(*WORDS, "dataset=image_folder", f"dataset.root={root}", f"data.cache_dir={cache}"),
            *(SHORT, f"hydra.run.dir={run_dir}"),
        )
        self.machines[1].hidden = []
        seen = f"run directory on the first machine: {run_dir.finished}"
        return ended, seen, ended.statuses == [0, 0] and run_dir.finished

    def _images(self) -> Path:
        root = self.folder / "images"
        if not root.exists():
            write_images(root)
        return root

    def _ended_well(self, ended: Ended, *, lines: list[int]) -> bool:
        """torchrun exits with 1 where a process failed."""
        traceback = any(_own_traceback(text) for text in ended.printed)
        return 0 not in ended.statuses and ended.own_lines() == lines and not traceback


def _own_traceback(text: str) -> bool:
    """One of ours, not torchrun's."""
    return any("tcl_train/" in line and line.startswith("  File ") for line in text.splitlines())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2], help="on each machine")
    parser.add_argument("--out", type=Path, default=Path("results/two_nodes.csv"))
    given = parser.parse_args()
    if os.geteuid() != 0 or shutil.which("ip") is None:
        raise SystemExit("two_nodes.py needs root and iproute2 (apt-get install iproute2)")
    table = Table(given.out, torch.device("cpu"))
    results = [_try_all(count, table) for count in given.processes]
    return 0 if all(results) else 1


def _try_all(processes: int, table: Table) -> bool:
    good = True
    with tempfile.TemporaryDirectory() as place, two_machines(Path(place)) as machines:
        trials = Trials(machines, Path(place), processes)
        for trial in (
            trials.the_same_as_one_process,
            trials.interrupted_and_resumed,
            trials.killed,
            trials.no_data_on_the_second,
            trials.disks_of_their_own,
        ):
            ended, seen, right = trial()
            row: dict[str, Any] = {
                "trial": trial.__name__.replace("_", " "),
                "processes on each": processes,
                "torchrun's status": " ".join(map(str, ended.statuses)),
                "own lines": " ".join(map(str, ended.own_lines())),
                "seconds": round(ended.seconds, 1),  # since the signal, if there was one
                "seen": seen,
                "right": right,
            }
            table.add(row)
            if not right:
                print(*ended.printed, sep="\n-----\n")
            good &= right
    return good


if __name__ == "__main__":
    sys.exit(main())
