"""The training loop: what it does at each step, what it writes, and when it stops."""

from __future__ import annotations

import math
import re
import signal
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import DictConfig

from tcl_train.building.run import build_run
from tcl_train.data.dataset import DataSet
from tcl_train.engine.fit import Trainer
from tcl_train.errors import Interrupted, TrainingError
from tcl_train.methods.diagnostics import find_collapse
from tcl_train.methods.method import StepOutput
from tcl_train.run import checkpoint
from tcl_train.run.board import Board
from tcl_train.run.checkpoint import Checkpoints
from tcl_train.runtime.signals import Signals

BATCH = 32
STEPS = 5  # of an epoch


class Written:
    """A sink that keeps what it is given."""

    def __init__(self) -> None:
        self.lines: list[tuple[int, int, dict[str, float]]] = []
        self.board = Board(None)

    def write(self, step: int, epoch: int, scalars: Mapping[str, float]) -> None:
        self.lines.append((step, epoch, dict(scalars)))

    @property
    def steps(self) -> list[int]:
        return [step for step, _, _ in self.lines]

    def curve(self, name: str) -> list[float]:
        return [scalars[name] for _, _, scalars in self.lines]


@pytest.fixture(scope="module")
def composed(compose_tiny: Callable[..., DictConfig]) -> DictConfig:
    return compose_tiny("epochs=2", f"batch_size={BATCH}")


@pytest.fixture
def new_trainer(composed: DictConfig, few_digits: DataSet) -> Callable[..., Trainer]:
    """A trainer at step 0; keys replace those of the config."""

    def new(**keys: Any) -> Trainer:
        config = composed.copy()
        for key, value in keys.items():
            config[key] = value
        return build_run(config, data=few_digits).trainer

    return new


@pytest.fixture
def checkpoints(tmp_path: Path) -> Checkpoints:
    return Checkpoints(tmp_path / "checkpoints", every=1, keep=1)


def fit(trainer: Trainer, checkpoints: Checkpoints, signals: Signals | None = None) -> Written:
    written = Written()
    trainer.fit(written, checkpoints, signals or Signals())  # type: ignore[arg-type]
    return written


def equal(one: Any, other: Any) -> bool:
    """Bit for bit, through dicts and lists."""
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, Mapping):
        return one.keys() == other.keys() and all(equal(one[k], other[k]) for k in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(equal, one, other))
    return bool(one == other)


# ------------------------------------------------------------------ steps


def test_it_trains_to_the_end_and_learns(
    new_trainer: Callable[..., Trainer], checkpoints: Checkpoints
) -> None:
    trainer = new_trainer()
    assert (trainer.step, trainer.total_steps) == (0, 2 * STEPS)
    written = fit(trainer, checkpoints)
    assert trainer.step == 2 * STEPS
    assert written.steps == list(range(1, 2 * STEPS + 1))
    assert [epoch for _, epoch, _ in written.lines] == [0] * STEPS + [1] * STEPS
    loss = written.curve("loss")
    assert loss[-1] < loss[0]
    assert trainer.meter.images == 2 * STEPS * BATCH


@pytest.mark.parametrize(
    ("log_every", "steps"), [(1, list(range(1, 11))), (3, [3, 5, 6, 9, 10]), (20, [5, 10])]
)
def test_it_writes_every_so_many_steps_and_at_the_end_of_each_epoch(
    new_trainer: Callable[..., Trainer],
    checkpoints: Checkpoints,
    log_every: int,
    steps: list[int],
) -> None:
    assert fit(new_trainer(log_every=log_every), checkpoints).steps == steps


def test_how_often_it_writes_changes_no_weight(
    new_trainer: Callable[..., Trainer], tmp_path: Path
) -> None:
    often, seldom = new_trainer(log_every=1), new_trainer(log_every=100)
    for trainer in (often, seldom):
        fit(trainer, Checkpoints(tmp_path / str(trainer.log_every), every=1, keep=1))
    assert equal(often.method.state_dict(), seldom.method.state_dict())


def test_every_step_has_the_learning_rate_of_the_schedule(
    new_trainer: Callable[..., Trainer], checkpoints: Checkpoints
) -> None:
    trainer = new_trainer(lr=0.2)
    written = fit(trainer, checkpoints)
    expected = [0.2 * trainer.schedule(step, STEPS, 2) for step in range(2 * STEPS)]
    assert written.curve("lr") == expected
    assert expected[0] == 0.2
    assert expected == sorted(expected, reverse=True)


def test_the_global_generator_is_neither_asked_nor_changed(
    new_trainer: Callable[..., Trainer], checkpoints: Checkpoints
) -> None:
    one, other = new_trainer(), new_trainer()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        before = torch.random.get_rng_state()
        fit(one, checkpoints)
        assert torch.equal(torch.random.get_rng_state(), before)
        torch.manual_seed(2)
        fit(other, checkpoints)
    assert equal(one.method.state_dict(), other.method.state_dict())


