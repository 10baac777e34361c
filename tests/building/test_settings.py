"""The settings at the root, and what is checked across them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from omegaconf import DictConfig, OmegaConf

from tcl_train.building.settings import read_settings
from tcl_train.errors import RequestError


def test_settings_are_those_of_the_config(tiny: DictConfig) -> None:
    settings = read_settings(tiny)
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
        read_settings(tiny)
    message = str(caught.value)
    assert message.startswith(key)
    assert right in message
    assert str(value) in message


def test_a_value_in_place_of_settings_is_refused_by_name(tiny: DictConfig) -> None:
    tiny.checkpoint = 5
    with pytest.raises(RequestError, match="checkpoint"):
        read_settings(tiny)


@pytest.mark.parametrize(
    ("views", "supervised", "right"),
    [(1, True, True), (2, False, True), (2, True, True), (1, False, False)],
)
def test_a_contrastive_loss_needs_views_or_labels(
    tiny: DictConfig, views: int, supervised: bool, right: bool
) -> None:
    tiny.views, tiny.supervised = views, supervised
    if right:
        assert read_settings(tiny).views == views
    else:
        with pytest.raises(RequestError, match=r"views=1 .* tcl .*views=2 or more, or supervised"):
            read_settings(tiny)


@pytest.mark.parametrize("method", ["byol", "swav"])
def test_one_view_is_too_few_for_a_method_that_compares_views(
    method: str, compose_tiny: Callable[..., DictConfig]
) -> None:
    with pytest.raises(RequestError, match=rf"views=1: method={method} .* views=2 or more$"):
        read_settings(compose_tiny(f"method={method}", "views=1"))


def test_a_classifier_needs_labels_and_one_view_is_enough(
    compose_tiny: Callable[..., DictConfig],
) -> None:
    config = compose_tiny("loss=ce")
    assert read_settings(config).views == 1
    config.supervised = False
    with pytest.raises(RequestError, match=r"supervised=false: loss=ce with .* learns from labels"):
        read_settings(config)


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
        read_settings(tiny)
    tiny.method = None
    with pytest.raises(RequestError, match="method: _target_ must be a subclass of"):
        read_settings(tiny)


def test_runs_of_earlier_versions_say_less(tiny: DictConfig) -> None:
    """Their configs are read again to go on with them and to evaluate them."""
    del tiny.view_size
    del tiny.profile
    del tiny.mirror_features
    settings = read_settings(tiny)
    assert settings.view_size is None
    assert settings.profile is False
    assert settings.mirror_features is False
