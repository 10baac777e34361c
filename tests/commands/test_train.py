"""Whole runs in this process: what they give, what they never touch, and how they fail."""

from __future__ import annotations

import dataclasses
import errno
import json
import math
import os
import signal
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import DictConfig, OmegaConf

from tcl_train.building.run import build_run
from tcl_train.commands import train as train_module
from tcl_train.commands.result import summary_line
from tcl_train.commands.train import train
from tcl_train.data.dataset import DataSet, Split
from tcl_train.errors import RequestError, TrainingError
from tcl_train.evaluation.evaluate import Evaluator
from tcl_train.run import checkpoint
from tcl_train.run.board import Board
from tcl_train.run.checkpoint import Checkpoints
from tcl_train.run.directory import RunDir
from tcl_train.runtime.signals import Signals

MEASURES = ("top1", "top5", "knn_top1", "random_encoder_top1", "probe", "steps", "loss")


@pytest.fixture
def run_dir(tmp_path: Path) -> RunDir:
    return RunDir(tmp_path / "run")


def losses(run_dir: RunDir) -> list[float]:
    lines = map(json.loads, run_dir.metrics.read_text().splitlines())
    return [line["loss"] for line in lines if "loss" in line]


def weights(run_dir: RunDir) -> dict[str, torch.Tensor]:
    return checkpoint.load(run_dir.checkpoints / "last.pt")["method"]


# ------------------------------------------------------------------ the same again


@pytest.mark.usefixtures("on_few_digits")
def test_the_same_seed_gives_the_same_run_and_another_seed_another(
    tmp_path: Path, train_tiny: Callable[..., dict[str, Any]]
) -> None:
    words = ("batch_size=32",)
    runs = {name: RunDir(tmp_path / name) for name in ("one", "again", "other")}
    results = {
        name: train_tiny(run_dir, *words, f"seed={2 if name == 'other' else 1}")
        for name, run_dir in runs.items()
    }
    for key in MEASURES:
        assert results["one"][key] == results["again"][key]
    assert losses(runs["one"]) == losses(runs["again"])
    one, again, other = (weights(run_dir) for run_dir in runs.values())
    assert all(torch.equal(one[key], again[key]) for key in one)
    assert losses(runs["one"])[0] != losses(runs["other"])[0]
    assert not torch.equal(one["encoder.conv1.weight"], other["encoder.conv1.weight"])


@pytest.mark.usefixtures("on_few_digits")
def test_what_is_returned_is_what_is_stored(
    run_dir: RunDir, train_tiny: Callable[..., dict[str, Any]]
) -> None:
    assert train_tiny(run_dir, "batch_size=32") == run_dir.read_result()


