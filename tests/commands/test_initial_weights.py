"""Runs whose encoder is timm's, or starts from weights."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tcl_train import load_encoder
from tcl_train.building.parts import build_encoder, build_loss, build_method
from tcl_train.run import checkpoint
from tcl_train.run.directory import RunDir

pytestmark = pytest.mark.usefixtures("on_few_digits")

Train = Callable[..., dict[str, Any]]
QUICK = ("batch_size=32",)
NO_STEP = ("lr=1e-30", "optimizer.weight_decay=0")  # which leaves the weights as they are
TIMM = ("encoder=timm", "encoder.name=resnet10t")


@pytest.fixture(scope="module")
def weights_file(finished: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of the finished run's encoder, with a head."""
    state = load_encoder(finished.run_dir.path).state_dict()
    path = tmp_path_factory.mktemp("weights") / "encoder.pth"
    torch.save({"model": {**state, "fc.weight": torch.ones(3, 16)}}, path)
    return path


def weights_of(run: Path) -> dict[str, Any]:
    parameters = load_encoder(run).named_parameters()
    return {key: x.detach() for key, x in parameters}


@pytest.mark.parametrize("kind", ["file", "run"])
def test_a_run_starts_from_weights_and_names_what_it_skips(
    kind: str, finished: Any, weights_file: Path, command: Any, tiny_words: Any, tmp_path: Path
) -> None:
    given = weights_file if kind == "file" else finished.run_dir.path
    words = tiny_words(
        *QUICK, *NO_STEP, f"encoder.weights={given}", f"hydra.run.dir={tmp_path / 'r'}"
    )
    outcome = command(*words)
    assert (outcome.status, outcome.err) == (0, "")
    before, after = weights_of(finished.run_dir.path), weights_of(tmp_path / "r")
    assert all(torch.equal(x, before[key]) for key, x in after.items())
    said = "fc.weight" if kind == "file" else "projector.* (4 keys)"
    (line,) = [line for line in outcome.out.splitlines() if "skipped" in line]
    assert line.startswith(
        f"encoder.weights={given}: the encoder starts from these weights; skipped:"
    )
    assert said in line
    result = RunDir(tmp_path / "r").read_result()
    assert result["encoder_parameters"]["weights"] == str(given)


def test_the_untrained_encoder_of_the_comparison_is_untrained(
    weights_file: Path, train_tiny: Train, tmp_path: Path
) -> None:
    words = *QUICK, "random_encoder_baseline=true"
    plain = train_tiny(tmp_path / "plain", *words)
    started = train_tiny(tmp_path / "started", *words, f"encoder.weights={weights_file}")
    assert started["random_encoder_top1"] == plain["random_encoder_top1"]
    assert started["top1"] != plain["top1"]
    assert (plain["encoder"], plain["encoder_parameters"]["weights"]) == ("resnet8", None)


def test_a_run_is_resumed_and_loaded_without_the_file(
    weights_file: Path, train_tiny: Train, command: Any, tmp_path: Path
) -> None:
    copy = shutil.copy(weights_file, tmp_path / "copy.pth")
    words = *QUICK, "epochs=2", f"encoder.weights={copy}"
    whole, part = tmp_path / "whole", tmp_path / "part"
    train_tiny(whole, *words)
    train_tiny(part, *words, "checkpoint.keep=all")
    shutil.copy(part / "checkpoints" / "epoch-00001.pt", part / "checkpoints" / "last.pt")
    (part / "result.json").unlink()
    Path(copy).unlink()
    assert command(f"resume={part}").status == 0
    one, other = weights_of(whole), weights_of(part)
    assert all(torch.equal(x, one[key]) for key, x in other.items())


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["encoder.weights=nowhere.pt"], ["encoder.weights=nowhere.pt", "no such file or run"]),
        (["encoder.weights=3"], ["encoder.weights=3", "imagenet, a FILE or a run directory"]),
        (["encoder.weights=imagenet"], ["encoder.weights=imagenet", "none for this encoder"]),
        (
            ["encoder.weights=FILE", "encoder=resnet8", "encoder.width=8"],
            ["encoder.weights=", "conv1.weight is (4, ", "encoder=resnet8 encoder.width=4"],
        ),
        (["encoder=timm"], ["encoder: name must be one of timm's", "encoder.name=resnet18d"]),
        (["encoder=timm", "encoder.name=resnet_18"], ["no such model; the nearest are"]),
    ],
    ids=lambda value: " ".join(value),
)
def test_a_bad_request_is_refused_in_one_line(
    words: list[str], said: list[str], refused: Any, tiny_words: Any, weights_file: Path
) -> None:
    line = refused(*tiny_words(*QUICK, *(w.replace("FILE", str(weights_file)) for w in words)))
    assert not [part for part in said if part not in line], line


# ------------------------------------------------------------------ timm


@pytest.fixture
def timm_run(train_tiny: Train, tmp_path: Path) -> Path:
    result = train_tiny(tmp_path / "timm", *QUICK, *TIMM, "chunk_size=16", "precision=bf16")
    assert result["encoder"] == "timm resnet10t"
    assert result["encoder_parameters"]["name"] == "resnet10t"
    return tmp_path / "timm"


def test_a_run_with_an_encoder_of_timm_is_trained_in_chunks_resumed_and_loaded(
    timm_run: Path, command: Any
) -> None:
    encoder = load_encoder(timm_run)
    assert encoder(torch.zeros(2, 3, 8, 8)).shape == (2, encoder.feature_dim)
    assert (encoder.image_size, len(encoder.classes)) == (8, 10)
    outcome = command(f"resume={timm_run}", "resume_extend=true", "epochs=2")
    assert (outcome.status, outcome.err) == (0, "")
    assert checkpoint.load(RunDir(timm_run).last_checkpoint)["step"] == 10


def test_a_vision_transformer_trains_with_a_teacher(
    compose_tiny: Callable[..., Any], recipes: dict[str, list[str]]
) -> None:
    config = compose_tiny(*recipes["byol"], "encoder=timm", "encoder.name=test_vit")
    encoder = build_encoder(config, image_size=32)
    loss = build_loss(config)
    method = build_method(config, encoder=encoder, loss=loss, num_classes=2)
    step = method(torch.rand(8, 3, 32, 32), torch.arange(4))
    step.loss.backward()
    assert all(p.grad is not None for p in method.encoder.parameters())
