"""The run directory: its files, what is in them, and who may write them."""

from __future__ import annotations

import errno
import json
import math
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from omegaconf import DictConfig, OmegaConf

from tcl_train import __version__
from tcl_train.errors import RequestError
from tcl_train.run.directory import RunDir

# The contract's keys of result.json, with the types of a run that measured everything.
RESULT = {
    "top1": float,
    "top5": float,
    "knn_top1": float,
    "random_encoder_top1": float,
    "calibration_error": float,
    "per_class_top1": dict,
    "geometry": dict,
    "dataset": str,
    "num_train": int,
    "num_test": int,
    "num_classes": int,
    "loss": dict,
    "supervised": bool,
    "views": int,
    "encoder": str,
    "projector": str,
    "method": dict,
    "optimizer": dict,
    "scheduler": dict,
    "augment": dict,
    "second_view": (dict, type(None)),
    "processes": int,
    "epochs": int,
    "batch_size": int,
    "seed": int,
    "probe": dict,
    "images_per_second": float,
    "wall_seconds": float,
    "device": str,
    "precision": str,
    "torch_version": str,
    "tcl_train_version": str,
    "git_commit": (str, type(None)),
    "overrides": list,
}


# ------------------------------------------------------------------ what a finished run leaves


PROJECTOR_FILES = ("features.tsv", "labels.tsv", "sprite.png")


def test_a_finished_run_leaves_exactly_the_files_of_the_contract(finished: Any) -> None:
    found = {
        str(path.relative_to(finished.run_dir.path))
        for path in finished.run_dir.path.rglob("*")
        if path.is_file()
    }
    events = {name for name in found if name.startswith("tensorboard/events.out.tfevents.")}
    assert len(events) == 2  # one with the row of the HParams tab
    assert found - events == {
        "config.yaml",
        "train.log",
        "metrics.jsonl",
        "checkpoints/last.pt",
        "result.json",
        "predictions.npz",
        "tensorboard/projector_config.pbtxt",
        *(f"tensorboard/projector/{name}" for name in PROJECTOR_FILES),
    }


def test_the_result_has_every_key_of_the_contract(finished: Any) -> None:
    result = finished.run_dir.read_result()
    for key, kind in RESULT.items():
        assert isinstance(result[key], kind), key


def test_the_result_says_what_was_run(finished: Any) -> None:
    result = finished.run_dir.read_result()
    assert result["loss"] == {"name": "tcl", "tau": 0.1, "k1": 5000, "k2": 1, "k1_warmup": 0}
    assert (result["dataset"], result["num_classes"]) == ("digits", 10)
    assert (result["num_train"], result["num_test"]) == (1437, 360)
    assert result["image_size"] == 8
    assert result["mean"] == [pytest.approx(0.305, abs=1e-3)]
    assert result["std"] == [pytest.approx(0.376, abs=1e-3)]
    assert (result["encoder"], result["projector"]) == ("resnet8", "mlp")
    crop = {"scale": [0.5, 1.0], "ratio": [0.75, 1.3333333]}
    assert result["augment"] == {"name": "crop", "crop": crop}
    assert result["method"] == {"name": "contrastive"}
    assert result["scheduler"] == {"name": "cosine", "warmup_epochs": 0, "floor": 1e-3}
    assert (result["optimizer"]["name"], result["optimizer"]["momentum"]) == ("sgd", 0.9)
    assert result["processes"] == 1
    assert (result["epochs"], result["batch_size"], result["views"]) == (2, 256, 2)
    assert (result["seed"], result["supervised"], result["precision"]) == (1, True, "fp32")
    assert (result["steps"], result["image_views_seen"]) == (10, 2 * 10 * 256)
    assert result["tcl_train_version"] == __version__
    assert "encoder.width=4" in result["overrides"]
    assert not [word for word in result["overrides"] if word.startswith("hydra.")]


