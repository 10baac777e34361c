"""Checkpoints are there whole or not at all, and what is not one is refused by name."""

from __future__ import annotations

import errno
import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch

from tcl_train.errors import RequestError
from tcl_train.run import checkpoint
from tcl_train.run.checkpoint import Checkpoints, load, load_newest


def state(step: int = 0) -> dict[str, Any]:
    return {"weights": torch.arange(1000.0) + step, "step": step, "about": {"mean": [0.5]}}


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


# ------------------------------------------------------------------ which ones stay


def test_what_was_saved_is_loaded(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path / "new" / "folder", every=1, keep=1)
    checkpoints.save(state(3), epochs_done=1)
    loaded = load(checkpoints.last)
    assert torch.equal(loaded["weights"], state(3)["weights"])
    assert (loaded["step"], loaded["about"]) == (3, {"mean": [0.5]})


@pytest.mark.parametrize(
    ("keep", "left"),
    [
        (1, {"last.pt", "previous.pt"}),
        (2, {"last.pt", "previous.pt", "epoch-00004.pt", "epoch-00005.pt"}),
        ("all", {"last.pt", "previous.pt", *(f"epoch-{n:05d}.pt" for n in range(1, 6))}),
    ],
)
def test_as_many_of_the_newest_stay_as_are_asked_for(
    tmp_path: Path, keep: int | str, left: set[str]
) -> None:
    checkpoints = Checkpoints(tmp_path, every=1, keep=keep)
    for epoch in range(1, 6):
        checkpoints.save(state(epoch), epochs_done=epoch)
    assert names(tmp_path) == left
    for name in left - {"last.pt", "previous.pt"}:
        assert load(tmp_path / name)["step"] == int(name[6:11])
    assert load(checkpoints.last)["step"] == 5
    assert load(tmp_path / "previous.pt")["step"] == 4
    checkpoints.finish()
    assert names(tmp_path) == left - {"previous.pt"}


def test_a_file_system_without_hard_links_keeps_copies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    checkpoints = Checkpoints(tmp_path, every=1, keep=2)
    for epoch in range(1, 4):
        checkpoints.save(state(epoch), epochs_done=epoch)
    kept = {"last.pt", "previous.pt", "epoch-00002.pt", "epoch-00003.pt"}
    assert names(tmp_path) == kept
    assert load(tmp_path / "epoch-00002.pt")["step"] == 2


def test_a_checkpoint_in_the_middle_of_an_epoch_is_the_last_one_only(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, every=1, keep="all")
    checkpoints.save(state(1), epochs_done=1)
    checkpoints.save(state(2))
    assert names(tmp_path) == {"last.pt", "previous.pt", "epoch-00001.pt"}
    assert load(checkpoints.last)["step"] == 2
    assert load(tmp_path / "epoch-00001.pt")["step"] == 1


def test_an_epoch_that_is_saved_again_is_renewed(tmp_path: Path) -> None:
    """As a run does that goes on from before the end of that epoch."""
    checkpoints = Checkpoints(tmp_path, every=1, keep=3)
    checkpoints.save(state(1), epochs_done=1)
    checkpoints.save(state(7), epochs_done=1)
    assert load(tmp_path / "epoch-00001.pt")["step"] == 7


def test_checkpoints_are_due_every_so_many_epochs(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, every=3, keep=1)
    assert [epoch for epoch in range(1, 10) if checkpoints.due(epoch)] == [3, 6, 9]


def test_a_save_that_fails_leaves_the_last_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoints = Checkpoints(tmp_path, every=1, keep=1)
    checkpoints.save(state(1), epochs_done=1)

    def fail(value: Any, path: Path) -> None:
        path.write_bytes(b"half")
        raise OSError(errno.ENOSPC, "disk full")

    monkeypatch.setattr(torch, "save", fail)
    with pytest.raises(OSError, match="disk full"):
        checkpoints.save(state(2), epochs_done=2)
    assert names(tmp_path) == {"last.pt", "previous.pt"}
    assert load(checkpoints.last)["step"] == 1


# ------------------------------------------------------------------ what is none


def test_a_checkpoint_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"last\.pt: there is no checkpoint"):
        load(tmp_path / "last.pt")
    with pytest.raises(RequestError, match="there is no checkpoint"):
        load(tmp_path)  # a folder


