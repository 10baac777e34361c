"""What a config may ask of the machine."""

from __future__ import annotations

import pytest
import torch
from omegaconf import OmegaConf

from tcl_train.cli import compose, resolvers
from tcl_train.runtime import device as runtime


@pytest.fixture(autouse=True)
def _no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)


def epochs(precision: str, device: str = "auto") -> int:
    resolvers.register()
    text = "${in_half_precision:30,12}"
    return OmegaConf.create({"precision": precision, "device": device, "epochs": text}).epochs


@pytest.mark.parametrize("bf16", [True, False])
def test_auto_asks_what_the_cpu_computes_in(monkeypatch: pytest.MonkeyPatch, bf16: bool) -> None:
    monkeypatch.setattr(runtime, "cpu_computes_in_bf16", lambda: bf16)
    assert epochs("auto") == (30 if bf16 else 12)


@pytest.mark.parametrize(("precision", "expected"), [("bf16", 30), ("fp32", 12)])
def test_what_is_typed_counts_on_any_machine(precision: str, expected: int) -> None:
    assert epochs(precision) == expected


@pytest.mark.parametrize("words", [("auto", "cuda"), ("fp16", "cpu"), ("bf15", "cpu")], ids=str)
def test_what_the_run_will_refuse_is_left_to_it(words: tuple[str, str]) -> None:
    assert epochs(*words) == 12


def test_the_recipe_for_two_cpu_cores_keeps_its_time_on_both_kinds_of_cpu() -> None:
    """And its config holds what came of it."""
    half, single = (
        compose.compose_run(["experiment=cpu20", f"precision={precision}"]).config
        for precision in ("bf16", "fp32")
    )
    assert half.epochs > single.epochs
    for config in (half, single):
        assert "${" not in OmegaConf.to_yaml(config)
        assert config.view_size[-1][0] < config.epochs


@pytest.mark.parametrize(
    ("warmup", "share"), [(0, 0.0), (5, 0.25), (2.5, 0.125), (40, 2.0), ("many", "many")]
)
def test_epochs_as_a_share_of_the_run(warmup: object, share: object) -> None:
    resolvers.register()
    config = OmegaConf.create({"epochs": 20, "w": warmup, "share": "${share_of_run:${w}}"})
    assert config.share == share


@pytest.mark.parametrize(
    ("epochs", "expected"), [(20, 10), (10, 10), (4, 4), (2.5, 2.5), (0, 0), ("many", 10)]
)
def test_the_smaller_of_two_numbers(epochs: object, expected: object) -> None:
    resolvers.register()
    config = OmegaConf.create({"epochs": epochs, "warmup": "${smaller:10,${epochs}}"})
    assert config.warmup == expected


@pytest.mark.parametrize(
    ("dataset", "expected"), [("digits", 20), ("imagenet100", 400), ("cifar10", 1000)]
)
def test_a_value_by_the_data_set(dataset: str, expected: int) -> None:
    resolvers.register()
    text = "${of_dataset:digits,20,imagenet100,400,1000}"
    assert OmegaConf.create({"names": {"dataset": dataset}, "epochs": text}).epochs == expected


@pytest.mark.parametrize("epochs", ["null", "0", "1", "20"])
def test_a_method_s_shares_of_a_short_run_are_shares(epochs: str) -> None:
    """Epochs that the run does not have are cut to its own, and a run of none has shares, too."""
    if epochs == "null":
        config = compose.compose_run(["method=dino", "dataset=digits"]).config
        assert config.epochs == 20
    else:
        config = compose.compose_run(["method=dino", f"epochs={epochs}"]).config
    for name in ("teacher_tau_warmup", "frozen_until"):
        assert 0 <= config.method[name] <= 1
    assert config.scheduler.warmup_epochs == min(10, config.epochs)


@pytest.mark.parametrize(
    ("views", "small", "epochs"),
    [
        *((2, {}, 12), (3, {}, 8), (1, {}, 24), (100, {}, 1), ("many", {}, 12)),
        *((2, {"count": 4, "size": None}, 8), (2, {"count": 2, "size": 8}, 11)),
    ],
)
def test_epochs_of_equally_many_views(views: object, small: dict[str, object], epochs: int) -> None:
    resolvers.register()
    text = "${epochs_of_views:12,2,32}"
    groups = {"small": small} if small else {}
    config = OmegaConf.create({"views": views, "multicrop": groups, "epochs": text})
    assert config.epochs == epochs