def test_the_accuracies_are_percentages_in_order(finished: Any) -> None:
    result = finished.run_dir.read_result()
    assert 10 < result["top1"] <= result["top5"] <= 100  # better than guessing one of ten digits
    assert 10 < result["knn_top1"] <= 100
    assert 10 < result["random_encoder_top1"] <= 100
    # On 360 test images an accuracy is a whole number of them.
    assert result["top1"] * 3.6 == pytest.approx(round(result["top1"] * 3.6))


def test_the_result_says_how_it_was_probed(finished: Any) -> None:
    probe = finished.run_dir.read_result()["probe"]
    assert {"features", "normalisation", "optimiser", "l2", "l2_chosen_by"} <= set(probe)
    assert probe["l2"] == 1e-3


def test_the_json_files_are_strict(finished: Any) -> None:
    """NaN is no JSON, and other readers refuse it."""

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    json.loads(finished.run_dir.result.read_text(), parse_constant=refuse)
    for line in finished.run_dir.metrics.read_text().splitlines():
        json.loads(line, parse_constant=refuse)


def test_every_step_is_a_line_of_metrics(finished: Any) -> None:
    lines = [json.loads(line) for line in finished.run_dir.metrics.read_text().splitlines()]
    steps = [line for line in lines if "loss" in line]
    assert [line["step"] for line in steps] == list(range(1, 11))
    assert [line["epoch"] for line in steps] == [0] * 5 + [1] * 5
    scalars = {"loss", "chance_level", "lr", "images_per_second", "data_wait_percent"}
    scalars |= {"positive_similarity", "negative_similarity", "embedding_spread"}
    for line in steps:
        assert scalars <= set(line)
        assert all(math.isfinite(line[name]) for name in scalars)
        assert 0 <= line["data_wait_percent"] <= 100
        assert 0 <= line["embedding_spread"] <= 1
        assert line["images_per_second"] > 0
    assert [line["lr"] for line in steps] == sorted((line["lr"] for line in steps), reverse=True)


def test_the_last_line_of_metrics_is_the_evaluation(finished: Any) -> None:
    last = json.loads(finished.run_dir.metrics.read_text().splitlines()[-1])
    result = finished.run_dir.read_result()
    for name in ("top1", "top5", "knn_top1", "random_encoder_top1"):
        assert last[f"eval/{name}"] == result[name]
    assert (last["step"], last["epoch"]) == (10, 1)


def test_the_stored_config_is_the_resolved_one(
    finished: Any, compose_tiny: Callable[..., DictConfig]
) -> None:
    stored = finished.run_dir.read_config()
    assert "${" not in finished.run_dir.config.read_text()
    composed = compose_tiny("epochs=2", "random_encoder_baseline=true")
    assert stored == composed


# ------------------------------------------------------------------ who may write


@pytest.fixture
def run_dir(tmp_path: Path) -> RunDir:
    return RunDir(tmp_path / "run")


@pytest.fixture(scope="module")
def config(compose_tiny: Callable[..., DictConfig]) -> DictConfig:
    return compose_tiny()


def test_a_new_directory_is_free_and_holds_nothing_to_go_on_with(run_dir: RunDir) -> None:
    run_dir.check_free()
    with pytest.raises(
        RequestError, match=rf"resume={run_dir}: contains no run \(no config.yaml\)"
    ):
        run_dir.check_resumable()
    assert not run_dir.path.exists()


def test_an_empty_directory_is_free(run_dir: RunDir, config: DictConfig) -> None:
    """A sweep makes the directory before the job takes it."""
    run_dir.path.mkdir()
    run_dir.check_free()
    run_dir.claim(config)
    assert run_dir.read_config() == config


def test_a_claimed_directory_is_to_go_on_with_and_not_free(
    run_dir: RunDir, config: DictConfig
) -> None:
    run_dir.claim(config)
    assert run_dir.started
    assert not run_dir.finished
    run_dir.check_resumable()
    with pytest.raises(RequestError, match="already contains an unfinished run") as caught:
        run_dir.check_free()
    assert caught.value.resumable == run_dir.path


