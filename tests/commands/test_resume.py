"""Interrupted runs: they stop in good order, say how to go on, and end as if nothing had happened.

Most are runs in this process on a few digits (5 steps an epoch) that a real signal stops after a
certain step; one is a process as a user would start and stop it.
"""

from __future__ import annotations

import json
import shlex
import shutil
import signal
import subprocess
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf

from tcl_train.cli.overrides import quoted
from tcl_train.commands import train as train_module
from tcl_train.evaluation.evaluate import Evaluator
from tcl_train.run import checkpoint
from tcl_train.run.directory import RunDir
from tcl_train.runtime import device as runtime

WORDS = ("batch_size=32", "epochs=2")
STEPS = 10
MEASURES = ("top1", "top5", "knn_top1", "probe", "steps", "image_views_seen", "loss", "seed")


def state(run_dir: RunDir) -> dict[str, Any]:
    return checkpoint.load(run_dir.checkpoints / "last.pt")


def assert_equal(one: Any, other: Any, place: str = "") -> None:
    """Bit for bit, through dicts and lists."""
    if isinstance(one, torch.Tensor):
        assert torch.equal(one, other), place
    elif isinstance(one, Mapping):
        assert one.keys() == other.keys(), place
        for key in one:
            assert_equal(one[key], other[key], f"{place}.{key}")
    elif isinstance(one, list):
        assert len(one) == len(other), place
        for i, (a, b) in enumerate(zip(one, other, strict=True)):
            assert_equal(a, b, f"{place}[{i}]")
    else:
        assert one == other, place


def assert_same_run(one: RunDir, other: RunDir) -> None:
    """The same final weights, optimiser, and results."""
    for part in ("method", "optimizer", "runtime", "step", "about"):
        assert_equal(state(one)[part], state(other)[part], part)
    results = one.read_result(), other.read_result()
    for key in MEASURES:
        assert results[0][key] == results[1][key], key
    assert training_lines(one) == training_lines(other)


def training_lines(run_dir: RunDir) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl without what depends on the clock."""
    lines = [json.loads(line) for line in run_dir.metrics.read_text().splitlines()]
    timed = ("images_per_second", "data_wait_percent")
    return [{k: v for k, v in line.items() if k not in timed} for line in lines if "loss" in line]


@pytest.fixture(scope="module")
def uninterrupted(
    few_digits: Any,
    replace_data: Callable[..., None],
    train_tiny: Callable[..., dict[str, Any]],
    tmp_path_factory: pytest.TempPathFactory,
) -> RunDir:
    run_dir = RunDir(tmp_path_factory.mktemp("uninterrupted") / "run")
    with pytest.MonkeyPatch.context() as patch:
        replace_data(patch, few_digits)
        train_tiny(run_dir, *WORDS)
    return run_dir


@pytest.fixture
def run(
    command: Callable[..., Any],
    tiny_words: Callable[..., list[str]],
    on_few_digits: None,
) -> Callable[..., Any]:
    """`run()`: the run to interrupt, into the directory `run`."""
    return lambda *words: command(*tiny_words(*WORDS, "hydra.run.dir=run", *words))


@pytest.fixture
def interrupted(run: Callable[..., Any], signalled: Callable[..., Any]) -> Callable[..., RunDir]:
    """`interrupted(step)`: a run that was stopped after this step."""

    def stop(step: int, *words: str, signum: int = signal.SIGINT) -> RunDir:
        with signalled(step, signum):
            assert run(*words).status == 128 + signum
        return RunDir("run")

    return stop


# ------------------------------------------------------------------ stopping


@pytest.mark.parametrize(
    ("signum", "status"),
    [
        (signal.SIGINT, 130),
        (signal.SIGTERM, 143),
        (signal.SIGHUP, 128 + signal.SIGHUP),
        (signal.SIGUSR1, 128 + signal.SIGUSR1),
    ],
    ids=["INT", "TERM", "HUP", "USR1"],
)
def test_an_interrupted_run_writes_a_checkpoint_and_says_how_to_go_on(
    run: Callable[..., Any],
    signalled: Callable[..., Any],
    one_line: Callable[[str], str],
    signum: signal.Signals,
    status: int,
) -> None:
    with signalled(3, signum):
        outcome = run()
    assert outcome.status == status
    line = one_line(outcome.err)
    assert line == f"interrupted by {signum.name}; resume with: tcl-train resume=run"
    run_dir = RunDir("run")
    assert state(run_dir)["step"] == 3
    assert not run_dir.finished
    assert "Traceback" not in run_dir.log.read_text()


def test_a_run_in_a_directory_of_any_name_can_go_on(
    interrupted: Callable[..., RunDir], command: Callable[..., Any]
) -> None:
    """A shell takes the quotes away; and a sweep's directories have = in their names."""
    interrupted(1, "hydra.run.dir='0_seed=1'")
    assert command("resume=0_seed=1").status == 0
    assert RunDir("0_seed=1").finished


