"""One run directory as a report sees it: settings, result, curves and later evaluations."""

from __future__ import annotations

import functools
import itertools
import json
import os
import re
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from tcl_train.errors import printable
from tcl_train.report.measures import BY_KEY
from tcl_train.run.directory import NEEDED_KEYS, RunDir

# The scalars of metrics.jsonl that figures draw.
CURVES = (
    *("loss", "embedding_spread", "gradient_from_positives", "gradient_from_negatives"),
    "monitor/knn_top1",
)
LINES_AT_A_TIME = 2000  # of metrics.jsonl, so that a long one needs no more memory
MOST_POINTS = 400  # kept of a curve, evenly over the run
NEEDED_RESULT = ("top1", "dataset", "probe")
EVALUATIONS = "evaluations"
PREDICTIONS = "predictions.npz"


class Unusable(Exception):
    """A run that no table can hold; the message says why in one line."""


@dataclass(frozen=True)
class Curve:
    """A scalar over training: x_P in epochs, y_P its values, both float64."""

    x_P: NDArray[np.float64]
    y_P: NDArray[np.float64]


@dataclass(frozen=True)
class Evaluation:
    """What `tcl-eval` has stored about a run: the name of the file without ending, its content."""

    name: str
    content: Mapping[str, Any]


@dataclass
class Run:
    """A run that has at least its config.

    result: None while it is unfinished. epoch, step: how far its metrics reach, in epochs begun.
    notes: what could not be read of it, a line each.
    """

    path: Path
    config: Mapping[str, Any]
    result: Mapping[str, Any] | None
    curves: Mapping[str, Curve] = field(default_factory=dict)
    evaluations: tuple[Evaluation, ...] = ()
    epoch: int = 0
    step: int = 0
    notes: tuple[str, ...] = ()

    @property
    def seed(self) -> int:
        return int(self.config["seed"])

    @property
    def name(self) -> str:
        return shown_path(self.path)

    @property
    def overrides(self) -> list[str]:
        return [str(word) for word in self.config["overrides"] or ()]

    @property
    def from_elsewhere(self) -> bool:
        """Whether this is an evaluation by tcl-eval of an encoder that no run has trained."""
        loss = (self.result or {}).get("loss")
        return isinstance(loss, Mapping) and loss.get("name") == "none"

    @property
    def predictions(self) -> Path:
        return self.path / PREDICTIONS


def shown_path(path: Path) -> str:
    """A path as UTF-8 text; other bytes are escaped."""
    return printable(os.fsencode(path).decode("utf-8", "backslashreplace"))


def read_run(path: Path) -> Run | None:
    """The run in a directory; None where there is none.

    Raises:
        Unusable: a run was here, but its files cannot be used.
    """
    files = RunDir(path)
    if not files.started:
        if files.finished or files.metrics.exists():
            raise Unusable(f"no {files.config.name}, so that its settings are not known")
        return None
    config = _read_config(files)
    if config is None:
        if files.finished:
            raise Unusable(f"{files.config.name} is not the config of a run")
        return None
    result = _read_result(files.result) if files.finished else None
    notes: list[str] = []
    curves, epoch, step = _read_metrics(files.metrics, config, result, notes)
    evaluations = tuple(_read_evaluations(path / EVALUATIONS, notes))
    if files.predictions.is_file() and not zipfile.is_zipfile(files.predictions):
        notes.append(f"{PREDICTIONS} is cut short or damaged; no figure shows it")
    return Run(path, config, result, curves, evaluations, epoch, step, tuple(notes))


# ------------------------------------------------------------------ config.yaml

_FLOAT = re.compile(r"[-+]?(\d[\d_]*\.?[\d_]*|\.\d[\d_]*)[eE][-+]?\d+")


@functools.cache
def _loader() -> type:
    """PyYAML's in C, where it is there: it reads 1,000 configs in seconds rather than half a
    minute. It takes 1e-4 for a number, as Hydra does and YAML 1.1 does not."""

    class Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
        pass

    Loader.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+0123456789."))
    return Loader


def _read_config(files: RunDir) -> Mapping[str, Any] | None:
    try:
        config = yaml.load(files.config.read_bytes(), Loader=_loader())
    except (OSError, yaml.YAMLError, ValueError) as error:
        raise Unusable(f"{files.config.name} is not readable ({_first_line(error)})") from error
    if not isinstance(config, dict) or any(key not in config for key in NEEDED_KEYS):
        return None
    if not isinstance(config["names"], dict) or not isinstance(config["seed"], int):
        return None
    if not isinstance(config["overrides"], (list, type(None))):
        return None
    return config


def _first_line(error: Exception) -> str:
    strerror = getattr(error, "strerror", None)
    return printable(" ".join(str(strerror or error).split())[:120])


