"""A run of two processes: one result, one directory, one message, and never a hang.

The processes are started as torchrun starts them; torchrun itself is tried once.
"""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tcl_train.run.directory import RunDir

pytestmark = pytest.mark.slow

COUNT = 2
SECONDS = 120
Start = Callable[..., list["subprocess.Popen[str]"]]


def environment(rank: int, port: int, machines: int = 1) -> dict[str, str]:
    """With a machine for each process, or one for both."""
    on_each = COUNT // machines
    return {
        **os.environ,
        "RANK": str(rank),
        "LOCAL_RANK": str(rank % on_each),
        "WORLD_SIZE": str(COUNT),
        "LOCAL_WORLD_SIZE": str(on_each),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "PYTHONUNBUFFERED": "1",
    }


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def start_two(tmp_path: Path, tiny_words: Callable[..., list[str]]) -> Start:
    """`start_two("epochs=2")`: a tiny run as two processes, in an empty folder."""
    (tmp_path / "here").mkdir()

    def start(*words: str) -> list[subprocess.Popen[str]]:
        port = free_port()
        return [
            subprocess.Popen(
                [sys.executable, "-m", "tcl_train", *tiny_words(*words)],
                cwd=tmp_path / "here",
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                env=environment(rank, port),
            )
            for rank in range(COUNT)
        ]

    return start


@pytest.fixture
def start_on_two_machines(tmp_path: Path, tiny_words: Callable[..., list[str]]) -> Start:
    """The same with a process on each of two machines, which see folders and caches of their own:
    the folders `0` and `1`."""

    def start(*words: str) -> list[subprocess.Popen[str]]:
        port = free_port()
        for machine in range(COUNT):
            (tmp_path / str(machine)).mkdir(exist_ok=True)
        return [
            subprocess.Popen(
                [sys.executable, "-m", "tcl_train", *tiny_words(*words)],
                cwd=tmp_path / str(machine),
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                env=environment(machine, port, COUNT),
            )
            for machine in range(COUNT)
        ]

    return start


def outcome(processes: list[subprocess.Popen[str]]) -> tuple[list[int], list[str]]:
    """Exit statuses, and all lines on standard error that the program itself wrote."""
    lines = []
    for process in processes:
        _, err = process.communicate(timeout=SECONDS)
        lines += [line for line in err.splitlines() if line.startswith("tcl-train: ")]
        assert "Traceback" not in err, err
    return [process.returncode for process in processes], lines


def wait_for_steps(run_dir: RunDir, count: int) -> None:
    end = time.monotonic() + SECONDS
    while not run_dir.metrics.exists() or len(run_dir.metrics.read_text().splitlines()) < count:
        assert time.monotonic() < end
        time.sleep(0.05)


def losses(run_dir: RunDir) -> list[float]:
    records = map(json.loads, run_dir.metrics.read_text().splitlines())
    return [record["loss"] for record in records if "loss" in record]


