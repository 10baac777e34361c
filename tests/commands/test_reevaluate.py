"""tcl-eval: the encoder of a run is probed again, on its own data and on other data."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from tcl_train.cli.main import main_eval
from tcl_train.evaluation import evaluate as evaluation
from tcl_train.run.directory import RunDir


@pytest.fixture
def run_dir(finished: Any, tmp_path: Path) -> RunDir:
    """A finished run, to write into."""
    return RunDir(shutil.copytree(finished.run_dir.path, tmp_path / "run"))


@pytest.fixture
def tcl_eval(command: Callable[..., Any]) -> Callable[..., Any]:
    return partial(command, main=main_eval)


@pytest.fixture
def eval_refused(refused: Callable[..., str]) -> Callable[..., str]:
    return partial(refused, main=main_eval)


def evaluations(run_dir: RunDir) -> dict[str, dict[str, Any]]:
    folder = run_dir.path / "evaluations"
    return {path.name: json.loads(path.read_text()) for path in folder.glob("*.json")}


# ------------------------------------------------------------------ its own data


def test_the_same_encoder_gets_the_same_accuracies_again(
    run_dir: RunDir, tcl_eval: Callable[..., Any]
) -> None:
    outcome = tcl_eval(f"run={run_dir}")
    assert (outcome.status, outcome.err) == (0, "")
    first, again = run_dir.read_result(), evaluations(run_dir)["digits-lbfgs.json"]
    one_image = 100 / 360  # another order of sums may move one that is on the border
    for key in ("top1", "top5", "knn_top1", "random_encoder_top1"):
        assert again[key] == pytest.approx(first[key], abs=1.01 * one_image), key
    for key in ("num_train", "num_test", "num_classes"):
        assert again[key] == first[key], key
    assert set(again["probe"]) == set(first["probe"])
    assert (again["dataset"], again["step"]) == ("digits", 10)
    path = run_dir.path / "evaluations" / "digits-lbfgs.json"
    assert f"top-1 {again['top1']:.2f} %" in outcome.last_line
    assert "linear probe of frozen features" in outcome.last_line
    assert str(path) in outcome.last_line


def test_both_encoders_lie_in_memory_as_in_training(
    run_dir: RunDir, tcl_eval: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Channels-last, which is faster."""
    seen: list[bool] = []
    extract = evaluation.extract

    def look(encoder: Any, *args: Any) -> Any:
        weight = encoder.layer1[0].conv1.weight
        seen.append(weight.is_contiguous(memory_format=torch.channels_last))
        return extract(encoder, *args)

    monkeypatch.setattr(evaluation, "extract", look)
    assert tcl_eval(f"run={run_dir}").status == 0
    assert seen == [True] * 4


def test_nothing_that_was_there_is_changed(
    run_dir: RunDir, tcl_eval: Callable[..., Any], contents: Callable[..., Any]
) -> None:
    before = contents(run_dir.path)
    assert tcl_eval(f"run={run_dir}").status == 0
    first = contents(run_dir.path)
    assert tcl_eval(f"run={run_dir}", "probe.max_iter=3").status == 0
    second = contents(run_dir.path)
    assert {name: first[name] for name in before} == before
    assert {name: second[name] for name in first} == first
    assert set(second) - set(before) == {
        "evaluations",
        "evaluations/digits-lbfgs.json",
        "evaluations/digits-lbfgs.npz",
        "evaluations/digits-lbfgs-2.json",
        "evaluations/digits-lbfgs-2.npz",
    }
    optimiser = evaluations(run_dir)["digits-lbfgs-2.json"]["probe"]["optimiser"]
    assert "at most 3 iterations" in optimiser


def test_another_probe_can_be_taken(run_dir: RunDir, tcl_eval: Callable[..., Any]) -> None:
    """Although the run said something of its own probe, which the other one lacks."""
    outcome = tcl_eval(f"run={run_dir}", "probe=sgd", "probe.epochs=2")
    assert (outcome.status, outcome.err) == (0, "")
    result = evaluations(run_dir)["digits-sgd.json"]
    assert "SGD, 2 epochs" in result["probe"]["optimiser"]
    assert 10 < result["top1"] <= 100


def test_an_interrupted_run_can_be_evaluated(run_dir: RunDir, tcl_eval: Callable[..., Any]) -> None:
    run_dir.result.unlink()
    assert tcl_eval(f"run={run_dir}").status == 0
    assert not run_dir.finished
    assert "digits-lbfgs.json" in evaluations(run_dir)


# ------------------------------------------------------------------ other data


