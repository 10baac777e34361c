"""Single parts, built from their nodes of the config."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import DictConfig, OmegaConf

from tcl_train.building.parts import (
    build_augment,
    build_data,
    build_encoder,
    build_initial_encoder,
    build_loss,
    build_method,
    build_optimizer,
    build_probe,
    build_schedule,
)
from tcl_train.building.settings import read_settings
from tcl_train.errors import RequestError
from tcl_train.models import resnet8


@pytest.mark.parametrize(
    ("build", "key", "value", "named"),
    [
        (build_loss, "loss.tau", -1, "loss: tau must be .*>= 1e-06"),
        (build_loss, "loss.k1", "x", "loss: k1 must be .*>= 0 .*got 'x'"),
        (build_probe, "probe.held_out", 1, "probe: held_out must be .*< 1"),
        (build_schedule, "scheduler.floor", 2, "scheduler: floor must be .*<= 1"),
        (
            lambda config: build_encoder(config, image_size=8),
            "encoder.stem",
            "big",
            "encoder: stem must be one of auto, small, padded, patch, cosine, imagenet, got 'big'",
        ),
    ],
)
def test_a_part_with_a_wrong_value_is_refused_by_its_place(
    tiny: DictConfig, build: Callable[[DictConfig], Any], key: str, value: Any, named: str
) -> None:
    OmegaConf.update(tiny, key, value)
    with pytest.raises(RequestError, match=named):
        build(tiny)


@pytest.mark.parametrize(("stem", "warned"), [("small", True), ("padded", False)])
def test_weights_of_solo_learn_in_a_stem_without_their_padding_are_warned_of(
    stem: str, warned: bool, tiny: DictConfig, caplog: pytest.LogCaptureFixture
) -> None:
    OmegaConf.update(tiny, "encoder.stem", stem)
    state = build_encoder(tiny, image_size=8).state_dict()
    OmegaConf.update(tiny, "encoder.weights", "it.ckpt")
    stored = {f"backbone.{key}": x for key, x in state.items()}
    stored["classifier.weight"] = torch.ones(3, 16)
    build_initial_encoder(tiny, image_size=8, weights={"state_dict": stored})
    messages = [record.message for record in caplog.records if record.levelname == "WARNING"]
    assert any("encoder.stem=padded" in message for message in messages) == warned


def test_a_part_that_does_not_fit_into_the_memory_is_refused_by_its_place(
    tiny: DictConfig,
) -> None:
    tiny.encoder.width = 2**50
    with pytest.raises(RequestError, match="encoder: cannot be made with these settings"):
        build_encoder(tiny, image_size=8)


@pytest.mark.parametrize(
    ("place", "words", "build"),
    [
        ("probe: l2", ["probe.l2=0.1"], build_probe),
        (
            "optimizer: betas",
            ["optimizer=adamw", "optimizer.betas=3"],
            lambda config: build_optimizer(config, torch.nn.Linear(2, 2)),
        ),
        (
            "scheduler: milestones",
            ["scheduler=step", "scheduler.milestones=0.5"],
            build_schedule,
        ),
        (
            "dataset: mean",
            ["dataset.mean=0.5"],
            lambda config: build_data(config, supervised=True),
        ),
    ],
)
def test_one_value_where_a_list_belongs_is_refused_by_its_place(
    compose_tiny: Callable[..., DictConfig],
    place: str,
    words: list[str],
    build: Callable[[DictConfig], object],
) -> None:
    with pytest.raises(RequestError, match=rf"^{place} must be a list .*, got [\d.]+$"):
        build(compose_tiny(*words))


def test_an_argument_that_a_part_does_not_take_is_refused(tiny: DictConfig) -> None:
    OmegaConf.update(tiny, "loss.zeta", 1, force_add=True)
    with pytest.raises(RequestError, match=r"^loss: .*zeta"):
        build_loss(tiny)


def method_of(config: DictConfig) -> Any:
    encoder = build_encoder(config, image_size=8)
    loss = build_loss(config)
    return build_method(config, encoder=encoder, loss=loss, num_classes=10)


def test_the_seed_decides_all_initial_weights(tiny: DictConfig) -> None:
    first, again = method_of(tiny).state_dict(), method_of(tiny).state_dict()
    tiny.seed = 2
    other = method_of(tiny).state_dict()
    drawn = [key for key, value in first.items() if key.endswith("weight") and value.ndim > 1]
    assert len(drawn) > 5
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert not any(torch.equal(first[key], other[key]) for key in drawn)


def test_the_encoder_starts_the_same_whatever_trains_it(
    tiny: DictConfig, compose_tiny: Callable[..., DictConfig]
) -> None:
    """Else methods would be compared from different starts."""
    one, other = method_of(tiny), method_of(compose_tiny("loss=ce"))
    for a, b in zip(one.encoder.parameters(), other.encoder.parameters(), strict=True):
        assert torch.equal(a, b)


def test_building_draws_nothing_from_the_global_generator(tiny: DictConfig) -> None:
    before = torch.random.get_rng_state()
    method_of(tiny)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_building_writes_nothing_back_into_the_config(tiny: DictConfig) -> None:
    before = OmegaConf.to_yaml(tiny)
    read_settings(tiny)
    data = build_data(tiny, supervised=True)
    build_augment(tiny, data)
    build_probe(tiny)
    build_schedule(tiny)
    build_optimizer(tiny, method_of(tiny))
    assert OmegaConf.to_yaml(tiny) == before


def test_the_optimizer_trains_the_whole_method_at_the_peak_learning_rate(tiny: DictConfig) -> None:
    method = method_of(tiny)
    optimizer = build_optimizer(tiny, method)
    held = [p for group in optimizer.param_groups for p in group["params"]]
    assert {id(p) for p in held} == {id(p) for p in method.parameters()}
    assert {group["lr"] for group in optimizer.param_groups} == {tiny.lr}


def test_the_encoder_is_built_for_the_size_of_the_images(tiny: DictConfig) -> None:
    assert build_encoder(tiny, image_size=64).conv1.stride == (1, 1)
    assert build_encoder(tiny, image_size=65).conv1.stride == (2, 2)
    assert build_encoder(tiny, image_size=8).feature_dim == resnet8(8, width=4).feature_dim


# ------------------------------------------------------------------ reading data


def options_of(config: DictConfig, monkeypatch: pytest.MonkeyPatch) -> Any:
    """What a data set's reader is told."""
    told: dict[str, Any] = {}
    monkeypatch.setattr(
        "tcl_train.building.parts.build_node",
        lambda place, node, **keys: told.update(keys),  # noqa: ARG005
    )
    build_data(config, supervised=False)
    return told["options"]