# ------------------------------------------------------------------ result.json, evaluations


def _read_object(path: Path) -> dict[str, Any]:
    """Raises Unusable."""
    try:
        content = json.loads(path.read_bytes())
    except OSError as error:
        raise Unusable(f"{path.name} is not readable ({_first_line(error)})") from error
    except (ValueError, RecursionError) as error:
        reason = _first_line(error)
        raise Unusable(f"{path.name} is cut short or damaged ({reason})") from error
    if not isinstance(content, dict):
        raise Unusable(f"{path.name} holds no measures: it is not a JSON object")
    return content


def _read_measures(path: Path) -> dict[str, Any]:
    content = _read_object(path)
    missing = [key for key in NEEDED_RESULT if key not in content]
    if missing:
        raise Unusable(f"{path.name} lacks {', '.join(missing)}; written by another version?")
    if content["top1"] is not None and BY_KEY["top1"].of(content) is None:
        raise Unusable(f"{path.name}: top1 is not a finite number")
    return content


def _read_result(path: Path) -> dict[str, Any]:
    result = _read_measures(path)
    if not isinstance(result["dataset"], str):
        raise Unusable(f"{path.name}: dataset is not a name")
    return result


def _read_evaluations(folder: Path, notes: list[str]) -> Iterator[Evaluation]:
    for path in sorted(folder.glob("*.json")):
        try:
            yield Evaluation(path.stem, _read_result(path))
        except Unusable as error:
            notes.append(f"{EVALUATIONS}/{printable(error)}")


# ------------------------------------------------------------------ metrics.jsonl


def _read_metrics(
    path: Path,
    config: Mapping[str, Any],
    result: Mapping[str, Any] | None,
    notes: list[str],
) -> tuple[dict[str, Curve], int, int]:
    """The curves, how many epochs have begun, and the last step."""
    points: dict[str, tuple[list[float], list[float]]] = {key: ([], []) for key in CURVES}
    epoch = step = lines = known = 0
    try:
        with path.open("rb") as file:
            while some := list(itertools.islice(file, LINES_AT_A_TIME)):
                records = _records(some)
                lines, known = lines + len(some), known + len(records)
                step = max([step, *(record["step"] for record in records)])
                epoch = max([epoch, *(record["epoch"] + 1 for record in records)])
                for key, (steps, values) in points.items():
                    there = [record for record in records if key in record]
                    steps += [record["step"] for record in there]
                    values += [record[key] for record in there]
    except FileNotFoundError:
        if result is not None and result.get("steps") != 0:
            notes.append(f"no {path.name}: it has no curves")
    except OSError as error:
        notes.append(f"{path.name} is not readable ({_first_line(error)})")
    damaged = lines - known
    if damaged and (result is not None or damaged > 1):  # a run that trains may be writing its last
        notes.append(f"{path.name}: {damaged} of {lines} lines not readable; curves lack them")
    epochs_a_step = _epochs_a_step(config, result, epoch, step)
    curves = {
        key: _curve(steps, values, epochs_a_step)
        for key, (steps, values) in points.items()
        if values
    }
    return curves, epoch, step


def _records(lines: list[bytes]) -> list[dict[str, Any]]:
    """The lines that are records; all of them are parsed at once where they can be, which is
    faster."""
    try:
        found = json.loads(b"[" + b",".join(lines) + b"]")
    except (ValueError, RecursionError):
        found = []
        for line in lines:
            with suppress(ValueError, RecursionError):
                found.append(json.loads(line))
    return [record for record in found if _is_record(record)]


def _is_record(record: Any) -> bool:
    return (
        isinstance(record, dict)
        and isinstance(record.get("step"), int)
        and isinstance(record.get("epoch"), int)
    )


def _epochs_a_step(
    config: Mapping[str, Any], result: Mapping[str, Any] | None, epoch: int, step: int
) -> float:
    """How much of an epoch a step is; of an unfinished run, about."""
    epochs, steps = (config.get("epochs"), result.get("steps")) if result else (epoch, step)
    known = isinstance(epochs, int) and isinstance(steps, int) and epochs > 0 and steps > 0
    return epochs / steps if known else 1.0  # type: ignore[operator]


def _curve(steps: list[float], values: list[Any], epochs_a_step: float) -> Curve:
    """Without what is not a finite number, as a loss that was written as null."""
    thin = -(-len(values) // MOST_POINTS)
    x_P, kept = np.array(steps[::thin], float), values[::thin]
    try:
        y_P = np.array(kept, float)
    except (TypeError, ValueError):  # foreign values
        y_P = np.array([v if isinstance(v, (int, float)) else np.nan for v in kept], float)
    finite_P = np.isfinite(y_P)
    return Curve(x_P[finite_P] * epochs_a_step, y_P[finite_P])
