"""load_encoder: what comes out of a run directory is the encoder that was trained."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import tcl_train
from tcl_train import load_encoder
from tcl_train.building.parts import build_encoder
from tcl_train.data.dataset import DataSet
from tcl_train.errors import RequestError
from tcl_train.evaluation.evaluate import Evaluator
from tcl_train.run import checkpoint
from tcl_train.run.directory import RunDir


@pytest.fixture
def copied(finished: Any, tmp_path: Path) -> RunDir:
    """A finished run, to damage."""
    return RunDir(shutil.copytree(finished.run_dir.path, tmp_path / "run"))


def images(count: int = 4) -> torch.Tensor:
    return torch.randn(count, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def test_it_is_a_module_in_evaluation_mode_from_images_to_features(finished: Any) -> None:
    encoder = load_encoder(finished.run_dir.path)
    assert isinstance(encoder, torch.nn.Module)
    assert not any(part.training for part in encoder.modules())
    assert encoder.feature_dim == 16
    assert encoder(images()).shape == (4, 16)
    assert next(encoder.parameters()).device.type == "cpu"


def test_its_convolutions_are_torch_s_own(finished: Any) -> None:
    """What trains fast on a CPU is for training; others want to run, trace and export it."""
    encoder = load_encoder(finished.run_dir.path)
    kinds = {type(part) for part in encoder.modules()}
    assert nn.Conv2d in kinds
    assert all(kind.__module__.split(".")[0] in ("torch", "tcl_train") for kind in kinds)
    assert not any(issubclass(kind, nn.Conv2d) and kind is not nn.Conv2d for kind in kinds)
    exported = torch.export.export(encoder, (torch.zeros(2, 3, 8, 8),)).module()
    x_NCHW = torch.randn(2, 3, 8, 8)
    torch.testing.assert_close(exported(x_NCHW), encoder(x_NCHW))


@pytest.mark.parametrize("channels", [1, 2, 4, 5])
def test_another_number_of_channels_is_an_error(finished: Any, channels: int) -> None:
    with pytest.raises(RuntimeError, match="channels"):
        load_encoder(finished.run_dir.path)(torch.zeros(1, channels, 8, 8))


def test_a_path_may_be_a_string(finished: Any) -> None:
    features_ND = load_encoder(str(finished.run_dir))(images())
    assert torch.equal(features_ND, load_encoder(finished.run_dir.path)(images()))


def test_it_gives_the_features_of_the_encoder_that_was_trained(
    few_digits: DataSet,
    on_few_digits: None,
    train_tiny: Callable[..., dict[str, Any]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    measure = Evaluator.measure
    seen: list[torch.Tensor] = []

    def watched(self: Evaluator, encoder: torch.nn.Module) -> Any:
        encoder.eval()
        with torch.no_grad():
            seen.append(encoder(images()))
        return measure(self, encoder)

    monkeypatch.setattr(Evaluator, "measure", watched)
    train_tiny(tmp_path / "run", "batch_size=32")
    encoder = load_encoder(tmp_path / "run")
    with torch.no_grad():
        assert torch.allclose(encoder(images()), seen[0], rtol=1e-4, atol=1e-5)
        # Bit for bit once its weights lie in memory as in training.
        same_order = encoder.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        assert torch.equal(same_order(images()), seen[0])
    assert (encoder.mean, encoder.std) == (few_digits.mean, few_digits.std)


def test_it_is_not_the_encoder_before_training(finished: Any) -> None:
    untrained = build_encoder(finished.run_dir.read_config(), image_size=8).eval()
    features_ND = load_encoder(finished.run_dir.path)(images())
    assert not torch.allclose(features_ND, untrained(images()), atol=1e-2)


def test_it_knows_the_statistics_of_its_images(finished: Any) -> None:
    encoder = load_encoder(finished.run_dir.path)
    about = checkpoint.load(finished.run_dir.checkpoints / "last.pt")["about"]
    assert (list(encoder.mean), list(encoder.std)) == (about["mean"], about["std"])
    assert 0 < encoder.mean[0] < 1
    assert 0 < encoder.std[0] < 1


def test_loading_draws_nothing_from_the_global_generator(finished: Any) -> None:
    before = torch.random.get_rng_state()
    load_encoder(finished.run_dir.path)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_loading_changes_nothing_in_the_run(
    copied: RunDir, contents: Callable[[Path], Any]
) -> None:
    before = contents(copied.path)
    load_encoder(copied.path)
    assert contents(copied.path) == before


def test_an_interrupted_run_has_an_encoder_too(copied: RunDir) -> None:
    copied.result.unlink()
    assert load_encoder(copied.path).feature_dim == 16


# ------------------------------------------------------------------ what is refused


def test_a_folder_without_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=rf"{tmp_path}: contains no run \(no config.yaml\)"):
        load_encoder(tmp_path)


def test_a_run_without_a_checkpoint_is_refused(copied: RunDir) -> None:
    shutil.rmtree(copied.checkpoints)
    with pytest.raises(RequestError, match=r"last\.pt: there is no checkpoint"):
        load_encoder(copied.path)


def test_a_checkpoint_that_was_cut_off_is_refused(copied: RunDir) -> None:
    path = copied.checkpoints / "last.pt"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(RequestError, match=r"last\.pt: not a whole checkpoint"):
        load_encoder(copied.path)


@pytest.mark.parametrize("change", ["width: 8", "stem: imagenet"])
def test_a_checkpoint_of_another_encoder_is_refused(copied: RunDir, change: str) -> None:
    key = change.split(":")[0]
    text = copied.config.read_text()
    (line,) = [line for line in text.splitlines() if line.strip().startswith(f"{key}:")]
    copied.config.write_text(text.replace(line, f"  {change}"))
    with pytest.raises(RequestError, match="does not fit its config's encoder"):
        load_encoder(copied.path)


def test_a_checkpoint_without_the_encoder_is_refused(copied: RunDir) -> None:
    path = copied.checkpoints / "last.pt"
    state = checkpoint.load(path)
    state["method"] = {k: v for k, v in state["method"].items() if not k.startswith("encoder.")}
    torch.save(state, path)
    with pytest.raises(RequestError, match="does not fit"):
        load_encoder(copied.path)


def test_the_package_has_nothing_that_it_does_not_name() -> None:
    assert "load_encoder" in tcl_train.__all__
    with pytest.raises(AttributeError, match="no attribute 'load_decoder'"):
        _ = tcl_train.load_decoder