@pytest.mark.parametrize("drawn", ["order", "augmentation"])
def test_the_seed_decides_the_order_and_the_augmentation(
    new_trainer: Callable[..., Trainer], checkpoints: Checkpoints, drawn: str
) -> None:
    """Each by itself, from the same weights."""
    one, other = new_trainer(epochs=1), new_trainer(epochs=1)
    (other.loader if drawn == "order" else other.views).seed = 2
    curves = [fit(trainer, checkpoints).curve("loss") for trainer in (one, other)]
    assert curves[0][0] != curves[1][0]


def test_all_views_of_a_batch_are_encoded_at_once(
    new_trainer: Callable[..., Trainer], checkpoints: Checkpoints
) -> None:
    trainer = new_trainer(epochs=1, views=3)
    rows: list[int] = []
    trainer.method.encoder.register_forward_hook(lambda _, given, __: rows.append(len(given[0])))
    fit(trainer, checkpoints)
    assert rows == [3 * BATCH] * STEPS


def test_the_method_is_trained_in_training_mode(
    new_trainer: Callable[..., Trainer], checkpoints: Checkpoints
) -> None:
    trainer = new_trainer(epochs=1)
    trainer.method.eval()
    statistics = trainer.method.encoder.bn1.running_mean.clone()
    fit(trainer, checkpoints)
    assert trainer.method.training
    assert not torch.equal(trainer.method.encoder.bn1.running_mean, statistics)


# ------------------------------------------------------------------ scalars


def test_the_scalars_are_those_of_the_step(
    new_trainer: Callable[..., Trainer], checkpoints: Checkpoints
) -> None:
    trainer = new_trainer(epochs=1)
    steps: list[Any] = []
    gradients = trainer.gradients

    def remembered(*args: Any, **keys: Any) -> StepOutput:
        steps.append(gradients(*args, **keys))
        return steps[-1]

    trainer.gradients = remembered  # type: ignore[assignment]
    written = fit(trainer, checkpoints)
    assert written.curve("loss") == [step.loss.item() for step in steps]
    unit_ND = torch.nn.functional.normalize(steps[-1].rows_ND.detach().double())
    labels_N = steps[-1].labels_N
    same_NN = labels_N[:, None] == labels_N
    cosine_NN = unit_ND @ unit_ND.T
    itself_NN = torch.eye(len(labels_N), dtype=torch.bool)
    last = written.lines[-1][2]
    positives, negatives = cosine_NN[same_NN & ~itself_NN], cosine_NN[~same_NN]
    assert last["positive_similarity"] == pytest.approx(positives.mean().item(), abs=1e-5)
    assert last["negative_similarity"] == pytest.approx(negatives.mean().item(), abs=1e-5)
    spread = (unit_ND - unit_ND.mean(0)).square().sum(1).mean().sqrt().item()
    assert last["embedding_spread"] == pytest.approx(spread, abs=1e-4)
    assert last["data_wait_percent"] <= 100


def test_the_chance_level_of_supcon_is_that_of_equal_embeddings(
    new_trainer: Callable[..., Trainer], checkpoints: Checkpoints
) -> None:
    supcon = {"_target_": "tcl_train.losses.SupCon", "tau": 0.1, "form": "out"}
    written = fit(new_trainer(epochs=1, loss=supcon), checkpoints)
    assert written.curve("chance_level") == pytest.approx([math.log(2 * BATCH - 1)] * STEPS)


def scalars(**keys: float) -> dict[str, float]:
    usual = {"loss": 3.0, "chance_level": 6.0, "embedding_spread": 0.9, "anchors": 64.0}
    return {**usual, "anchors_without_positives": 0.0, **keys}


def test_a_collapse_is_said_with_advice() -> None:
    assert find_collapse(scalars(), "do this") is None
    collapsed = find_collapse(scalars(embedding_spread=0.01), "do this")
    assert collapsed is not None
    assert collapsed.is_certain
    assert "collapsed (spread 0.0100" in collapsed.words
    assert collapsed.words.endswith("do this")
    at_chance = find_collapse(scalars(loss=5.99), "do this")
    assert at_chance is not None
    assert not at_chance.is_certain
    assert "chance level" in at_chance.words
    assert find_collapse(scalars(loss=5.9), "do this") is None


def test_what_a_method_does_not_measure_is_not_looked_at() -> None:
    few = {"loss": 6.0, "embedding_spread": 0.9, "anchors_without_positives": 0.0}
    assert find_collapse(few, "") is None
    assert find_collapse({**few, "embedding_spread": 0.0}, "") is not None