@pytest.mark.parametrize(
    "words",
    [
        ("probe=lbfgs",),
        ("probe=sgd", "probe.epochs=2"),
        ("probe=finetune", "probe.epochs=1", "probe.min_steps=0"),
    ],
)
def test_two_processes_are_one_run(
    start_two: Start,
    train_tiny: Callable[..., dict],
    tmp_path: Path,
    words: tuple[str, ...],
) -> None:
    processes = start_two(f"hydra.run.dir={tmp_path}/two", "epochs=2", "lr=0.01", *words)
    outs = [process.communicate(timeout=SECONDS) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outs
    assert outs[0][0].splitlines()[-1].startswith("top-1 ")
    assert outs[1][0] == ""
    two = json.loads((tmp_path / "two" / "result.json").read_text())
    one = train_tiny(tmp_path / "one", "epochs=2", "lr=0.01", *words)
    assert (one["processes"], two["processes"]) == (1, 2)
    assert two["top1"] == pytest.approx(one["top1"], abs=1.0)
    assert two["knn_top1"] == pytest.approx(one["knn_top1"], abs=1.0)
    assert two["image_views_seen"] == one["image_views_seen"]
    one_dir, two_dir = RunDir(tmp_path / "one"), RunDir(tmp_path / "two")
    assert losses(two_dir) == pytest.approx(losses(one_dir), rel=1e-3)
    events = [*(tmp_path / "two" / "tensorboard").glob("events.*")]
    assert len(events) == 2  # one with the row of the HParams tab
    assert list((tmp_path / "here").iterdir()) == []


@pytest.mark.parametrize(
    ("signum", "rank"), [(signal.SIGTERM, 0), (signal.SIGINT, 1), (signal.SIGUSR1, 1)]
)
def test_a_signal_to_one_of_them_stops_both_and_one_process_resumes(
    start_two: Start,
    tmp_path: Path,
    signum: signal.Signals,
    rank: int,
) -> None:
    run_dir = RunDir(tmp_path / "run")
    processes = start_two(f"hydra.run.dir={run_dir}", "epochs=200")
    wait_for_steps(run_dir, 3)
    processes[rank].send_signal(signum)
    statuses, lines = outcome(processes)
    assert statuses == [128 + signum] * COUNT
    assert len(lines) == 1
    assert f"interrupted by {signum.name}" in lines[0]
    assert run_dir.last_checkpoint.exists()
    steps = len(losses(run_dir))
    words = ["-m", "tcl_train", f"resume={run_dir}", "log_every=1"]
    again = subprocess.Popen([sys.executable, *words], stdout=subprocess.PIPE, text=True)
    wait_for_steps(run_dir, steps + 3)
    again.send_signal(signal.SIGTERM)
    out, _ = again.communicate(timeout=SECONDS)
    assert again.returncode == 143
    assert "resuming at step" in out


@pytest.mark.parametrize("rank", range(COUNT))
def test_when_one_is_killed_the_other_says_so_and_ends(
    start_two: Start, tmp_path: Path, rank: int
) -> None:
    run_dir = RunDir(tmp_path / "run")
    processes = start_two(f"hydra.run.dir={run_dir}", "epochs=200")
    wait_for_steps(run_dir, 8)
    processes[rank].kill()
    statuses, lines = outcome(processes)
    assert statuses[1 - rank] == 1
    assert len(lines) == 1
    assert "another of the 2 processes has ended" in lines[0]
    assert f"resume with: tcl-train resume={run_dir}" in lines[0]
    assert run_dir.last_checkpoint.exists()


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        (("batch_size=33",), 2, "batch_size=33 cannot be divided among 2 processes"),
        (("chunk_size=3",), 2, "chunk_size=3 cannot be divided among 2"),
        (("epochs=0",), 2, "epochs"),
        (("epocs=1",), 2, "did you mean epochs?"),
        (("dataset=image_folder", "dataset.root=nowhere"), 2, "dataset.root=nowhere"),
        (("-m", "seed=1,2"), 2, "call torchrun once for each run"),
        (("lr=1e30", "scheduler=constant", "epochs=20"), 1, "try a lower lr"),
    ],
)
def test_what_is_refused_or_fails_is_said_once(
    start_two: Start, words: tuple[str, ...], status: int, said: str
) -> None:
    statuses, lines = outcome(start_two(*words))
    assert statuses == [status] * COUNT
    assert len(lines) == 1
    assert said in lines[0]