def test_the_encoder_is_evaluated_on_an_image_folder(
    run_dir: RunDir, two_classes: Path, tcl_eval: Callable[..., Any]
) -> None:
    words = ["dataset=image_folder", f"dataset.root={two_classes}"]
    outcome = tcl_eval(f"run={run_dir}", *words)
    assert (outcome.status, outcome.err) == (0, "")
    result = evaluations(run_dir)["image_folder-lbfgs.json"]
    assert (result["dataset"], result["num_classes"]) == ("image_folder", 2)
    assert (result["num_train"], result["num_test"]) == (24, 12)
    assert result["top1"] == 100  # colours are easy
    assert "image_folder" in outcome.last_line


def test_the_encoder_is_evaluated_on_images_of_another_size(
    run_dir: RunDir,
    tmp_path: Path,
    write_images: Callable[..., Path],
    tcl_eval: Callable[..., Any],
) -> None:
    counts = {"train/a": 8, "train/b": 8, "val/a": 4, "val/b": 4}
    root = write_images(tmp_path / "large", counts, size=80)
    outcome = tcl_eval(f"run={run_dir}", "dataset=image_folder", f"dataset.root={root}")
    assert (outcome.status, outcome.err) == (0, "")
    assert evaluations(run_dir)["image_folder-lbfgs.json"]["top1"] == 100


# ------------------------------------------------------------------ what is refused


def test_without_words_it_says_what_it_does(tcl_eval: Callable[..., Any]) -> None:
    for words in ([], ["--help"]):
        outcome = tcl_eval(*words)
        assert (outcome.status, outcome.err) == (0, "")
        assert "tcl-eval run=DIR" in outcome.out


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["dataset=digits"], ["run is not set", "tcl-eval run=DIR"]),
        (["run=nowhere"], ["nowhere", "contains no run", "config.yaml"]),
        (["run=RUN", "run=RUN"], ["run"]),
        (["run=RUN", "epochs=3"], ["epochs=3", "dataset, probe"]),
        (["run=RUN", "bogus=3"], ["bogus=3"]),
        (["run=RUN", "--bogus"], ["--bogus"]),
        (["run=RUN", "dataset=bogus"], ["dataset=bogus", "cifar10"]),
        (["run=RUN", "probe.bogus=1"], ["probe.bogus"]),
        (["run=RUN", "probe.max_iter=0"], ["probe", "max_iter", ">= 1"]),
        (["run=RUN", "dataset=image_folder", "probe=lbfgs"], ["dataset.root"]),
        (["run=RUN", "device=cpu", "precision=fp16"], ["precision=fp16", "CPU"]),
    ],
    ids=lambda value: " ".join(value) if "=" in value[0] else "",
)
def test_a_bad_request_is_refused_in_one_line_and_nothing_is_written(
    run_dir: RunDir, eval_refused: Callable[..., str], words: list[str], named: list[str]
) -> None:
    line = eval_refused(*(word.replace("RUN", str(run_dir)) for word in words))
    missing = [part for part in named if part not in line]
    assert not missing, line


def test_a_folder_without_labels_is_refused(
    run_dir: RunDir,
    tmp_path: Path,
    write_images: Callable[..., Path],
    eval_refused: Callable[..., str],
) -> None:
    root = write_images(tmp_path, {"images": 3}) / "images"
    line = eval_refused(f"run={run_dir}", "dataset=image_folder", f"dataset.root={root}")
    assert str(root) in line


def test_a_run_without_a_checkpoint_is_refused(
    run_dir: RunDir, eval_refused: Callable[..., str]
) -> None:
    shutil.rmtree(run_dir.checkpoints)
    assert "last.pt: there is no checkpoint" in eval_refused(f"run={run_dir}")


def test_a_broken_checkpoint_is_refused(run_dir: RunDir, eval_refused: Callable[..., str]) -> None:
    path = run_dir.checkpoints / "last.pt"
    path.write_bytes(path.read_bytes()[:1000])
    assert f"{path}: not a whole checkpoint" in eval_refused(f"run={run_dir}")


def test_a_directory_of_another_program_is_refused(
    tmp_path: Path, eval_refused: Callable[..., str]
) -> None:
    (tmp_path / "config.yaml").write_text("learning_rate: 3\n")
    assert "config.yaml" in eval_refused(f"run={tmp_path}")


def test_a_run_directory_may_have_any_name(
    run_dir: RunDir, tmp_path: Path, tcl_eval: Callable[..., Any]
) -> None:
    moved = run_dir.path.rename(tmp_path / "0_seed=1, k1=5")
    assert tcl_eval(f"run={moved}", "probe.max_iter=2").status == 0
    assert (moved / "evaluations" / "digits-lbfgs.json").is_file()
