"""`tcl-train`: build, pretrain, evaluate, write the result."""

from __future__ import annotations

import json
import logging
import signal
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from itertools import groupby
from time import perf_counter
from typing import Any

from omegaconf import DictConfig

from tcl_train.building.run import Run, build_run
from tcl_train.commands.result import assemble_result, encoder_name, summary_line
from tcl_train.commands.show import hyperparameters, show_result, show_start
from tcl_train.data.dataset import difference
from tcl_train.engine.fit import Trainer
from tcl_train.engine.profile import Profile, StepProfile
from tcl_train.errors import Interrupted, RequestError, TrainingError, signum_of
from tcl_train.evaluation.evaluate import Measured, classifier_top1
from tcl_train.run.board import EVAL
from tcl_train.run.checkpoint import Checkpoints, UnwrittenCheckpoints
from tcl_train.run.directory import RunDir
from tcl_train.run.logs import held_messages, log_to_file
from tcl_train.run.sink import Sink, UnwrittenSink
from tcl_train.runtime.code_version import git_commit
from tcl_train.runtime.device import reproducible
from tcl_train.runtime.files import write_json
from tcl_train.runtime.processes import ALONE, Processes
from tcl_train.runtime.signals import Signals, stop_if_interrupted

log = logging.getLogger(__name__)


def train(
    config: DictConfig,
    run_dir: RunDir,
    *,
    resume: bool,
    extends: bool = False,
    processes: Processes = ALONE,
) -> dict[str, Any]:
    """Carries out a run and returns what `result.json` holds. With `extends` the run that is
    resumed had fewer epochs.

    Everything that may be wrong with the request is found before the run directory is made. Of
    several processes the first one writes.

    Raises:
        RequestError, TrainingError, Interrupted: see tcl_train/errors.py.
    """
    begin = perf_counter()
    commit = git_commit()  # now, since the checkout may change during the run
    with held_messages() as held:
        resume_from = run_dir.checkpoints if resume else None
        run = build_run(config, resume_from=resume_from, processes=processes)
        trainer, settings = run.trainer, run.settings
        earlier_seconds = trainer.meter.seconds
        _check_same_data(trainer, processes)
        stop_if_interrupted()
        processes.wait_for_all("built")  # before anything is written
        with processes.first_alone("claim"):
            if not resume and processes.is_first:
                run_dir.claim(config)
            elif extends and processes.is_first:
                run_dir.extend(config)
        with (
            run_dir.held() if processes.is_first else nullcontext(),
            _failures_explained(run_dir),
            reproducible(trainer.runtime.device, wanted=settings.deterministic),
            log_to_file(run_dir, held) if processes.is_first else nullcontext(),
            processes.failing_together(),
            Sink(run_dir, first_step=trainer.step, hyperparameters=hyperparameters(config))
            if processes.is_first
            else UnwrittenSink() as sink,
        ):
            _log_plan(run)
            if sink.board.is_new:  # a resumed run has its pictures
                show_start(run, sink.board)
            profile = StepProfile(run_dir.path / "profile") if settings.profile else Profile()
            agree = None if processes.count == 1 else processes.largest
            kind = Checkpoints if processes.is_first else UnwrittenCheckpoints
            checkpoints = kind(run_dir.checkpoints, **settings.checkpoint, largest=agree)
            signals = Signals(agree)
            trainer.fit(sink, checkpoints, signals, profile)
            measures, predictions = _measure(run)
            numbers = {EVAL + k: v for k, v in measures.items() if isinstance(v, float)}
            sink.write(trainer.step, settings.epochs - 1, numbers)
            wall_seconds = earlier_seconds + perf_counter() - begin
            result = assemble_result(run, measures, wall_seconds=wall_seconds, commit=commit)
            with processes.first_alone("result"):
                if processes.is_first:
                    if predictions is not None:
                        predictions.save(run_dir.predictions)
                    show_result(result, predictions, sink.board, run_dir)
                    write_json(run_dir.result, result)
                    checkpoints.finish()
            log.info("%s", summary_line(result, run_dir))
    return result


def _check_same_data(trainer: Trainer, processes: Processes) -> None:
    """Each machine may have its own copy of the data."""
    own = trainer.about["data"]
    first = json.loads(processes.from_first("data", json.dumps(own)))
    changed = difference(first, own, at_one="in the first process", at_other="here")
    if changed:
        raise RequestError(
            f"the data are not those of the first process: {changed}; give all machines the same"
        )


def _log_plan(run: Run) -> None:
    trainer, names = run.trainer, run.config.names
    log.info(
        "%s: %d images, %d classes; %s, loss %s, %d epochs of %d steps of %d images x %d views",
        names.dataset,
        len(run.data.pretrain),
        len(run.data.classes),
        encoder_name(run.config),
        trainer.method.get_submodule("loss"),
        trainer.epochs,
        trainer.loader.steps_per_epoch,
        trainer.loader.batch_size,
        trainer.views.count,
    )
    for group in trainer.views.groups:
        sizes = [group.size(epoch) for epoch in range(trainer.epochs)]
        if any(sizes):
            runs = [(size, len(list(same))) for size, same in groupby(sizes)]
            planned = ", then ".join(f"{size} x {size} pixels (epochs: {n})" for size, n in runs)
            log.info("%d %s of %s", group.count, group.title, planned)
    if trainer.step:
        log.info("resuming at step %d of %d", trainer.step, trainer.total_steps)


def _measure(run: Run) -> Measured:
    trainer = run.trainer
    measured = run.evaluator.measure(trainer.method.encoder)
    own_top1 = classifier_top1(
        trainer.method, run.data, run.evaluator.augment.normalize, trainer.runtime
    )
    if own_top1 is not None:
        measured.values["classifier_top1"] = own_top1
    return measured


@contextmanager
def _failures_explained(run_dir: RunDir) -> Iterator[None]:
    """From here on, a run that is stopped or fails can be resumed."""
    resumable = run_dir.path
    try:
        yield
    except TrainingError as error:
        error.resumable = resumable
        raise
    except RequestError as error:  # too late to refuse the request: an image turns out damaged
        raise TrainingError(str(error), resumable=resumable).agreed_as(error) from error
    except (Interrupted, KeyboardInterrupt) as error:
        signum = signum_of(error)
        name = signal.Signals(signum).name
        said = f"interrupted by {name}"
        raise Interrupted(signum, said, resumable=resumable).agreed_as(error) from error
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        raise TrainingError(
            f"{where}{error.strerror or error}; the traceback is in {run_dir.log}",
            resumable=resumable,
        ) from error
    except Exception as error:
        first = (str(error).splitlines() or [""])[0]
        raise TrainingError(
            f"{type(error).__name__}: {first}; the traceback is in {run_dir.log}",
            resumable=resumable,
        ) from error
