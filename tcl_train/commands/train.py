"""One run: build, pretrain, evaluate, write the result."""

from __future__ import annotations

import json
import logging
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import groupby
from logging.handlers import MemoryHandler
from time import perf_counter
from typing import Any

import torch
import torch.nn.functional as F
from omegaconf import DictConfig
from torch import nn

from tcl_train import build as configs
from tcl_train.build import Settings
from tcl_train.cli.overrides import typed
from tcl_train.commands.result import assemble_result, git_commit, summary
from tcl_train.data.dataset import DataSet
from tcl_train.data.loader import Loader
from tcl_train.engine.fit import Trainer
from tcl_train.engine.profile import Profile, StepProfile
from tcl_train.engine.schedule import by_epoch
from tcl_train.errors import Interrupted, RequestError, TrainingError
from tcl_train.evaluation.evaluate import classifier_top1, evaluate
from tcl_train.evaluation.probe import Probe
from tcl_train.run import checkpoint
from tcl_train.run.checkpoint import Checkpoints, write_atomically
from tcl_train.run.directory import RunDir
from tcl_train.run.sink import EVAL, Sink, hold_messages, log_to_file
from tcl_train.runtime.device import Runtime, Signals
from tcl_train.runtime.randomness import generator

log = logging.getLogger(__name__)


def train(config: DictConfig, run_dir: RunDir, *, resume: bool) -> dict[str, Any]:
    """Carries out a run and returns what `result.json` holds.

    Everything that may be wrong with the request is found before the run directory is made.

    Raises:
        RequestError, TrainingError, Interrupted: see tcl_train/errors.py.
    """
    held = hold_messages()
    try:
        return _train(config, run_dir, held, resume=resume)
    finally:
        logging.getLogger("tcl_train").removeHandler(held)


def _train(
    config: DictConfig, run_dir: RunDir, held: MemoryHandler, *, resume: bool
) -> dict[str, Any]:
    begin = perf_counter()
    commit = git_commit()  # now, since the checkout may change while the run goes on
    settings = configs.read_settings(config)
    loss = configs.build_loss(config)
    probe = configs.build_probe(config)
    checkpoints = Checkpoints(run_dir.checkpoints, **settings.checkpoint)
    state = None
    if resume and checkpoints.last.exists():
        state = checkpoint.load(checkpoints.last, needed=Trainer.PARTS)
    runtime = Runtime(
        device=settings.device,
        precision=settings.precision if state is None else state["runtime"]["precision"],
        compile=settings.compile,
    )
    data = configs.build_data(config, supervised=settings.supervised)
    trainer = build_trainer(config, settings, loss=loss, data=data, runtime=runtime)
    if state is not None:
        _restore(trainer, state, checkpoints)
    earlier_seconds = trainer.meter.seconds
    if not resume:
        run_dir.claim(config)

    with _logged(run_dir, held), Sink(run_dir, first_step=trainer.step) as sink:
        _say_plan(config, trainer, data)
        if sink.is_new:  # a run that goes on has its picture
            show_views(trainer, sink)
        profile = StepProfile(run_dir.path / "profile") if settings.profile else Profile()
        trainer.fit(sink, checkpoints, Signals(), profile)
        measures = _measure(config, settings, trainer, data, probe)
        numbers = {EVAL + k: v for k, v in measures.items() if isinstance(v, float)}
        sink.write(trainer.step, settings.epochs - 1, numbers)
        wall_seconds = earlier_seconds + perf_counter() - begin
        result = assemble_result(
            config, settings, data, trainer, measures, wall_seconds=wall_seconds, commit=commit
        )
        text = json.dumps(result, indent=2) + "\n"
        write_atomically(run_dir.result, lambda path: path.write_text(text, encoding="utf-8"))
        log.info("%s", summary(result, run_dir))
    return result


def build_trainer(
    config: DictConfig,
    settings: Settings,
    *,
    loss: nn.Module,
    data: DataSet,
    runtime: Runtime,
) -> Trainer:
    """All that pretraining needs, at step 0."""
    loader = Loader(
        data.pretrain,
        batch_size=settings.batch_size,
        supervised=settings.supervised,
        seed=settings.seed,
        device=runtime.device,
    )
    encoder = configs.build_encoder(config, image_size=data.image_size)
    method = configs.build_method(config, encoder=encoder, loss=loss, num_classes=len(data.classes))
    runtime.prepare(method, encoder)
    view_size = by_epoch("view_size", settings.view_size)
    view_sizes = {view_size(epoch) for epoch in range(settings.epochs)}
    return Trainer(
        method=method,
        loader=loader,
        augment=configs.build_augment(config, data, view_sizes=view_sizes),
        optimizer=configs.build_optimizer(config, method),
        schedule=configs.build_schedule(config),
        runtime=runtime,
        seed=settings.seed,
        epochs=settings.epochs,
        views=settings.views,
        view_size=view_size,
        lr=settings.lr,
        log_every=settings.log_every,
        about={
            "image_size": data.image_size,
            "mean": list(data.mean),
            "std": list(data.std),
            "classes": list(data.classes),
        },
    )


