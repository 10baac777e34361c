"""`tcl-eval`: evaluate the encoder of a run again, on its own or on another data set; or an encoder
that no run has trained."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from tcl_train.build_evaluation import Evaluation, build_evaluation
from tcl_train.commands.result import (
    about_data,
    about_machine,
    encoder_name,
    encoder_parameters,
    how_scored,
)
from tcl_train.errors import RequestError, few
from tcl_train.evaluation.evaluate import Measured
from tcl_train.evaluation.measure import FurtherMeasure
from tcl_train.run.directory import RunDir
from tcl_train.runtime.code_version import git_commit
from tcl_train.runtime.files import free_name, make_folder, write_json

log = logging.getLogger(__name__)

OUTPUTS = Path("outputs/evaluations")  # of encoders that no run has trained


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What is to be evaluated of a run, and measured beside what every evaluation has.

    checkpoint: `last`, or a file in its folder, with or without `.pt`. features: see
    :func:`tcl_train.build_evaluation.build_evaluation`. untrained: whether an untrained encoder is
    measured, too.
    """

    checkpoint: str = "last"
    features: str = "encoder"
    untrained: bool = True
    further: tuple[FurtherMeasure, ...] = ()


def evaluate_again(
    config: DictConfig, run_dir: RunDir, wanted: Wanted | None = None
) -> dict[str, Any]:
    """Evaluates the encoder in `run_dir` as the config says, writes the measures to
    `evaluations/` and returns them.

    Raises:
        RequestError: no checkpoint, no labels, or a wrong value.
    """
    wanted = wanted or Wanted()
    checkpoint = _checkpoint(run_dir, wanted.checkpoint)
    evaluation = build_evaluation(
        config,
        checkpoint,
        features=wanted.features,
        untrained=wanted.untrained,
        further=wanted.further,
        validation_seed=run_dir.read_config(trust=None).seed,
    )
    make_folder("run", run_dir.evaluations)  # before anything is computed
    measured = evaluation.evaluator.measure(evaluation.encoder)
    names = config.names
    result = {
        **measured.values,
        **about_data(names.dataset, evaluation.data),
        "image_size": evaluation.data.image_size,
        "encoder_image_size": evaluation.trained_size,
        "features": wanted.features,
        "checkpoint": checkpoint.name,
        "step": evaluation.step,
        **about_machine(evaluation.evaluator.runtime, git_commit()),
    }
    parts = [names.dataset, names.probe]
    parts += [wanted.features] if wanted.features != "encoder" else []
    parts += [checkpoint.stem] if wanted.checkpoint != "last" else []
    path = free_name(run_dir.evaluations / f"{'-'.join(parts)}.json")
    _write(path, result, measured)
    log.info("%s in %s", _summary(result), path)
    return result


def evaluate_encoder(config: DictConfig, out: str | None, wanted: Wanted) -> dict[str, Any]:
    """Evaluates the encoder that the config builds, writes `result.json` to the folder `out` and
    returns what it holds. None: a new folder below `outputs/`.

    Raises:
        RequestError: a result is there already, there are no labels, or a value is wrong.
    """
    folder = RunDir(free_name(OUTPUTS / f"{config.names.dataset}-{config.names.encoder}"))
    if out is not None:
        folder = RunDir(out)
        if folder.started or folder.finished:
            raise RequestError(f"out={folder}: already contains a result; give another folder")
        if folder.path.exists() and not folder.path.is_dir():
            raise RequestError(f"out={folder}: is a file; give a folder")
    evaluation = build_evaluation(config, None, untrained=wanted.untrained, further=wanted.further)
    make_folder("out", folder.path)  # before anything is computed
    measured = evaluation.evaluator.measure(evaluation.encoder)
    result = {**measured.values, **_about_encoder(evaluation)}
    folder.claim(config)
    _write(folder.result, result, measured, folder.predictions)
    log.info("%s in %s", _summary(result), folder)
    return result


def _about_encoder(evaluation: Evaluation) -> dict[str, Any]:
    """What a run's result says of the run, as far as it is true of an encoder that none trained."""
    config = evaluation.config
    return {
        **about_data(config.names.dataset, evaluation.data),
        "image_size": evaluation.data.image_size,
        "loss": {"name": "none"},
        "method": {"name": "none"},
        "encoder": encoder_name(config),
        "encoder_parameters": encoder_parameters(config),
        "epochs": 0,
        "steps": 0,
        "seed": config.seed,
        **about_machine(evaluation.evaluator.runtime, git_commit()),
        "overrides": OmegaConf.to_object(config.overrides),
    }


def _checkpoint(run_dir: RunDir, name: str) -> Path:
    """Raises RequestError, which names what there is, where the run has no such checkpoint."""
    path = run_dir.checkpoints / (name if name.endswith(".pt") else f"{name}.pt")
    if path.parent != run_dir.checkpoints:
        raise RequestError(f"checkpoint={name}: give the name of a file in {run_dir.checkpoints}")
    if name != "last" and not path.is_file():
        there = sorted(file.name for file in run_dir.checkpoints.glob("*.pt"))
        raise RequestError(
            f"checkpoint={name}: {run_dir} has no such checkpoint; there are "
            f"{few(there) or 'none'} (checkpoint.keep=all keeps all while a run is trained)"
        )
    return path


def _write(path: Path, result: dict[str, Any], measured: Measured, npz: Path | None = None) -> None:
    """The result, and beside it the predictions."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if measured.predictions is not None:
            measured.predictions.save(npz or path.with_suffix(".npz"))
        write_json(path, result)
    except OSError as error:
        raise RequestError(f"{path}: cannot be written ({error.strerror})") from error


def _summary(result: Mapping[str, Any]) -> str:
    how = f"{how_scored(result)}, {result['dataset']}"
    text = f"top-1 {result['top1']:.2f} % ({how}; kNN {result['knn_top1']:.2f} %"
    if result["random_encoder_top1"] is not None:
        text += f"; untrained encoder {result['random_encoder_top1']:.2f} %"
    for amount, found in result.get("few_labels", {}).items():
        text += f"; few labels, {amount}: {found['top1']:.2f} %"
    if "corruption" in result:
        text += f"; corrupted {result['corruption']['mean_top1']:.2f} %"
    return f"{text})"


def table_of(results: Mapping[str, Mapping[str, Any]]) -> str:
    """A line for each run, with its main measures, in columns."""
    rows = []
    for run, result in results.items():
        row = {
            "run": run,
            "dataset": result["dataset"],
            "top-1": result["top1"],
            "kNN": result["knn_top1"],
            "untrained": result["random_encoder_top1"],
            "ECE": result["calibration_error"],
        }
        few_labels = result.get("few_labels", {})
        row |= {f"few {amount}": found["top1"] for amount, found in few_labels.items()}
        if "corruption" in result:
            row["corrupted"] = result["corruption"]["mean_top1"]
        rows.append({name: _cell(value) for name, value in row.items() if value is not None})
    columns = list(dict.fromkeys(name for row in rows for name in row))
    lines = [columns, *([row.get(name, "-") for name in columns] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(
            text.ljust(width) if i < 2 else text.rjust(width)
            for i, (text, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def _cell(value: Any) -> str:
    return f"{value:.2f}" if isinstance(value, float) else str(value)