def test_readers_are_told_how_to_read(tiny: DictConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny.data.workers, tiny.data.memory_limit_gb = 3, 0.5
    options = options_of(tiny, monkeypatch)
    assert (options.workers, options.memory_limit_gb, options.supervised) == (3, 0.5, False)


def test_workers_are_by_default_as_many_as_there_are_cpus(
    tiny: DictConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tcl_train.building.parts.available_cpus", lambda: 7)
    assert options_of(tiny, monkeypatch).workers == 7


def test_the_cache_is_where_it_is_said_else_where_caches_are(
    tiny: DictConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", "/home/someone")
    monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
    assert options_of(tiny, monkeypatch).cache_dir == Path("/xdg/tcl-train")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert options_of(tiny, monkeypatch).cache_dir == Path("/home/someone/.cache/tcl-train")
    tiny.data.cache_dir = "~/here"
    assert options_of(tiny, monkeypatch).cache_dir == Path("/home/someone/here")


@pytest.mark.parametrize(
    ("key", "value"), [("workers", -1), ("workers", "many"), ("memory_limit_gb", -1)]
)
def test_a_wrong_way_of_reading_is_refused(tiny: DictConfig, key: str, value: Any) -> None:
    tiny.data[key] = value
    with pytest.raises(RequestError, match=rf"data\.{key} must be .*{value}"):
        build_data(tiny, supervised=True)