@pytest.mark.parametrize("share", [0, 0.01, 0.5, 0.99])
def test_a_checkpoint_that_was_cut_off_is_named(tmp_path: Path, share: float) -> None:
    path = tmp_path / "last.pt"
    Checkpoints(tmp_path, every=1, keep=1).save(state())
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(RequestError, match=r"last\.pt: not a whole checkpoint .*take another one"):
        load(path)


def test_a_checkpoint_with_wrong_bytes_is_named(tmp_path: Path) -> None:
    path = tmp_path / "last.pt"
    path.write_bytes(os.urandom(5000))
    with pytest.raises(RequestError, match=r"last\.pt: not a whole checkpoint"):
        load(path)


@pytest.mark.parametrize(
    "value", [{"format": checkpoint.FORMAT + 1, "step": 1}, {"step": 1}, torch.zeros(3), [1]]
)
def test_a_file_of_torch_that_is_no_checkpoint_is_named(tmp_path: Path, value: Any) -> None:
    path = tmp_path / "last.pt"
    torch.save(value, path)
    with pytest.raises(RequestError, match=r"last\.pt: checkpoint format .* is not the 1"):
        load(path)


class Harmful:
    """What a pickle may hold: code that runs when it is read."""

    def __reduce__(self) -> Any:
        return (os.mkdir, ("harm",))


@pytest.mark.usefixtures("here")
def test_reading_a_checkpoint_runs_no_code_that_is_in_it(tmp_path: Path) -> None:
    path = tmp_path / "last.pt"
    for write in (lambda: torch.save(Harmful(), path), lambda: path.write_bytes(HARM)):
        write()
        with pytest.raises(RequestError, match="not a whole checkpoint"):
            load(path)
        assert not Path("harm").exists()


HARM = pickle.dumps(Harmful())


# ------------------------------------------------------------------ one that is damaged


def damaged(path: Path, how: str) -> None:
    content = path.read_bytes()
    if how == "truncated":
        content = content[: len(content) // 2]
    else:  # a single bit, in the middle of the weights
        place = content.index(torch.arange(1000.0).numpy().tobytes()[400:800]) + 100
        content = content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]
    path.unlink()  # and not what other names of the file hold
    path.write_bytes(content)


@pytest.mark.parametrize("how", ["truncated", "one bit"])
def test_a_damaged_one_is_named_and_the_one_before_it_taken(
    tmp_path: Path, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    checkpoints = Checkpoints(tmp_path, every=1, keep=1)
    for step in (1, 0):
        checkpoints.save(state(step))
    damaged(checkpoints.last, how)
    with pytest.raises(RequestError, match=r"last\.pt: (not a whole checkpoint|damaged)"):
        load(checkpoints.last)
    found = load_newest(tmp_path)
    assert found is not None
    path, loaded = found
    assert (path.name, loaded["step"]) == ("previous.pt", 1)
    assert str(checkpoints.last) in caplog.text
    assert "resuming from" in caplog.text


def test_where_none_is_whole_the_last_one_is_named(tmp_path: Path) -> None:
    assert load_newest(tmp_path) is None
    for name in ("last.pt", "previous.pt", "epoch-00001.pt"):
        (tmp_path / name).write_bytes(b"nothing")
    with pytest.raises(RequestError, match=r"last\.pt: not a whole checkpoint"):
        load_newest(tmp_path)


def test_those_of_earlier_versions_have_no_checksum(tmp_path: Path) -> None:
    torch.save({"format": 1, **state()}, tmp_path / "last.pt")
    assert load(tmp_path / "last.pt")["step"] == 0


# ------------------------------------------------------------------ by the clock


def test_one_is_overdue_when_so_many_minutes_have_passed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [100.0]
    monkeypatch.setattr(checkpoint, "monotonic", lambda: now[0])
    often = Checkpoints(tmp_path, every=1, keep=1, every_minutes=2)
    never = Checkpoints(tmp_path, every=1, keep=1)
    agreeing = Checkpoints(tmp_path, every=1, keep=1, every_minutes=1e9, largest=lambda _: 1)
    now[0] += 119
    assert not often.overdue()
    now[0] += 1
    assert often.overdue()
    assert not never.overdue()
    assert agreeing.overdue()
    often.save(state())
    assert not often.overdue()
