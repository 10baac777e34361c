"""Everything that a training run works with: `tcl-train` calls one function of this module,

    run = build_run(config)

For other commands see tcl_train/build_evaluation.py and tcl_train/restore.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from omegaconf import DictConfig
from torch import nn

from tcl_train.building.nodes import all_parts, as_request_error
from tcl_train.building.parts import (
    IMAGENET,
    Weights,
    build_augment,
    build_data,
    build_encoder,
    build_initial_encoder,
    build_loss,
    build_method,
    build_optimizer,
    build_probe,
    build_schedule,
    build_views,
    normalize_of,
    read_initial_weights,
)
from tcl_train.building.settings import (
    Settings,
    check_sampling,
    method_class,
    read_settings,
    sampler_of,
)
from tcl_train.data.augment.pipeline import COMPILE_OPTIONS
from tcl_train.data.dataset import NO_LABEL, DataSet, Split, difference
from tcl_train.data.gpu_decode import check_gpu_decoding
from tcl_train.data.loader import Loader, cut_where_read
from tcl_train.data.order import Order, build_order
from tcl_train.data.shares import Shares
from tcl_train.data.views import ViewGroup, ViewPlan
from tcl_train.engine.fit import Trainer, Watching, unwatched
from tcl_train.engine.gradients import Gradients
from tcl_train.engine.nonfinite import NonFinite
from tcl_train.engine.optimizers import compile_rule
from tcl_train.errors import RequestError
from tcl_train.evaluation.evaluate import Evaluator
from tcl_train.evaluation.knn import KNN
from tcl_train.evaluation.monitor import Monitor
from tcl_train.run import checkpoint
from tcl_train.runtime.batch_norm import use_global_statistics
from tcl_train.runtime.device import Runtime
from tcl_train.runtime.processes import ALONE, Processes
from tcl_train.runtime.randomness import generator


@dataclass(frozen=True, kw_only=True)
class Run:
    """All parts of a training run."""

    config: DictConfig
    settings: Settings
    data: DataSet
    trainer: Trainer
    evaluator: Evaluator


def build_run(
    config: DictConfig,
    *,
    resume_from: Path | None = None,
    data: DataSet | None = None,
    processes: Processes = ALONE,
) -> Run:
    """Everything that pretraining and its evaluation need.

    Args:
        config: a composed config.
        resume_from: the folder of this run's checkpoints, where it continues from the newest whole
            one, or at step 0 where there is none; None: at step 0.
        data: trains on this instead of the config's data set.
        processes: those that train together.

    Raises:
        RequestError: a value is out of range, the parts do not fit together, data are missing, or
            the checkpoint belongs to another run.
    """
    settings, _, loss, probe, _ = all_parts(  # what is wrong with them, before data are read
        partial(read_settings, config),
        partial(check_sampling, config),
        partial(build_loss, config),
        partial(build_probe, config),
        partial(build_schedule, config),
    )
    found = None
    if resume_from is not None:
        found = checkpoint.load_newest(resume_from, needed=Trainer.PARTS)
    path, state = (None, None) if found is None else found
    weights = read_initial_weights(config) if state is None else None  # the checkpoint has them all
    runtime = Runtime(
        device=settings.device,
        precision=settings.precision if state is None else state["runtime"]["precision"],
        compile=settings.compile,
        processes=processes,
    )
    if config.data.get("decode") == "gpu":
        check_gpu_decoding(runtime.device)
    if data is None:
        with processes.first_of_machine_alone("data"):  # it downloads, and fills the cache
            data = build_data(
                config, supervised=settings.supervised, local_processes=processes.local_count
            )
    data = with_validation(data, settings)
    _check_every_image_has_a_label(config, settings, data)
    with as_request_error(""):
        data = data.with_labels_of(settings.labelled, generator(settings.seed, "labelled"))
    trainer = _build_trainer(
        config, settings, loss=loss, data=data, runtime=runtime, weights=weights
    )
    if state is not None:
        _check_same_data(state, trainer)
        _restore(trainer, state, path)
    # Untrained is untrained: without what encoder.weights gives.
    make_untrained = partial(build_encoder, config, image_size=data.image_size)
    evaluator = Evaluator(
        data=data,
        probe=probe,
        augment=build_augment(config, data),
        runtime=runtime,
        make_untrained=make_untrained if settings.random_encoder_baseline else None,
        seed=settings.seed,
        batch_size=settings.batch_size,
        mirror_features=settings.mirror_features,
        knn=KNN(**settings.knn),
    )
    return Run(config=config, settings=settings, data=data, trainer=trainer, evaluator=evaluator)


def _check_every_image_has_a_label(config: DictConfig, settings: Settings, data: DataSet) -> None:
    """Where the request needs one."""
    labels_N = data.pretrain.labels_N
    if not settings.supervised or labels_N is None:  # no label is read
        return
    missing = int(labels_N.eq(NO_LABEL).sum())
    if not missing:
        return
    sampler, _ = sampler_of(config)
    if method_class(config).needs_labels:
        who = f"method={config.names.method}"
    elif sampler != "shuffle":
        who = f"data.sampler={sampler}"
    else:
        return
    raise RequestError(
        f"{who} needs a label for each image, and {missing:,} of {len(data.pretrain):,} have none; "
        "leave them out (dataset.unlabelled=false), or give method=contrastive and "
        "data.sampler=shuffle"
    )


def with_validation(data: DataSet, settings: Settings, seed: int | None = None) -> DataSet:
    """seed: by which images are kept out; None: that of the settings."""
    with as_request_error(""):
        g = generator(settings.seed if seed is None else seed, "validation")
        return data.with_validation(settings.validation, g)


def _build_trainer(
    config: DictConfig,
    settings: Settings,
    *,
    loss: nn.Module,
    data: DataSet,
    runtime: Runtime,
    weights: Weights,
) -> Trainer:
    """All that pretraining needs, at step 0."""
    cut, groups = cut_where_read(build_views(config, settings, data), data.pretrain)
    shares = Shares(settings.batch_size, settings.chunk_size, runtime.processes)
    loader = Loader(
        data.pretrain,
        batch_size=settings.batch_size,
        supervised=settings.supervised,
        seed=settings.seed,
        device=runtime.device,
        cut=cut,
        places=shares.places(),
        order=_epoch_order(config, settings, data.pretrain),
    )
    downloads = weights == IMAGENET
    with runtime.processes.first_of_machine_alone("weights") if downloads else nullcontext():
        encoder = build_initial_encoder(config, image_size=data.image_size, weights=weights)
    method = build_method(config, encoder=encoder, loss=loss, num_classes=len(data.classes))
    chunks = len(shares.chunks())
    runtime.compilation.decide(
        passes=settings.epochs * loader.steps_per_epoch * chunks,
        sizes=_view_sizes(groups, settings),
        chunks=chunks,
    )
    runtime.prepare(method)
    use_global_statistics(method, runtime.processes)
    optimizer = build_optimizer(config, method)
    compile_rule(optimizer, runtime.compiled)
    return Trainer(
        method=method,
        loader=loader,
        views=ViewPlan(
            groups,
            seed=settings.seed,
            compiled=partial(runtime.compiled, options=COMPILE_OPTIONS),
        ),
        gradients=Gradients(runtime, shares, seed=settings.seed),
        optimizer=optimizer,
        schedule=build_schedule(config),
        runtime=runtime,
        epochs=settings.epochs,
        lr=settings.lr,
        log_every=settings.log_every,
        on_collapse=settings.on_collapse,
        nonfinite=NonFinite(settings.on_nonfinite, settings.nonfinite_limit),
        monitor=_build_monitor(settings, data, runtime),
        about={
            "image_size": data.image_size,
            "mean": list(data.mean),
            "std": list(data.std),
            "classes": list(data.classes),
            "data": data.fingerprint(),
        },
    )


def _view_sizes(groups: Sequence[ViewGroup], settings: Settings) -> int:
    """How many sizes of views the encoder sees."""
    return len({group.side(epoch) for group in groups for epoch in range(settings.epochs)})


def _build_monitor(settings: Settings, data: DataSet, runtime: Runtime) -> Watching:
    if settings.monitor is None:
        return unwatched
    return Monitor(
        data=data,
        normalize=normalize_of(data),
        runtime=runtime,
        seed=settings.seed,
        every=settings.monitor_every,
    )


def _epoch_order(config: DictConfig, settings: Settings, split: Split) -> Order:
    name, per_class = sampler_of(config)
    with as_request_error(""):
        return build_order(
            name,
            images_per_class=per_class,
            count=len(split),
            labels_N=split.labels_N if settings.supervised else None,
        )


def _check_same_data(state: dict[str, Any], trainer: Trainer) -> None:
    before = state["about"].get("data")  # which runs of earlier versions do not store
    changed = before and difference(before, trainer.about["data"])
    if changed:
        raise RequestError(
            f"the data are not those that the run was started with: {changed}; restore them, or "
            "start another run"
        )


def _restore(trainer: Trainer, state: dict[str, Any], path: Path | None) -> None:
    try:
        trainer.load_state_dict(state)
    except (RuntimeError, KeyError, ValueError) as error:
        raise RequestError(
            f"{path}: does not fit this run's config ({str(error).splitlines()[0]})"
        ) from error
