"""From a node of the config to what its `_target_` makes, and how complaints reach the user."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from tcl_train.errors import RequestError


def build_node(place: str, node: DictConfig, *args: Any, **keys: Any) -> Any:
    """Calls a node's `_target_` with its keys and the given arguments. A wrong value becomes a
    RequestError that names its place in the config."""
    with as_request_error(place):
        return instantiate(node, _partial_=True, _convert_="all")(*args, **keys)


@contextmanager
def as_request_error(place: str) -> Iterator[None]:
    try:
        yield
    except (ValueError, TypeError, OmegaConfBaseException, InstantiationException) as error:
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise RequestError(f"{place}: {first}" if place else first) from error
    except (RuntimeError, MemoryError) as error:  # not enough memory for these settings
        first = (str(error).splitlines() or [type(error).__name__])[0]
        said = f"cannot be made with these settings ({first})"
        raise RequestError(f"{place}: {said}" if place else said) from error


def all_parts(*makers: Callable[[], Any]) -> list[Any]:
    """What all of them make. Raises RequestError with everything that they complain of."""
    parts: list[Any] = []
    problems: list[str] = []
    for make in makers:
        try:
            parts.append(make())
        except RequestError as error:
            problems.append(str(error))
    if problems:
        raise RequestError("; ".join(dict.fromkeys(problems)))
    return parts
