"""Configs of the smallest run."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from omegaconf import DictConfig, OmegaConf


@pytest.fixture(scope="module")
def composed(compose_tiny: Callable[..., DictConfig]) -> DictConfig:
    return compose_tiny()


@pytest.fixture
def tiny(composed: DictConfig) -> DictConfig:
    """A copy, to change."""
    return OmegaConf.create(OmegaConf.to_container(composed))