def test_a_batch_in_which_no_row_has_a_positive_is_said() -> None:
    said = find_collapse(scalars(anchors_without_positives=64.0), "")
    assert said is not None
    assert said.is_certain
    assert "none of the 64 rows of the batch has a positive" in said.words
    assert find_collapse(scalars(anchors_without_positives=63.0), "") is None
    baseline = scalars(anchors_without_positives=64.0)
    del baseline["anchors"]  # of a method without pairs
    assert find_collapse(baseline, "") is None


@pytest.mark.parametrize("on_collapse", ["warn", "stop"])
def test_a_collapsed_run_goes_on_or_stops(
    new_trainer: Callable[..., Trainer],
    checkpoints: Checkpoints,
    caplog: pytest.LogCaptureFixture,
    on_collapse: str,
) -> None:
    trainer = new_trainer(on_collapse=on_collapse)
    for part in trainer.method.projector.modules():
        if isinstance(part, torch.nn.Linear):
            torch.nn.init.zeros_(part.weight)
    if on_collapse == "warn":
        fit(trainer, checkpoints)
        assert "k1_warmup_epochs" in caplog.text
        assert trainer.step == 2 * STEPS
        return
    with pytest.raises(TrainingError, match=r"epoch 1: the embeddings have collapsed .* let k1"):
        fit(trainer, checkpoints)
    assert trainer.step == STEPS


# ------------------------------------------------------------------ checkpoints


