"""Where numbers and messages go."""

from __future__ import annotations

import errno
import json
import threading
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

from tcl_train.run.directory import RunDir
from tcl_train.run.sink import Sink


@pytest.fixture
def run_dir(tmp_path: Path) -> RunDir:
    run_dir = RunDir(tmp_path / "run")
    run_dir.path.mkdir()
    return run_dir


def lines(run_dir: RunDir) -> list[dict[str, Any]]:
    return [json.loads(line) for line in run_dir.metrics.read_text().splitlines()]


def curves(run_dir: RunDir) -> dict[str, list[tuple[int, float]]]:
    """What TensorBoard reads: the points of each curve."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TensorBoard's own, about its dependencies
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        events = EventAccumulator(str(run_dir.tensorboard))
        events.Reload()
    return {
        name: [(event.step, event.value) for event in events.Scalars(name)]
        for name in events.Tags()["scalars"]
    }


def pictures(run_dir: RunDir) -> list[Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        events = EventAccumulator(str(run_dir.tensorboard))
        events.Reload()
    return events.Images("views")


def long_ago(run_dir: RunDir) -> None:
    """TensorBoard orders files by the second in which they were begun."""
    for path in run_dir.tensorboard.glob("events.out.tfevents.[1-9]*"):
        path.rename(path.with_name("events.out.tfevents.0000000001.here.1.0"))


# ------------------------------------------------------------------ numbers


def test_every_write_is_a_line_and_a_point_of_each_curve(run_dir: RunDir) -> None:
    with Sink(run_dir) as sink:
        sink.write(1, 0, {"loss": 2.5, "lr": 0.5})
        sink.write(2, 0, {"loss": 1.5, "lr": 0.25})
    assert lines(run_dir) == [
        {"step": 1, "epoch": 0, "loss": 2.5, "lr": 0.5},
        {"step": 2, "epoch": 0, "loss": 1.5, "lr": 0.25},
    ]
    expected = {"train/loss": [(1, 2.5), (2, 1.5)], "train/lr": [(1, 0.5), (2, 0.25)]}
    assert curves(run_dir) == expected


def test_a_line_can_be_read_before_the_run_ends(run_dir: RunDir) -> None:
    with Sink(run_dir) as sink:
        sink.write(1, 0, {"loss": 2.5})
        assert len(lines(run_dir)) == 1


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_what_is_not_finite_is_null(run_dir: RunDir, value: float) -> None:
    with Sink(run_dir) as sink:
        sink.write(1, 0, {"loss": 1.0, "positive_similarity": value})
    assert lines(run_dir) == [{"step": 1, "epoch": 0, "loss": 1.0, "positive_similarity": None}]


def test_what_a_resumed_run_writes_again_is_taken_out_first(run_dir: RunDir) -> None:
    with Sink(run_dir) as sink:
        for step in range(1, 6):
            sink.write(step, 0, {"loss": float(step)})
    long_ago(run_dir)
    with Sink(run_dir, first_step=3) as sink:
        for step in range(4, 7):
            sink.write(step, 1, {"loss": 10.0 * step})
    expected = [(1, 1.0), (2, 2.0), (3, 3.0), (4, 40.0), (5, 50.0), (6, 60.0)]
    assert [(line["step"], line["loss"]) for line in lines(run_dir)] == expected
    assert curves(run_dir) == {"train/loss": expected}


def test_a_run_that_starts_over_takes_all_out(run_dir: RunDir) -> None:
    """It was killed before its first checkpoint."""
    with Sink(run_dir) as sink:
        sink.write(1, 0, {"loss": 1.0})
        sink.write(2, 0, {"loss": 2.0})
    long_ago(run_dir)
    with Sink(run_dir, first_step=0) as sink:
        sink.write(1, 0, {"loss": 10.0})
    assert [(line["step"], line["loss"]) for line in lines(run_dir)] == [(1, 10.0)]
    assert curves(run_dir) == {"train/loss": [(1, 10.0)]}


@pytest.mark.parametrize("rest", ['{"step": 2, "lo', "\x00\x00", "3\n", '{"epoch": 1}\n'])
def test_half_a_line_from_a_run_that_was_killed_is_taken_out(run_dir: RunDir, rest: str) -> None:
    run_dir.metrics.write_text('{"step": 1, "epoch": 0, "loss": 1.0}\n' + rest)
    with Sink(run_dir, first_step=5) as sink:
        sink.write(6, 0, {"loss": 6.0})
    assert [line["step"] for line in lines(run_dir)] == [1, 6]


def test_the_files_are_closed_when_the_run_fails(run_dir: RunDir) -> None:
    def fail() -> None:
        with Sink(run_dir) as sink:
            sink.write(1, 0, {"loss": 1.0})
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert curves(run_dir) == {"train/loss": [(1, 1.0)]}


# ------------------------------------------------------------------ pictures


def test_a_picture_is_in_tensorboard(run_dir: RunDir) -> None:
    image_CHW = torch.arange(3 * 4 * 5, dtype=torch.uint8).view(3, 4, 5)
    with Sink(run_dir) as sink:
        assert sink.board.is_new
        sink.board.picture(0, "views", image_CHW)
    (event,) = pictures(run_dir)
    assert (event.step, event.width, event.height) == (0, 5, 4)
    with Sink(run_dir, first_step=3) as sink:
        assert not sink.board.is_new


def test_bytes_that_are_no_text_are_taken_out(run_dir: RunDir) -> None:
    run_dir.metrics.write_bytes(b'{"step": 1, "epoch": 0, "loss": 2.0}\n\xff\xfe{\n')
    Sink(run_dir, first_step=1).close()
    assert [line["step"] for line in lines(run_dir)] == [1]


def test_a_full_disk_of_tensorboard_is_an_error_that_names_its_folder(
    run_dir: RunDir, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its thread prints nothing."""
    from tensorboard.summary.writer.record_writer import RecordWriter

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    def write_often(sink: Sink) -> None:
        for step in range(10_000):
            sink.write(step, 0, {"loss": 1.0})

    hook = threading.excepthook
    with monkeypatch.context() as patch, Sink(run_dir) as sink:
        patch.setattr(RecordWriter, "write", full)
        with pytest.raises(OSError, match="No space left on device") as caught:
            write_often(sink)
    assert caught.value.filename == str(run_dir.tensorboard)
    assert capsys.readouterr().err == ""
    assert threading.excepthook is hook
