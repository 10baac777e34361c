"""Standard output and error that never stop a command."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tcl_train.cli.streams import Forgiving, forgiving_streams

TINY = (
    "encoder=resnet8",
    "encoder.width=4",
    "epochs=1",
    "batch_size=512",
    "device=cpu",
    "random_encoder_baseline=false",
    "probe.l2=[1e-3]",
    "hydra.run.dir=run",
)


def tcl_train(*words: str, folder: Path, **keys: object) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "tcl_train", *words]
    return subprocess.run(command, cwd=folder, timeout=240, check=False, **keys)  # type: ignore[call-overload]


def test_what_cannot_be_encoded_is_escaped() -> None:
    raw = io.BytesIO()
    stream = Forgiving(io.TextIOWrapper(raw, encoding="ascii"))
    stream.write("caf\xe9 \udce9 \u4e2d")
    stream.flush()
    assert raw.getvalue() == b"caf\\xe9 \\udce9 \\u4e2d"


def test_a_broken_pipe_is_dropped() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as file:
        stream = Forgiving(file)
        for _ in range(3):
            stream.write("words" * 10_000)
            stream.flush()


def test_a_closed_stream_is_dropped() -> None:
    file = io.StringIO()
    file.close()
    Forgiving(file).write("words")
    Forgiving(file).flush()


def test_streams_that_were_closed_at_the_start_are_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    with forgiving_streams():
        print("words")
    assert sys.stdout is None


@pytest.mark.parametrize("closed", ["stdout", "stderr"])
def test_help_to_a_reader_that_has_left_ends_without_a_word(tmp_path: Path, closed: str) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, closed: writing}
    try:
        done = tcl_train("--help", folder=tmp_path, **streams)
    finally:
        os.close(writing)
    assert done.returncode == 0
    assert not done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_a_run_in_a_folder_that_the_terminal_cannot_show_finishes(
    tmp_path: Path, encoding: str
) -> None:
    folder = tmp_path / os.fsdecode(b"caf\xe9 \xff")
    folder.mkdir()
    environment = {**os.environ, "PYTHONIOENCODING": encoding, "LC_ALL": "C"}
    words = [word if "run.dir" not in word else f"hydra.run.dir='{folder}/run'" for word in TINY]
    done = tcl_train(*words, folder=folder, env=environment, capture_output=True)
    assert (done.returncode, done.stderr) == (0, b"")
    assert (folder / "run" / "result.json").exists()
    done = tcl_train(*words, folder=folder, env=environment, capture_output=True)
    assert done.returncode == 2
    assert done.stderr.count(b"\n") == 1


@pytest.mark.slow
def test_a_run_whose_output_nobody_reads_finishes(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    try:
        done = tcl_train(*TINY, folder=tmp_path, stdout=writing, stderr=writing)
    finally:
        os.close(writing)
    assert done.returncode == 0
    assert (tmp_path / "run" / "result.json").exists()