@pytest.mark.usefixtures("on_few_digits")
def test_the_result_appears_at_the_very_end(
    run_dir: RunDir,
    train_tiny: Callable[..., dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[bool] = []
    for module, name in (
        (Evaluator, "measure"),
        (train_module, "classifier_top1"),
        (train_module, "assemble_result"),
    ):
        function = getattr(module, name)

        def look(*args: Any, _function: Any = function, **keys: Any) -> Any:
            seen.append(run_dir.finished)
            return _function(*args, **keys)

        monkeypatch.setattr(module, name, look)
    train_tiny(run_dir, "batch_size=32")
    assert seen == [False] * 3
    assert run_dir.finished


@pytest.mark.usefixtures("on_few_digits")
def test_the_untrained_encoder_is_probed_only_if_asked_for(
    run_dir: RunDir, train_tiny: Callable[..., dict[str, Any]]
) -> None:
    result = train_tiny(run_dir, "batch_size=32", "random_encoder_baseline=false")
    assert result["random_encoder_top1"] is None
    assert result["top1"] > 0


@pytest.mark.usefixtures("on_few_digits")
def test_a_classifier_reports_its_own_accuracy_beside_the_probe(
    run_dir: RunDir, train_tiny: Callable[..., dict[str, Any]]
) -> None:
    result = train_tiny(run_dir, "batch_size=32", "loss=ce")
    assert 0 <= result["classifier_top1"] <= 100
    assert result["projector"] == "none"
    assert result["image_views_seen"] == 5 * 32


# ------------------------------------------------------------------ the golden curve

GOLDEN = Path(__file__).parents[1] / "golden"
REGENERATE = "TCL_TRAIN_REGENERATE_GOLDEN"
GOLDEN_WORDS = (
    *("epochs=2", "encoder.width=4", "batch_size=256", "lr=0.03"),
    *("precision=fp32", "device=cpu"),
)


@pytest.mark.parametrize("loss", ["tcl", "ntxent", "ce"])
def test_the_first_ten_losses_are_the_golden_ones(
    loss: str, compose_tiny: Callable[..., DictConfig], tmp_path: Path
) -> None:
    """A change that should not alter numbers leaves these alone. One that should regenerates them,
    and says why in its commit:

        TCL_TRAIN_REGENERATE_GOLDEN=1 python -m pytest tests/commands/test_train.py -k golden
    """
    curve = ten_losses(compose_tiny(*GOLDEN_WORDS, f"loss={loss}"), tmp_path)
    path = GOLDEN / f"digits-{loss}.json"
    if os.environ.get(REGENERATE) == "1":
        write_golden(path, loss, curve)
    golden = json.loads(path.read_text())
    assert golden["words"] == [*GOLDEN_WORDS, f"loss={loss}"]
    assert len(golden["losses"]) == 10
    # The initial weights and the views are float32, and their last digits are not the same on all.
    assert curve == pytest.approx(golden["losses"], rel=1e-4)


def ten_losses(config: DictConfig, folder: Path) -> list[float]:
    """Of two epochs of five steps, without the evaluation. Weights and views are float64: other
    processors sum in another order, and what that makes of the last digits grows with each step,
    the faster the higher the learning rate."""
    trainer = build_run(config).trainer
    trainer.method.double().encoder.register_forward_pre_hook(lambda _, given: (given[0].double(),))
    curve: list[float] = []

    class Keep:
        board = Board(None)

        def write(self, step: int, epoch: int, scalars: dict[str, float]) -> None:
            curve.append(scalars["loss"])

    keep: Any = Keep()
    trainer.fit(keep, Checkpoints(folder, every=10, keep=1), Signals())
    return curve


def write_golden(path: Path, loss: str, curve: list[float]) -> None:
    golden = {"words": [*GOLDEN_WORDS, f"loss={loss}"], "losses": curve}
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(golden, indent=2) + "\n")


# ------------------------------------------------------------------ what is never touched


@pytest.mark.parametrize("probe", ["lbfgs", "sgd"])
def test_evaluation_leaves_the_encoder_as_it_is_bit_for_bit(
    probe: str,
    run_dir: RunDir,
    few_digits: DataSet,
    on_few_digits: None,
    compose_tiny: Callable[..., DictConfig],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = compose_tiny("batch_size=32", f"probe={probe}")
    if probe == "sgd":
        config.probe.epochs = 2
    compared: list[str] = []
    measure = Evaluator.measure

    def watched(self: Evaluator, encoder: torch.nn.Module) -> Any:
        before = {key: value.clone() for key, value in encoder.state_dict().items()}
        modes = [part.training for part in encoder.modules()]
        needed = [p.requires_grad for p in encoder.parameters()]
        gradients = [None if p.grad is None else p.grad.clone() for p in encoder.parameters()]
        measures = measure(self, encoder)
        for key, value in encoder.state_dict().items():
            assert torch.equal(value, before[key]), key
            compared.append(key)
        assert [part.training for part in encoder.modules()] == modes
        assert [p.requires_grad for p in encoder.parameters()] == needed
        for parameter, gradient in zip(encoder.parameters(), gradients, strict=True):
            assert (parameter.grad is None) == (gradient is None)
            assert gradient is None or torch.equal(parameter.grad, gradient)
        return measures

    monkeypatch.setattr(Evaluator, "measure", watched)
    images_before = few_digits.train.images.images_NCHW.clone()  # type: ignore[union-attr]
    train(config, run_dir, resume=False)
    assert "bn1.running_mean" in compared
    assert "layer3.0.conv1.weight" in compared
    images_now = few_digits.train.images.images_NCHW  # type: ignore[union-attr]
    assert torch.equal(images_now, images_before)


class Unreadable:
    """Labels that nobody may look at."""

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"labels were read: {name}")

    def __getitem__(self, index: Any) -> Any:
        raise AssertionError(f"labels were read: [{index}]")

    def __len__(self) -> int:
        raise AssertionError("labels were counted")

    def __iter__(self) -> Any:
        raise AssertionError("labels were read in a row")


def with_unreadable_labels(data: DataSet) -> DataSet:
    labels: Any = Unreadable()
    return dataclasses.replace(data, pretrain=Split(data.pretrain.images, labels))


@pytest.mark.parametrize("loss", ["ntxent", "tcl"])
def test_without_supervision_the_labels_of_the_pretraining_images_are_never_read(
    loss: str,
    run_dir: RunDir,
    few_digits: DataSet,
    replace_data: Callable[..., None],
    train_tiny: Callable[..., dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    blind = with_unreadable_labels(few_digits)
    replace_data(monkeypatch, blind)
    result = train_tiny(run_dir, "batch_size=32", f"loss={loss}", "supervised=false")
    assert result["supervised"] is False
    assert result["top1"] > 0  # the evaluation may read its own


def test_with_supervision_they_are_read(
    run_dir: RunDir,
    few_digits: DataSet,
    replace_data: Callable[..., None],
    train_tiny: Callable[..., dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Or else the test above would see nothing."""
    blind = with_unreadable_labels(few_digits)
    replace_data(monkeypatch, blind)
    with pytest.raises((AssertionError, TrainingError), match="labels were read"):
        train_tiny(run_dir, "batch_size=32")


def test_a_run_on_images_without_labels_has_no_accuracy_and_says_so(
    tmp_path: Path,
    write_images: Callable[..., Path],
    tiny_words: Callable[..., list[str]],
    command: Callable[..., Any],
) -> None:
    root = write_images(tmp_path / "images", {"a": 20, "b": 20})
    words = ("dataset=image_folder", f"dataset.root={root}", "loss=ntxent", "batch_size=16")
    outcome = command(*tiny_words(*words, "hydra.run.dir=run"))
    assert (outcome.status, outcome.err) == (0, "")
    result = RunDir("run").read_result()
    measures = ("top1", "top5", "knn_top1", "random_encoder_top1", "probe")
    assert [result[key] for key in measures] == [None] * 5
    assert (result["num_pretrain"], result["num_test"], result["num_classes"]) == (40, 0, 0)
    assert "no top-1" in outcome.last_line
    assert "in run" in outcome.last_line


def test_a_run_on_an_image_folder_is_evaluated_on_its_test_images(
    run_dir: RunDir, two_classes: Path, train_tiny: Callable[..., dict[str, Any]]
) -> None:
    words = ("dataset=image_folder", f"dataset.root={two_classes}", "batch_size=8", "epochs=2")
    result = train_tiny(run_dir, *words)
    assert (result["num_train"], result["num_test"], result["num_classes"]) == (24, 12, 2)
    assert result["top1"] == 100
    assert result["top5"] == 100


# ------------------------------------------------------------------ failing on the way


@pytest.fixture
def failing(
    command: Callable[..., Any],
    tiny_words: Callable[..., list[str]],
    one_line: Callable[[str], str],
    on_few_digits: None,
) -> Callable[..., tuple[str, RunDir]]:
    """A run that fails on the way: its one line, and its directory."""

    def run(*words: str) -> tuple[str, RunDir]:
        outcome = command(*tiny_words("batch_size=32", "hydra.run.dir=run", *words))
        assert outcome.status == 1
        assert "Traceback" not in outcome.out + outcome.err
        run_dir = RunDir("run")
        assert not run_dir.finished
        assert "Traceback (most recent call last)" in run_dir.log.read_text()
        return one_line(outcome.err), run_dir

    return run


def test_a_loss_that_is_not_finite_ends_the_run_with_advice(
    failing: Callable[..., tuple[str, RunDir]],
) -> None:
    line, run_dir = failing("lr=1e30", "epochs=2")
    assert "the loss is nan at step" in line
    assert "lower lr" in line
    assert all(math.isfinite(loss) for loss in losses(run_dir))


def test_the_last_good_checkpoint_of_a_failed_run_is_kept(
    failing: Callable[..., tuple[str, RunDir]], monkeypatch: pytest.MonkeyPatch
) -> None:
    from tcl_train.losses import TCL

    def break_later(self: Any, z_ND: Any, y_N: Any, _calls: list[int] = []) -> Any:  # noqa: B006
        _calls.append(1)
        value = forward(self, z_ND, y_N)
        return value * float("nan") if len(_calls) > 20 else value

    forward = TCL.forward
    monkeypatch.setattr(TCL, "forward", break_later)
    _, run_dir = failing("epochs=9")
    state = checkpoint.load(run_dir.checkpoints / "last.pt")
    assert state["step"] > 0
    assert state["step"] % 5 == 0
    assert all(value.isfinite().all() for value in state["method"].values())


def test_a_full_disk_ends_the_run_and_keeps_the_checkpoint_before(
    failing: Callable[..., tuple[str, RunDir]], monkeypatch: pytest.MonkeyPatch
) -> None:
    save = torch.save

    def save_once(value: Any, path: Path) -> None:
        if value["step"] > 5:
            path.write_bytes(b"half")
            raise OSError(errno.ENOSPC, "No space left on device")
        save(value, path)

    monkeypatch.setattr(torch, "save", save_once)
    line, run_dir = failing("epochs=3")
    assert "No space left on device" in line
    assert str(run_dir.log) in line
    assert "resume=run" in line
    assert checkpoint.load(run_dir.checkpoints / "last.pt")["step"] == 5
    assert {path.name for path in run_dir.checkpoints.iterdir()} == {"last.pt", "previous.pt"}


def test_a_failure_in_the_evaluation_leaves_a_run_to_go_on_with(
    failing: Callable[..., tuple[str, RunDir]],
    monkeypatch: pytest.MonkeyPatch,
    command: Callable[..., Any],
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(Evaluator, "measure", lambda *_, **__: 1 / 0)
        line, run_dir = failing()
    assert "ZeroDivisionError" in line
    assert command("resume=run").status == 0
    assert run_dir.finished


# ------------------------------------------------------------------ refusing before all else


@pytest.mark.parametrize(
    "change",
    [
        {"batch_size": 5000},
        {"loss.tau": 0},
        {"probe.held_out": 2},
        {"scheduler.floor": 2},
        {"optimizer.momentum": 1},
        {"projector.depth": 1},
        {"augment.crop.scale": [2, 3]},
        {"augment.blur": {"_target_": "tcl_train.data.augment.GaussianBlur", "kernel": 99}},
        {"second_view": {"crop": {"_target_": "tcl_train.data.augment.PadCrop", "padding": -1}}},
        {"device": "tpu"},
        {"checkpoint.every": 0},
    ],
    ids=str,
)
@pytest.mark.usefixtures("on_few_digits")
def test_a_wrong_value_in_any_part_is_found_before_the_run_directory_is_made(
    run_dir: RunDir, tiny_config: DictConfig, change: dict[str, Any]
) -> None:
    for key, value in change.items():
        OmegaConf.update(tiny_config, key, value, force_add=True)
    with pytest.raises(RequestError):
        train(tiny_config, run_dir, resume=False)
    assert not run_dir.path.exists()


@pytest.fixture(scope="module")
def composed(compose_tiny: Callable[..., DictConfig]) -> DictConfig:
    return compose_tiny("batch_size=32")


@pytest.fixture
def tiny_config(composed: DictConfig) -> DictConfig:
    return OmegaConf.create(OmegaConf.to_container(composed))


@pytest.mark.usefixtures("on_few_digits")
def test_views_may_be_smaller_than_images_and_grow(
    train_tiny: Callable[..., dict[str, Any]], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Only in pretraining: the encoder is evaluated on whole images."""
    caplog.set_level("INFO", "tcl_train")
    words = "batch_size=32", "epochs=3", "augment=crop", "view_size={0:4,1:8}"
    run_dir = RunDir(tmp_path / "run")
    result = train_tiny(run_dir, *words)
    assert result["view_size"] == {0: 4, 1: 8}
    said = "views of 4 x 4 pixels (epochs: 1), then 8 x 8 pixels (epochs: 2)"
    assert said in run_dir.log.read_text()


@pytest.mark.usefixtures("on_few_digits")
def test_class_rows_and_muon_train_together(
    train_tiny: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    words = "batch_size=32", "epochs=2", "method=class_rows", "optimizer=muon", "views=1"
    assert train_tiny(tmp_path / "run", *words)["top1"] > 50


# ------------------------------------------------------------------ validation images


@pytest.mark.parametrize("probe", ["lbfgs", "sgd"])
def test_validation_images_are_scored_and_trained_on_by_nobody(
    train_tiny: Callable[..., dict[str, Any]], run_dir: RunDir, probe: str
) -> None:
    epochs = () if probe == "lbfgs" else ("probe.epochs=5",)
    result = train_tiny(run_dir, "validation=0.2", "epochs=2", f"probe={probe}", *epochs)
    assert result["num_validation"] == 287
    assert result["num_train"] == result["num_pretrain"] == 1437 - 287
    assert 15 < result["val_top1"] <= 100
    assert f"{result['val_top1']:.2f} % of 287 validation images" in summary_line(result, run_dir)


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("what", ["dropped", "taken for a failure"])
def test_a_signal_before_the_start_is_obeyed_whatever_code_of_others_makes_of_it(
    what: str,
    signum: int,
    command: Callable[..., Any],
    tiny_words: Callable[..., list[str]],
    few_digits: DataSet,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An import, say, in the middle of which it comes."""

    def read(*_: Any, **__: Any) -> DataSet:
        try:
            signal.raise_signal(signum)
        except BaseException as error:
            if what != "dropped":
                raise ImportError("cannot load module more than once per process") from error
        return few_digits

    monkeypatch.setattr("tcl_train.building.run.build_data", read)
    outcome = command(*tiny_words("batch_size=32", "hydra.run.dir=run"))
    assert (outcome.status, outcome.err) == (
        128 + signum,
        "tcl-train: interrupted; nothing was started\n",
    )
    assert not Path("run").exists()


def test_a_signal_during_the_evaluation_is_obeyed_too(
    command: Callable[..., Any],
    tiny_words: Callable[..., list[str]],
    on_few_digits: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def measure(*_: Any) -> Any:
        with suppress(BaseException):
            signal.raise_signal(signal.SIGTERM)
        raise ImportError("cannot load module more than once per process")

    monkeypatch.setattr(Evaluator, "measure", measure)
    outcome = command(*tiny_words("batch_size=32", "hydra.run.dir=run"))
    assert outcome.status == 143
    assert outcome.err.splitlines() == [
        "tcl-train: interrupted by SIGTERM; resume with: tcl-train resume=run"
    ]
