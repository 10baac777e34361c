"""`tcl-eval`: evaluate the encoder of a run again, on its own or on another data set."""

from __future__ import annotations

import logging
from typing import Any

from omegaconf import DictConfig

from tcl_train.build import build_evaluation
from tcl_train.commands.result import about_data
from tcl_train.errors import RequestError
from tcl_train.run.directory import RunDir
from tcl_train.runtime.files import free_name, write_json

log = logging.getLogger(__name__)


def evaluate_again(config: DictConfig, run_dir: RunDir) -> dict[str, Any]:
    """Probes the frozen encoder in `run_dir` as the config says, writes the measures to
    `evaluations/` and returns them.

    Raises:
        RequestError: no checkpoint, no labels, or a wrong value.
    """
    evaluation = build_evaluation(config, run_dir.last_checkpoint)
    data, names = evaluation.data, config.names
    measures = evaluation.evaluator.measure(evaluation.encoder)
    result = {
        **measures,
        **about_data(names.dataset, data),
        "step": evaluation.step,
    }
    path = free_name(run_dir.path / "evaluations" / f"{names.dataset}-{names.probe}.json")
    try:
        path.parent.mkdir(exist_ok=True)
        write_json(path, result)
    except OSError as error:
        raise RequestError(f"{path}: cannot be written ({error.strerror})") from error
    log.info(
        "top-1 %.2f %% (linear probe of frozen features, %s; kNN %.2f %%; untrained encoder "
        "%.2f %%) in %s",
        result["top1"],
        names.dataset,
        result["knn_top1"],
        result["random_encoder_top1"],
        path,
    )
    return result