def test_a_directory_that_is_taken_is_refused_in_one_line(start_two: Start, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").write_text("")
    statuses, lines = outcome(start_two(f"hydra.run.dir={tmp_path}/run"))
    assert statuses == [2, 2]
    assert len(lines) == 1
    assert "already contains an unfinished run" in lines[0]


def test_a_failure_of_the_second_is_said_with_its_traceback_in_the_log(
    start_two: Start, tmp_path: Path, write_images: Callable[..., Path]
) -> None:
    """An image disappears after the check, from the part of the second process."""
    root = write_images(
        tmp_path / "images",
        {"train/red": 40, "train/blue": 40, "test/red": 4, "test/blue": 4},
    )
    words = ("dataset=image_folder", f"dataset.root={root}", "data.memory_limit_gb=0")
    run_dir = RunDir(tmp_path / "run")
    processes = start_two(
        *words, f"hydra.run.dir={run_dir}", "batch_size=16", "epochs=2000", "data.workers=1"
    )
    wait_for_steps(run_dir, 3)
    for path in (root / "train" / "red").iterdir():
        path.unlink()
    statuses, lines = outcome(processes)
    assert statuses == [1, 1]
    assert len(lines) == 1
    assert re.search(r"train/red/\d+\.png", lines[0])
    assert "Traceback" in run_dir.log.read_text()


IMAGES = {"train/red": 20, "train/blue": 20, "test/red": 4, "test/blue": 4}
FOLDER_WORDS = ("dataset=image_folder", "dataset.root=images", "data.cache_dir=cache")


def test_machines_that_share_no_disk_train_one_run(
    start_on_two_machines: Start, tmp_path: Path, write_images: Callable[..., Path]
) -> None:
    """Each fills its cache; the run directory is the first one's."""
    for machine in "01":
        write_images(tmp_path / machine / "images", IMAGES)
    statuses, lines = outcome(start_on_two_machines(*FOLDER_WORDS, "batch_size=8"))
    assert (statuses, lines) == ([0, 0], [])
    assert [len(list((tmp_path / m / "cache").glob("*.npy"))) for m in "01"] == [2, 2]
    assert [len(list((tmp_path / m).rglob("config.yaml"))) for m in "01"] == [1, 0]


@pytest.mark.parametrize(
    ("there", "said"),
    [
        ({}, "dataset.root=images: "),
        ({**IMAGES, "train/red": 19}, "40 training images in the first process, 39 here"),
        ({**IMAGES, "train/green": 4}, "new classes: green"),
    ],
    ids=["none", "fewer", "another class"],
)
def test_a_machine_without_the_data_is_named_before_anything_is_written(
    start_on_two_machines: Start,
    tmp_path: Path,
    write_images: Callable[..., Path],
    there: dict[str, int],
    said: str,
) -> None:
    write_images(tmp_path / "0" / "images", IMAGES)
    write_images(tmp_path / "1" / "images", there)
    statuses, lines = outcome(start_on_two_machines(*FOLDER_WORDS, "batch_size=8"))
    assert statuses == [2, 2]
    assert len(lines) == 2  # one on each machine
    assert all(said in line for line in lines)
    assert [f"(on {socket.gethostname()})" in line for line in lines] == [True, False]
    assert list(tmp_path.rglob("config.yaml")) == []


def test_a_signal_to_one_of_two_machines_is_said_on_both(
    start_on_two_machines: Start, tmp_path: Path
) -> None:
    run_dir = RunDir(tmp_path / "run")
    processes = start_on_two_machines(f"hydra.run.dir={run_dir}", "epochs=200")
    wait_for_steps(run_dir, 3)
    processes[1].send_signal(signal.SIGTERM)
    statuses, lines = outcome(processes)
    assert statuses == [143, 143]
    assert len(lines) == 2
    assert all("interrupted by SIGTERM; resume with: " in line for line in lines)


def test_a_count_without_a_place_is_refused(
    start: Callable[..., subprocess.Popen[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    statuses, lines = outcome([start("tcl-train")])
    assert statuses == [2]
    assert "torchrun --nproc-per-node N -m tcl_train" in lines[0]


def test_torchrun_starts_one_run(tmp_path: Path, tiny_words: Callable[..., list[str]]) -> None:
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(COUNT)]
    words = tiny_words(f"hydra.run.dir={tmp_path}/run")
    done = subprocess.run(
        [*torchrun, "--standalone", "-m", "tcl_train", *words],
        capture_output=True,
        text=True,
        timeout=SECONDS,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "run" / "result.json").read_text())["processes"] == COUNT
    assert done.stdout.count("top-1") == 1