def test_a_result_makes_a_run_finished(run_dir: RunDir, config: DictConfig) -> None:
    run_dir.claim(config)
    run_dir.result.write_text("{}")
    assert run_dir.finished
    with pytest.raises(RequestError, match="already contains a finished run"):
        run_dir.check_free()
    with pytest.raises(RequestError, match=r"this run is finished; its result is .*result\.json"):
        run_dir.check_resumable()


def test_a_claim_makes_the_folders_above_too(tmp_path: Path, config: DictConfig) -> None:
    run_dir = RunDir(tmp_path / "a" / "b" / "c")
    run_dir.claim(config)
    assert run_dir.config.is_file()


def test_of_two_claims_the_second_is_refused_and_changes_nothing(
    run_dir: RunDir, config: DictConfig
) -> None:
    run_dir.claim(config)
    with pytest.raises(RequestError, match="already contains an unfinished run"):
        run_dir.claim(OmegaConf.create({"seed": 2}))
    assert run_dir.read_config() == config


def test_of_many_claims_at_once_one_succeeds(run_dir: RunDir, config: DictConfig) -> None:
    refusals: list[RequestError] = []
    together = threading.Barrier(8)

    def claim() -> None:
        together.wait()
        try:
            run_dir.claim(config)
        except RequestError as error:
            refusals.append(error)

    threads = [threading.Thread(target=claim) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(refusals) == 7


def test_a_directory_below_the_users_home(
    tmp_path: Path, config: DictConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A shell leaves the ~ of hydra.run.dir=~/runs as it is."""
    monkeypatch.setenv("HOME", str(tmp_path))
    RunDir("~/runs/a").claim(config)
    assert (tmp_path / "runs" / "a" / "config.yaml").is_file()


@pytest.mark.parametrize("place", ["file", "file/below"])
def test_a_directory_cannot_be_where_a_file_is(
    tmp_path: Path, place: str, config: DictConfig
) -> None:
    (tmp_path / "file").write_text("kept")
    with pytest.raises(RequestError, match=r"hydra\.run\.dir=.*file.*(another one|a directory)"):
        RunDir(tmp_path / place).claim(config)
    assert (tmp_path / "file").read_text() == "kept"


def test_a_config_that_is_not_there_is_named(run_dir: RunDir) -> None:
    with pytest.raises(RequestError, match=rf"{run_dir}: contains no run \(no config.yaml\)"):
        run_dir.read_config()


@pytest.mark.parametrize("text", ["a: [1", "- 1\n- 2\n", "just words", "", "of: another program"])
def test_a_config_that_is_not_a_runs_is_named(run_dir: RunDir, text: str) -> None:
    run_dir.path.mkdir()
    run_dir.config.write_text(text)
    with pytest.raises(RequestError, match=r"config\.yaml"):
        run_dir.read_config()


def test_a_disk_that_is_full_leaves_no_half_config(
    run_dir: RunDir, config: DictConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or else no run could be started there, and none resumed."""

    def write_half(self: Path, text: str, **keys: Any) -> int:
        with self.open("w", **keys) as file:
            file.write(text[: len(text) // 2])
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_text", write_half)
        with pytest.raises(RequestError, match="No space left on device"):
            run_dir.claim(config)
    assert not list(run_dir.path.iterdir())
    run_dir.claim(config)
    assert run_dir.read_config() == config


def test_a_run_is_trained_by_one_process_at_a_time(run_dir: RunDir, config: DictConfig) -> None:
    run_dir.claim(config)
    with (
        run_dir.held(),
        pytest.raises(RequestError, match="another process is training this run"),
        RunDir(run_dir.path).held(),
    ):
        pass
    with run_dir.held():
        pass


@pytest.mark.parametrize("value", ["${nothing}", "${oc.env:NOT_SET}", "${a:b}"])
def test_a_config_that_refers_to_nothing_is_refused_when_it_is_read(
    finished: Any, run_dir: RunDir, value: str
) -> None:
    whole = finished.run_dir.config.read_text()
    run_dir.path.mkdir()
    run_dir.config.write_text(whole.replace("epochs: 2", f"epochs: {value}"))
    with pytest.raises(RequestError, match=r"config\.yaml: not readable as a config"):
        run_dir.read_config()