PICTURED = 8  # images


def show_views(trainer: Trainer, sink: Sink) -> None:
    """The first images with views of them, as encoders see them, in TensorBoard: a row an image,
    a column a view. The views are drawn for the picture."""
    images_BCHW = trainer.loader.first_images(PICTURED)
    draw = generator(trainer.seed, "picture")
    views_NCSS = trainer.augment(images_BCHW, views=trainer.views, generator=draw)
    looks_NCSS = F.pad(trainer.augment.normalize.undo(views_NCSS), [1] * 4).cpu()
    columns = [torch.cat(view.unbind(), 1) for view in looks_NCSS.chunk(trainer.views)]
    sink.picture(trainer.step, "views", torch.cat(columns, 2))


def _restore(trainer: Trainer, state: dict[str, Any], checkpoints: Checkpoints) -> None:
    try:
        trainer.load_state_dict(state)
    except (RuntimeError, KeyError, ValueError) as error:
        raise RequestError(
            f"{checkpoints.last}: does not fit this run's config ({str(error).splitlines()[0]})"
        ) from error


def _say_plan(config: DictConfig, trainer: Trainer, data: DataSet) -> None:
    log.info(
        "%s: %d images, %d classes; %s, loss %s, %d epochs of %d steps of %d images x %d views",
        config.names.dataset,
        len(data.pretrain),
        len(data.classes),
        config.names.encoder,
        trainer.method.get_submodule("loss"),
        trainer.epochs,
        trainer.loader.steps_per_epoch,
        trainer.loader.batch_size,
        trainer.views,
    )
    sizes = [trainer.view_size(epoch) for epoch in range(trainer.epochs)]
    if any(sizes):
        runs = [(size, len(list(same))) for size, same in groupby(sizes)]
        said = ", then ".join(f"{size} x {size} pixels (epochs: {n})" for size, n in runs)
        log.info("views of %s", said)
    if trainer.step:
        log.info("going on from step %d of %d", trainer.step, trainer.total_steps)


def _measure(
    config: DictConfig, settings: Settings, trainer: Trainer, data: DataSet, probe: Probe
) -> dict[str, Any]:
    untrained = None
    if settings.random_encoder_baseline:
        untrained = configs.build_encoder(config, image_size=data.image_size)
    measures = evaluate(
        trainer.method.encoder,
        untrained,
        data,
        probe,
        augment=trainer.augment,
        runtime=trainer.runtime,
        seed=settings.seed,
        batch_size=settings.batch_size,
        mirror_features=settings.mirror_features,
    )
    own_top1 = classifier_top1(trainer.method, data, trainer.augment.normalize, trainer.runtime)
    return measures if own_top1 is None else {**measures, "classifier_top1": own_top1}


@contextmanager
def _logged(run_dir: RunDir, held: MemoryHandler) -> Iterator[None]:
    """Messages go to train.log too, and so do tracebacks, which the terminal does not see."""
    go_on = f"go on by: tcl-train {typed('resume', run_dir)}"
    handler = log_to_file(run_dir, held)
    try:
        yield
    except TrainingError as error:
        handler.handle(_traceback_record(error))
        raise
    except RequestError as error:  # too late to refuse the request: an image turns out damaged
        handler.handle(_traceback_record(error))
        raise TrainingError(f"{error}; {go_on}") from error
    except (Interrupted, KeyboardInterrupt) as error:
        signum = error.signum if isinstance(error, Interrupted) else signal.SIGINT
        name = signal.Signals(signum).name
        raise Interrupted(signum, f"interrupted by {name}; {go_on}") from error
    except Exception as error:
        handler.handle(_traceback_record(error))
        first = (str(error).splitlines() or [""])[0]
        raise TrainingError(
            f"{type(error).__name__}: {first}; the traceback is in {run_dir.log}; {go_on}"
        ) from error
    finally:
        logging.getLogger("tcl_train").removeHandler(handler)
        handler.close()


def _traceback_record(error: BaseException) -> logging.LogRecord:
    info = (type(error), error, error.__traceback__)
    return logging.LogRecord(__name__, logging.ERROR, __file__, 0, "failed", None, info)
