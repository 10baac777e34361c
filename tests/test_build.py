"""The settings at the root, what is checked across them, and building the parts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import DictConfig, OmegaConf

from tcl_train import build as configs
from tcl_train.data.dataset import DataSet
from tcl_train.errors import RequestError
from tcl_train.models import resnet8


@pytest.fixture(scope="module")
def composed(compose_tiny: Callable[..., DictConfig]) -> DictConfig:
    return compose_tiny()


@pytest.fixture
def tiny(composed: DictConfig) -> DictConfig:
    """A copy, to change."""
    return OmegaConf.create(OmegaConf.to_container(composed))


# ------------------------------------------------------------------ settings


def test_settings_are_those_of_the_config(tiny: DictConfig) -> None:
    settings = configs.read_settings(tiny)
    assert (settings.epochs, settings.batch_size, settings.views) == (1, 256, 2)
    assert (settings.seed, settings.supervised, settings.lr) == (1, True, 0.1)
    assert settings.checkpoint == {"every": 1, "every_minutes": None, "keep": 1}


@pytest.mark.parametrize(
    ("key", "value", "right"),
    [
        ("seed", -1, ">= 0"),
        ("seed", None, ">= 0"),
        ("seed", True, ">= 0"),
        ("epochs", 0, ">= 1"),
        ("epochs", 1.5, "whole number"),
        ("epochs", "abc", "whole number"),
        ("batch_size", 1, ">= 2"),
        ("views", 0, ">= 1"),
        ("supervised", "maybe", "true or false"),
        ("supervised", 1, "true or false"),
        ("lr", 0, "> 0"),
        ("lr", -0.1, "> 0"),
        ("lr", float("nan"), "finite"),
        ("lr", float("inf"), "finite"),
        ("device", "tpu", "auto, cpu, cuda, mps"),
        ("precision", "fp8", "auto, fp32, bf16, fp16"),
        ("compile", "no idea", "one of auto, true, false, cuda_graphs"),
        ("random_encoder_baseline", 0, "true or false"),
        ("mirror_features", "left", "true or false"),
        ("log_every", 0, ">= 1"),
        ("checkpoint.every", 0, ">= 1"),
        ("checkpoint.keep", 0, ">= 1"),
        ("checkpoint.keep", "some", "all"),
    ],
)
def test_a_setting_out_of_range_is_refused_by_name_value_and_range(
    tiny: DictConfig, key: str, value: Any, right: str
) -> None:
    OmegaConf.update(tiny, key, value)
    with pytest.raises(RequestError) as caught:
        configs.read_settings(tiny)
    message = str(caught.value)
    assert message.startswith(key)
    assert right in message
    assert str(value) in message


def test_a_value_in_place_of_settings_is_refused_by_name(tiny: DictConfig) -> None:
    tiny.checkpoint = 5
    with pytest.raises(RequestError, match="checkpoint"):
        configs.read_settings(tiny)


@pytest.mark.parametrize(
    ("views", "supervised", "right"),
    [(1, True, True), (2, False, True), (2, True, True), (1, False, False)],
)
def test_a_contrastive_loss_needs_views_or_labels(
    tiny: DictConfig, views: int, supervised: bool, right: bool
) -> None:
    tiny.views, tiny.supervised = views, supervised
    if right:
        assert configs.read_settings(tiny).views == views
    else:
        with pytest.raises(RequestError, match=r"views=1 .* tcl .*views=2 or more, or supervised"):
            configs.read_settings(tiny)


@pytest.mark.parametrize("method", ["byol", "swav"])
def test_one_view_is_too_few_for_a_method_that_compares_views(
    method: str, compose_tiny: Callable[..., DictConfig]
) -> None:
    with pytest.raises(RequestError, match=rf"views=1: method={method} .* views=2 or more$"):
        configs.read_settings(compose_tiny(f"method={method}", "views=1"))


def test_a_classifier_needs_labels_and_one_view_is_enough(
    compose_tiny: Callable[..., DictConfig],
) -> None:
    config = compose_tiny("loss=ce")
    assert configs.read_settings(config).views == 1
    config.supervised = False
    with pytest.raises(RequestError, match=r"supervised=false: loss=ce with .* learns from labels"):
        configs.read_settings(config)


@pytest.mark.parametrize(
    ("target", "named"),
    [
        (10**19, r"method: .*10000000000000000000"),
        ("nowhere.Mine", r"method: .*nowhere"),
        ("tcl_train.losses.TCL", r"method: _target_ must be a subclass of .*, got 'tcl_train"),
    ],
)
def test_what_is_no_method_is_refused(tiny: DictConfig, target: Any, named: str) -> None:
    tiny.method._target_ = target
    with pytest.raises(RequestError, match=named):
        configs.read_settings(tiny)
    tiny.method = None
    with pytest.raises(RequestError, match="method: _target_ must be a subclass of"):
        configs.read_settings(tiny)


# ------------------------------------------------------------------ parts


@pytest.mark.parametrize(
    ("build", "key", "value", "named"),
    [
        (configs.build_loss, "loss.tau", -1, "loss: tau must be .*>= 1e-06"),
        (configs.build_loss, "loss.k1", "x", "loss: k1 must be .*>= 0 .*got 'x'"),
        (configs.build_probe, "probe.held_out", 1, "probe: held_out must be .*< 1"),
        (configs.build_schedule, "scheduler.floor", 2, "scheduler: floor must be .*<= 1"),
        (
            lambda config: configs.build_encoder(config, image_size=8),
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


def test_a_part_that_does_not_fit_into_the_memory_is_refused_by_its_place(
    tiny: DictConfig,
) -> None:
    tiny.encoder.width = 2**50
    with pytest.raises(RequestError, match="encoder: cannot be made with these settings"):
        configs.build_encoder(tiny, image_size=8)


@pytest.mark.parametrize(
    ("place", "words", "build"),
    [
        ("probe: l2", ["probe.l2=0.1"], configs.build_probe),
        (
            "optimizer: betas",
            ["optimizer=adamw", "optimizer.betas=3"],
            lambda config: configs.build_optimizer(config, torch.nn.Linear(2, 2)),
        ),
        (
            "scheduler: milestones",
            ["scheduler=step", "scheduler.milestones=0.5"],
            configs.build_schedule,
        ),
        (
            "dataset: mean",
            ["dataset.mean=0.5"],
            lambda config: configs.build_data(config, supervised=True),
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
        configs.build_loss(tiny)


def method_of(config: DictConfig) -> Any:
    encoder = configs.build_encoder(config, image_size=8)
    loss = configs.build_loss(config)
    return configs.build_method(config, encoder=encoder, loss=loss, num_classes=10)


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
    configs.read_settings(tiny)
    data = configs.build_data(tiny, supervised=True)
    configs.build_augment(tiny, data)
    configs.build_probe(tiny)
    configs.build_schedule(tiny)
    configs.build_optimizer(tiny, method_of(tiny))
    assert OmegaConf.to_yaml(tiny) == before


def test_the_optimizer_trains_the_whole_method_at_the_peak_learning_rate(tiny: DictConfig) -> None:
    method = method_of(tiny)
    optimizer = configs.build_optimizer(tiny, method)
    held = [p for group in optimizer.param_groups for p in group["params"]]
    assert {id(p) for p in held} == {id(p) for p in method.parameters()}
    assert {group["lr"] for group in optimizer.param_groups} == {tiny.lr}


def test_the_encoder_is_built_for_the_size_of_the_images(tiny: DictConfig) -> None:
    assert configs.build_encoder(tiny, image_size=64).conv1.stride == (1, 1)
    assert configs.build_encoder(tiny, image_size=65).conv1.stride == (2, 2)
    assert configs.build_encoder(tiny, image_size=8).feature_dim == resnet8(8, width=4).feature_dim


def test_batches_by_class_have_positives(
    compose_tiny: Callable[..., DictConfig], few_digits: DataSet
) -> None:
    config = compose_tiny("data.sampler=classes", "data.images_per_class=8", "batch_size=32")
    loader = configs.build_run(config, data=few_digits).trainer.loader
    for batch in loader.epoch(0):
        groups_GK = batch.labels_B.view(-1, 8)
        assert (groups_GK == groups_GK[:, :1]).all()


# ------------------------------------------------------------------ reading data


def options_of(config: DictConfig, monkeypatch: pytest.MonkeyPatch) -> Any:
    """What a data set's reader is told."""
    told: dict[str, Any] = {}
    monkeypatch.setattr(configs, "_build", lambda place, node, **keys: told.update(keys))  # noqa: ARG005
    configs.build_data(config, supervised=False)
    return told["options"]