def test_checkpoints_within_an_epoch_change_no_weight(
    new_trainer: Callable[..., Trainer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, often = new_trainer(), new_trainer()
    fit(plain, Checkpoints(tmp_path / "plain", every=1, keep=1))
    steps: list[int] = []
    checkpoints = Checkpoints(tmp_path / "often", every=1, keep=1, every_minutes=1)
    save = checkpoints.save

    def counted(state: Any, **keys: Any) -> None:
        steps.append(state["step"])
        save(state, **keys)

    monkeypatch.setattr(checkpoints, "save", counted)
    monkeypatch.setattr(checkpoints, "overdue", lambda: often.step in (2, 3, 7))
    written = fit(often, checkpoints)
    assert steps == [2, 3, STEPS, 7, 2 * STEPS]
    assert written.steps == list(range(1, 2 * STEPS + 1))
    assert equal(often.method.state_dict(), plain.method.state_dict())


def test_a_checkpoint_is_written_every_so_many_epochs_and_at_the_end(
    new_trainer: Callable[..., Trainer], tmp_path: Path
) -> None:
    checkpoints = Checkpoints(tmp_path, every=2, keep="all")
    fit(new_trainer(epochs=5), checkpoints)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "epoch-00002.pt",
        "epoch-00004.pt",
        "epoch-00005.pt",
        "last.pt",
        "previous.pt",
    ]
    assert checkpoint.load(tmp_path / "epoch-00002.pt")["step"] == 2 * STEPS


def test_a_checkpoint_brings_another_trainer_to_the_same_place(
    new_trainer: Callable[..., Trainer], checkpoints: Checkpoints
) -> None:
    trainer, other = new_trainer(), new_trainer(seed=2)
    fit(trainer, checkpoints)
    other.load_state_dict(checkpoint.load(checkpoints.last))
    assert other.step == trainer.step
    assert other.meter.images == trainer.meter.images
    assert equal(other.method.state_dict(), trainer.method.state_dict())
    assert equal(other.optimizer.state_dict(), trainer.optimizer.state_dict())


@pytest.mark.parametrize("part", ["method", "optimizer"])
def test_a_checkpoint_that_lacks_something_is_refused(
    new_trainer: Callable[..., Trainer], part: str
) -> None:
    trainer = new_trainer()
    state = trainer.state_dict()
    state[part] = {key: state[part][key] for key in list(state[part])[1:]}
    with pytest.raises((RuntimeError, KeyError, ValueError)):
        new_trainer().load_state_dict(state)


# ------------------------------------------------------------------ stopping


def signal_at(trainer: Trainer, step: int) -> None:
    trainer.method.encoder.register_forward_hook(
        lambda *_: signal.raise_signal(signal.SIGTERM) if trainer.step == step - 1 else None
    )


@pytest.mark.parametrize("at", [1, 3, STEPS, STEPS + 1, 2 * STEPS])
def test_a_signal_stops_it_after_the_step_with_a_checkpoint_of_that_step(
    new_trainer: Callable[..., Trainer], checkpoints: Checkpoints, at: int
) -> None:
    trainer = new_trainer()
    signal_at(trainer, at)
    with pytest.raises(Interrupted) as caught:
        fit(trainer, checkpoints)
    assert caught.value.signum == signal.SIGTERM
    assert trainer.step == at
    state = checkpoint.load(checkpoints.last)
    assert state["step"] == at
    assert equal(state["method"], trainer.method.state_dict())


@pytest.mark.parametrize(
    ("every", "at", "names"),
    [
        (1, STEPS, ["epoch-00001.pt", "last.pt"]),
        (1, 2 * STEPS, ["epoch-00001.pt", "epoch-00002.pt", "last.pt", "previous.pt"]),
        (1, STEPS + 1, ["epoch-00001.pt", "last.pt", "previous.pt"]),
        (2, STEPS, ["last.pt"]),  # none is due there
    ],
)
def test_a_signal_at_the_end_of_an_epoch_does_not_take_away_its_checkpoint_and_its_message(
    new_trainer: Callable[..., Trainer],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    every: int,
    at: int,
    names: list[str],
) -> None:
    caplog.set_level("INFO", "tcl_train")
    trainer = new_trainer()
    signal_at(trainer, at)
    with pytest.raises(Interrupted):
        fit(trainer, Checkpoints(tmp_path, every=every, keep="all"))
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    said = [line for line in caplog.messages if re.match(r"epoch \d+/\d+:", line)]
    assert len(said) == at // STEPS


def test_a_signal_while_the_last_checkpoint_is_written_stops_it_too(
    new_trainer: Callable[..., Trainer], checkpoints: Checkpoints, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the run would go on with an evaluation that nobody wants any more."""
    save = Checkpoints.save

    def save_and_signal(self: Checkpoints, state: Any, **keys: Any) -> None:
        save(self, state, **keys)
        if state["step"] == 2 * STEPS:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(Checkpoints, "save", save_and_signal)
    with pytest.raises(Interrupted):
        fit(new_trainer(), checkpoints)
    assert checkpoint.load(checkpoints.last)["step"] == 2 * STEPS


def test_the_signal_handlers_are_as_before_afterwards(
    new_trainer: Callable[..., Trainer], checkpoints: Checkpoints
) -> None:
    before = [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)]
    fit(new_trainer(epochs=1), checkpoints)
    assert [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)] == before


def break_loss(trainer: Trainer, step: int, value: float) -> None:
    """From this step on the loss is no number, as when weights have overflowed."""
    trainer.method.get_submodule("loss").register_forward_hook(
        lambda *given: given[2] + (value if trainer.step >= step - 1 else 0)
    )


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize(("log_every", "seen"), [(1, STEPS + 2), (100, 2 * STEPS)])
def test_a_loss_that_is_not_finite_stops_it_and_the_last_good_checkpoint_stays(
    new_trainer: Callable[..., Trainer],
    checkpoints: Checkpoints,
    value: float,
    log_every: int,
    seen: int,
) -> None:
    trainer = new_trainer(log_every=log_every)
    break_loss(trainer, STEPS + 2, value)
    with pytest.raises(TrainingError, match=rf"the loss is {value} at step {seen}; try a lower lr"):
        fit(trainer, checkpoints)
    assert checkpoint.load(checkpoints.last)["step"] == STEPS


def test_a_signal_after_the_loss_broke_does_not_replace_the_good_checkpoint(
    new_trainer: Callable[..., Trainer], checkpoints: Checkpoints
) -> None:
    trainer = new_trainer(log_every=100)
    break_loss(trainer, STEPS + 1, float("nan"))
    trainer.method.encoder.register_forward_hook(
        lambda *_: signal.raise_signal(signal.SIGINT) if trainer.step == STEPS + 1 else None
    )
    with pytest.raises(TrainingError):
        fit(trainer, checkpoints)
    assert checkpoint.load(checkpoints.last)["step"] == STEPS


def test_weights_that_are_not_finite_do_not_replace_the_good_checkpoint(
    new_trainer: Callable[..., Trainer],
    checkpoints: Checkpoints,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The loss of a step is from before its update, so it may be the last finite number."""
    trainer = new_trainer(epochs=3)
    update = trainer.runtime.update

    def update_and_break(optimizer: Any) -> None:
        update(optimizer)
        if trainer.step == 2 * STEPS - 1:
            with torch.no_grad():
                next(trainer.method.encoder.parameters()).fill_(float("nan"))

    monkeypatch.setattr(trainer.runtime, "update", update_and_break)
    with pytest.raises(TrainingError):
        fit(trainer, checkpoints)
    state = checkpoint.load(checkpoints.last)
    assert all(value.isfinite().all() for value in state["method"].values())
    assert state["step"] == STEPS


def test_statistics_of_normalisation_that_are_not_finite_are_not_saved(
    new_trainer: Callable[..., Trainer], checkpoints: Checkpoints
) -> None:
    trainer = new_trainer(epochs=1)
    name, buffer = next((n, b) for n, b in trainer.method.named_buffers() if b.is_floating_point())
    buffer.fill_(float("inf"))
    with pytest.raises(TrainingError, match=rf"{name} is not finite after step"):
        trainer.check_weights()