@pytest.mark.parametrize("name", ["my runs/it's = 1, 2", "2024", "a\\", "$HOME"])
def test_the_line_that_says_how_to_go_on_can_be_pasted(
    name: str,
    command: Callable[..., Any],
    tiny_words: Callable[..., list[str]],
    signalled: Callable[..., Any],
    on_few_digits: None,
) -> None:
    with signalled(1):
        outcome = command(*tiny_words(*WORDS, f"hydra.run.dir={quoted(name)}"))
    program, *words = shlex.split(outcome.err.split("resume with: ")[1])
    assert program == "tcl-train"
    assert command(*words).status == 0
    assert RunDir(name).finished


def test_a_run_does_not_go_on_in_another_directory(
    interrupted: Callable[..., RunDir], refused: Callable[..., str]
) -> None:
    interrupted(1)
    assert "hydra.run.dir=other" in refused("resume=run", "hydra.run.dir=other")


def test_a_second_signal_stops_at_once_and_leaves_the_checkpoint_before(
    run: Callable[..., Any], signalled: Callable[..., Any]
) -> None:
    with signalled(7, signal.SIGINT, times=2):
        assert run().status == 130
    assert state(RunDir("run"))["step"] == 5


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM], ids=["INT", "TERM"])
def test_a_signal_in_the_evaluation_stops_it_and_going_on_evaluates(
    signum: signal.Signals,
    run: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
    command: Callable[..., Any],
    uninterrupted: RunDir,
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(Evaluator, "measure", lambda *_, **__: signal.raise_signal(signum))
        outcome = run()
    assert outcome.status == 128 + signum
    assert "resume=run" in outcome.err
    outcome = command("resume=run")
    assert outcome.status == 0
    assert "epoch 1/2" not in outcome.out  # nothing is trained again
    assert_same_run(RunDir("run"), uninterrupted)


# ------------------------------------------------------------------ going on


@pytest.mark.parametrize("step", [1, 5, 9, STEPS])
def test_a_run_that_goes_on_ends_bit_for_bit_as_one_that_was_not_interrupted(
    step: int,
    interrupted: Callable[..., RunDir],
    command: Callable[..., Any],
    uninterrupted: RunDir,
) -> None:
    """In the middle and at the end of an epoch, and after the very last step."""
    run_dir = interrupted(step)
    assert state(run_dir)["step"] == step
    outcome = command("resume=run")
    assert (outcome.status, outcome.err) == (0, "")
    assert f"top-1 {run_dir.read_result()['top1']:.2f} %" in outcome.last_line
    assert_same_run(run_dir, uninterrupted)


def test_a_run_that_is_interrupted_again_and_again_ends_the_same(
    interrupted: Callable[..., RunDir],
    signalled: Callable[..., Any],
    command: Callable[..., Any],
    uninterrupted: RunDir,
) -> None:
    run_dir = interrupted(2)
    for step in (3, 8):
        with signalled(step):
            assert command("resume=run").status == 130
        assert state(run_dir)["step"] == step
    assert command("resume=run").status == 0
    assert_same_run(run_dir, uninterrupted)


@pytest.mark.parametrize(
    "words",
    [
        ("loss=ntxent", "optimizer=adamw", "views=3"),
        ("method=dino", "multicrop=small", "method.prototypes=32"),
    ],
    ids=["other parts", "crops of two sizes"],
)
def test_another_way_to_train_goes_on_as_exactly(
    words: tuple[str, ...],
    interrupted: Callable[..., RunDir],
    command: Callable[..., Any],
    train_tiny: Callable[..., dict[str, Any]],
    tmp_path: Path,
) -> None:
    whole = RunDir(tmp_path / "whole")
    train_tiny(whole, *WORDS, *words)
    run_dir = interrupted(7, *words)
    assert command("resume=run").status == 0
    assert_same_run(run_dir, whole)


def test_every_recipe_goes_on_as_exactly(
    recipe_words: list[str],
    interrupted: Callable[..., RunDir],
    command: Callable[..., Any],
    train_tiny: Callable[..., dict[str, Any]],
    tmp_path: Path,
) -> None:
    """With its teacher, its queue, its centre and its prototypes."""
    whole = RunDir(tmp_path / "whole")
    train_tiny(whole, *WORDS, *recipe_words)
    run_dir = interrupted(7, *recipe_words)
    assert command("resume=run").status == 0
    assert_same_run(run_dir, whole)


def test_no_step_is_in_the_metrics_twice(
    interrupted: Callable[..., RunDir], command: Callable[..., Any]
) -> None:
    """A run that was killed had written more than its last checkpoint knows of."""
    run_dir = interrupted(7)
    early = state(run_dir)
    shutil.rmtree(run_dir.path)
    run_dir = interrupted(9)
    torch.save(early, run_dir.checkpoints / "last.pt")
    with run_dir.metrics.open("a") as file:
        file.write('{"step": 10, "lo')
    assert command("resume=run").status == 0
    lines = [json.loads(line) for line in run_dir.metrics.read_text().splitlines()]
    assert [line["step"] for line in lines if "loss" in line] == list(range(1, STEPS + 1))
    assert len([line for line in lines if "eval/top1" in line]) == 1


def test_an_evaluation_that_was_killed_before_its_result_is_in_the_metrics_once(
    run: Callable[..., Any], command: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(train_module, "assemble_result", lambda *_, **__: 1 / 0)
        assert run().status == 1
    run_dir = RunDir("run")
    assert "eval/top1" in run_dir.metrics.read_text()
    assert command("resume=run").status == 0
    lines = [json.loads(line) for line in run_dir.metrics.read_text().splitlines()]
    assert [line["step"] for line in lines] == [*range(1, STEPS + 1), STEPS]
    assert lines[-1]["eval/top1"] == run_dir.read_result()["top1"]


def test_a_run_that_was_killed_before_its_first_checkpoint_starts_over(
    interrupted: Callable[..., RunDir], command: Callable[..., Any], uninterrupted: RunDir
) -> None:
    run_dir = interrupted(3)
    shutil.rmtree(run_dir.checkpoints)
    assert command("resume=run").status == 0
    assert_same_run(run_dir, uninterrupted)


def test_the_precision_of_a_run_is_kept_on_another_machine(
    interrupted: Callable[..., RunDir],
    command: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What `auto` chose where the run was started holds to its end."""
    with monkeypatch.context() as patch:
        patch.setattr(runtime, "cpu_computes_in_bf16", lambda: True)
        run_dir = interrupted(2, "precision=auto", "epochs=1")
    monkeypatch.setattr(runtime, "cpu_computes_in_bf16", lambda: False)
    assert command("resume=run").status == 0
    assert run_dir.read_result()["precision"] == "bf16"


def test_what_was_done_before_the_interruption_counts_and_the_log_goes_on(
    interrupted: Callable[..., RunDir], command: Callable[..., Any]
) -> None:
    run_dir = interrupted(7)
    before = state(run_dir)["meter"]
    assert "resuming at step 7 of 10" in command("resume=run").out
    result = run_dir.read_result()
    assert result["pretrain_seconds"] > before["seconds"]
    assert result["wall_seconds"] > result["pretrain_seconds"]
    assert result["image_views_seen"] == STEPS * 32 * 2
    log = run_dir.log.read_text()
    assert log.index("epoch 1/2") < log.index("resuming at step 7 of 10") < log.index("epoch 2/2")


# ------------------------------------------------------------------ with words


def test_what_changes_no_number_may_be_changed(
    interrupted: Callable[..., RunDir], command: Callable[..., Any], uninterrupted: RunDir
) -> None:
    run_dir = interrupted(7)
    assert command("resume=run", "log_every=5", "checkpoint.keep=2", "epochs=2").status == 0
    assert_equal(state(run_dir)["method"], state(uninterrupted)["method"])
    steps = [line["step"] for line in training_lines(run_dir)]
    assert steps == [1, 2, 3, 4, 5, 6, 7, 10]
    assert (run_dir.checkpoints / "epoch-00002.pt").exists()


def test_what_changes_numbers_is_refused(
    interrupted: Callable[..., RunDir], refused: Callable[..., str]
) -> None:
    interrupted(1)
    line = refused("resume=run", "epochs=3")
    assert "epochs=3" in line
    assert "was started with epochs=2" in line


# ------------------------------------------------------------------ for more epochs


@pytest.mark.parametrize("finished_first", [True, False])
def test_a_run_is_trained_for_more_epochs(
    interrupted: Callable[..., RunDir], command: Callable[..., Any], finished_first: bool
) -> None:
    run_dir = interrupted(7)
    if finished_first:
        assert command("resume=run").status == 0
    assert command("resume=run", "resume_extend=true", "epochs=3").status == 0
    result = run_dir.read_result()
    assert (result["epochs"], result["steps"]) == (3, 15)
    assert run_dir.read_config().epochs == 3
    assert OmegaConf.load(run_dir.path / "config-2-epochs.yaml").epochs == 2
    kept = run_dir.path / "result-2-epochs.json"
    assert kept.exists() == finished_first
    if finished_first:
        assert json.loads(kept.read_text())["epochs"] == 2
    assert [line["step"] for line in training_lines(run_dir)] == list(range(1, 16))


def test_a_finished_run_says_how_it_may_be_extended(
    interrupted: Callable[..., RunDir], command: Callable[..., Any], refused: Callable[..., str]
) -> None:
    interrupted(7)
    assert command("resume=run").status == 0
    assert "resume_extend=true epochs=N" in refused("resume=run")
    assert "above the run's 2, got 2" in refused("resume=run", "resume_extend=true")
    assert "resume=DIR epochs=N" in refused("resume_extend=true")


def test_a_run_of_which_the_result_cannot_be_kept_is_not_extended(
    interrupted: Callable[..., RunDir], refused: Callable[..., str]
) -> None:
    interrupted(7).result.mkdir()
    line = refused("resume=run", "resume_extend=true", "epochs=3")
    assert line == "run/result-2-epochs.json: Is a directory"


# ------------------------------------------------------------------ what cannot go on


@pytest.mark.parametrize("share", [0, 0.5])
def test_a_broken_checkpoint_is_refused_by_name_and_nothing_changes(
    share: float, interrupted: Callable[..., RunDir], refused: Callable[..., str]
) -> None:
    path = interrupted(1).checkpoints / "last.pt"
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    line = refused("resume=run")
    assert str(path) in line
    assert "not a whole checkpoint" in line


def test_a_checkpoint_of_another_encoder_is_refused_by_name(
    interrupted: Callable[..., RunDir], refused: Callable[..., str]
) -> None:
    run_dir = interrupted(1)
    config = run_dir.read_config()
    config.encoder.width = 8
    OmegaConf.save(config, run_dir.config)
    line = refused("resume=run")
    assert str(run_dir.checkpoints / "last.pt") in line
    assert "does not fit this run's config" in line


def test_a_checkpoint_without_a_part_is_refused_by_name(
    interrupted: Callable[..., RunDir], refused: Callable[..., str]
) -> None:
    run_dir = interrupted(1)
    path = run_dir.checkpoints / "last.pt"
    for part in ("optimizer", "runtime", "meter"):
        lacking = state(run_dir)
        whole = path.read_bytes()
        del lacking[part]
        torch.save(lacking, path)
        assert str(path) in refused("resume=run"), part
        path.write_bytes(whole)


# ------------------------------------------------------------------ as a process


@pytest.mark.slow
@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM], ids=["INT", "TERM"])
def test_a_process_that_is_interrupted_goes_on_to_the_same_end(
    signum: signal.Signals,
    start: Callable[..., subprocess.Popen[str]],
    one_line: Callable[[str], str],
    tiny_words: Callable[..., list[str]],
    train_tiny: Callable[..., dict[str, Any]],
    command: Callable[..., Any],
    tmp_path: Path,
) -> None:
    run_dir, whole = RunDir(tmp_path / "run"), RunDir(tmp_path / "whole")
    words = ("epochs=8", "batch_size=256")
    process = start("tcl-train", *tiny_words(*words, f"hydra.run.dir={run_dir}"))
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("epoch 1/8"):  # it is training
            process.send_signal(signum)
            break
    _, err = process.communicate(timeout=120)
    assert process.returncode == 128 + signum
    assert one_line(err) == (
        f"interrupted by {signum.name}; resume with: tcl-train resume={run_dir}"
    )
    assert 5 <= state(run_dir)["step"] < 40
    assert command(f"resume={run_dir}").status == 0
    train_tiny(whole, *words)
    assert_same_run(run_dir, whole)


def pictures(run_dir: RunDir) -> list[Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TensorBoard's own, about its dependencies
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        events = EventAccumulator(str(run_dir.tensorboard))
        events.Reload()
    return events.Images("views")


def test_the_picture_of_the_views_is_there_once_however_often_a_run_goes_on(
    interrupted: Callable[..., RunDir], run: Callable[..., Any], command: Callable[..., Any]
) -> None:
    run_dir = interrupted(3)
    (before,) = pictures(run_dir)
    assert command("resume=run").status == 0
    (after,) = pictures(run_dir)
    assert (after.step, after.encoded_image_string) == (0, before.encoded_image_string)
    # Eight images of 8 pixels below one another, two views beside one another, each with a border.
    assert (after.height, after.width) == (8 * 10, 2 * 10)