def test_readers_are_told_how_to_read(tiny: DictConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny.data.workers, tiny.data.memory_limit_gb = 3, 0.5
    options = options_of(tiny, monkeypatch)
    assert (options.workers, options.memory_limit_gb, options.supervised) == (3, 0.5, False)


def test_workers_are_by_default_as_many_as_there_are_cpus(
    tiny: DictConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(configs, "available_cpus", lambda: 7)
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
        configs.build_data(tiny, supervised=True)


def test_runs_of_earlier_versions_say_less(tiny: DictConfig) -> None:
    """Their configs are read again to go on with them and to evaluate them."""
    del tiny.view_size
    del tiny.profile
    del tiny.mirror_features
    settings = configs.read_settings(tiny)
    assert settings.view_size is None
    assert settings.profile is False
    assert settings.mirror_features is False


@pytest.mark.parametrize(
    ("words", "who"),
    [(["loss=ce"], "method=cross_entropy"), (["data.sampler=balanced"], "data.sampler=balanced")],
)
def test_what_needs_every_label_is_refused_where_some_are_missing(
    words: list[str],
    who: str,
    compose_tiny: Callable[..., DictConfig],
    few_digits: DataSet,
) -> None:
    data = few_digits.with_labels_of(0.5, torch.Generator().manual_seed(0))
    with pytest.raises(RequestError, match=f"{who} needs a label for each image, and 8. of 167"):
        configs.build_run(compose_tiny("batch_size=32", *words), data=data)
    configs.build_run(compose_tiny("batch_size=32"), data=data)
