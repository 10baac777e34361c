"""Sweeps: `tcl-train -m loss=ce,tcl seed=1,2`.

The jobs are all combinations of the values, those that an experiment brings included
(hydra.sweeper.params); any Hydra launcher may start them. Each job is the very
command that a user would type for it, in a separate process, so that jobs share nothing and a job
that fails or is killed takes no other with it. `sweep.csv` is brought up to date after each.

A job is known by its overrides, in any order: a sweep that is run again with the same
hydra.sweep.dir skips what is finished and resumes what was interrupted, also when it has more
values than before. Directories are named `NUMBER_LABEL`, always directly below the sweep's.
"""

from __future__ import annotations

import csv
import io
import itertools
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from types import FrameType
from typing import Any

from filelock import FileLock
from hydra.core.config_loader import ConfigLoader
from hydra.core.hydra_config import HydraConfig
from hydra.core.object_type import ObjectType
from hydra.core.override_parser.types import Override
from hydra.core.plugins import Plugins
from hydra.types import HydraContext, RunMode
from hydra.utils import instantiate
from omegaconf import DictConfig

from tcl_train.cli.choices import CONFIG_NAME
from tcl_train.cli.compose import compose_run, folder_of_hydra, hydra_initialized
from tcl_train.cli.explain import COMPOSING_ERRORS, explain, options
from tcl_train.cli.overrides import (
    SEARCHPATH,
    parse_overrides,
    quote_overrides,
    quoted,
    searchpath_override,
    shell_word,
)
from tcl_train.cli.search import Search, check_scored, is_search
from tcl_train.errors import Interrupted, RequestError
from tcl_train.run.directory import RunDir
from tcl_train.runtime.files import write_text
from tcl_train.runtime.signals import STOPPING, handled

RESULT_COLUMNS = (
    *("top1", "top5", "val_top1", "knn_top1", "random_encoder_top1", "images_per_second"),
)
LAST_COLUMNS = ("status", *RESULT_COLUMNS, "wall_seconds", "dir")
EXPERIMENT = "experiment"
TABLE = "sweep.csv"
INTERRUPTED = tuple(128 + signum for signum in STOPPING)
STATUS = {0: "finished", 1: "failed", 2: "bad request", **dict.fromkeys(INTERRUPTED, "interrupted")}
LONGEST_LABEL = 60


def run_sweep(overrides: Sequence[str]) -> int:
    """Checks every job of a sweep, then has them run; returns the first exit status that is not 0.

    Raises:
        RequestError: an override of any job cannot be carried out; nothing has started.
        Interrupted: the sweep was stopped; what is running was waited for.
    """
    overrides = quote_overrides(overrides)
    with hydra_initialized() as loader:
        given = parse_overrides(overrides, config_loader=_AllChoices(loader, overrides))
        search = is_search(given)
        if not search:
            _check_sweepable(given)
        sweeps = with_values_of_experiments(loader, given)
        if search:
            return _run_search(sweeps[0] if len(sweeps) == 1 else given)
        jobs = [job for words in sweeps for job in expand(words)]
    searchpath = [o.input_line or "" for o in given if o.key_or_group == SEARCHPATH]
    for job in jobs:
        compose_run([*searchpath, *job])
    with hydra_initialized() as loader:
        _check_installed(given, loader)
        fixed = [o.input_line or "" for o in given if not o.is_sweep_override()]
        config = _config_of_sweep(loader, fixed)
        HydraConfig.instance().set_config(config)
        sweep_dir = Path(folder_of_hydra(config, "hydra.sweep.dir")).expanduser()
        words = itertools.chain(given, *sweeps)
        varied = [o.get_key_element() for o in words if o.is_sweep_override()]
        directories = assign_directories(sweep_dir, jobs, varied)
        launched = [
            [
                *job,
                f"hydra.sweep.dir={quoted(sweep_dir)}",
                f"hydra.sweep.subdir={quoted(directory)}",
            ]
            for job, directory in zip(jobs, directories, strict=True)
        ]
        launcher = Plugins.instance().instantiate_launcher(
            HydraContext(config_loader=loader, callbacks=_Callbacks(config)),  # type: ignore[arg-type]
            run_job_of_launcher,
            config,
        )
        statuses: list[int] = []
        at_a_time = _jobs_at_a_time(config, len(jobs))
        for start in range(0, len(jobs), at_a_time):
            batch = launched[start : start + at_a_time]
            returned = launcher.launch(batch, initial_job_idx=start)
            statuses += [job.return_value for job in returned]
            _stop_if_interrupted(statuses, sweep_dir)
    return next((status for status in statuses if status), 0)


def _run_search(parsed: Sequence[Override]) -> int:
    """Has Optuna choose the jobs, one after the other."""
    search = Search(parsed)
    searchpath = [o.input_line or "" for o in parsed if o.key_or_group == SEARCHPATH]
    config = compose_run([*searchpath, *search.example()]).config
    check_scored(config)
    place = [
        o.input_line or "" for o in parsed if o.key_or_group in ("hydra.sweep.dir", SEARCHPATH)
    ]
    with hydra_initialized() as loader:
        whole = _config_of_sweep(loader, place)
        HydraConfig.instance().set_config(whole)
        sweep_dir = Path(folder_of_hydra(whole, "hydra.sweep.dir")).expanduser()

    def start(words: list[str], number: int) -> tuple[int, Path]:
        job_dir = sweep_dir / f"{number}_{_label(words, list(search.space))}".rstrip("_")
        folders = list(HydraConfig.get().searchpath)
        return run_job(words, job_dir, sweep_dir, searchpath=folders), job_dir

    status = search.run(sweep_dir, start, seed=config.seed)
    _stop_if_interrupted([status], sweep_dir)
    return status


def _config_of_sweep(loader: ConfigLoader, words: list[str]) -> DictConfig:
    """What the jobs share, with Hydra's own node."""
    try:
        return loader.load_configuration(CONFIG_NAME, words, run_mode=RunMode.MULTIRUN)
    except COMPOSING_ERRORS as error:
        raise RequestError(explain(parse_overrides(words), error)) from error


def _stop_if_interrupted(statuses: Iterable[int], sweep_dir: Path) -> None:
    for status in statuses:
        if status in INTERRUPTED:
            again = shell_word("hydra.sweep.dir", sweep_dir)
            message = f"sweep interrupted; to continue, run the same sweep again with {again}"
            raise Interrupted(status - 128, message)


class _AllChoices:
    """Whom Hydra's parser asks for the choices of `loss=glob(*)`: those of a hydra.searchpath too,
    which Hydra itself leaves out there."""

    def __init__(self, loader: ConfigLoader, overrides: Iterable[str]) -> None:
        self.loader = loader
        self.searchpath = [o for o in overrides if o.startswith(f"{SEARCHPATH}=")]

    def get_group_options(self, group: str, results_filter: ObjectType | None) -> list[str]:
        return options(self.loader, group, results_filter, searchpath=self.searchpath)


class _Callbacks:
    """Those of hydra.callbacks, which a launcher calls around each job."""

    def __init__(self, config: DictConfig) -> None:
        self.callbacks = [instantiate(node) for node in config.hydra.callbacks.values()]

    def on_job_start(self, config: DictConfig, **keys: Any) -> None:
        for callback in self.callbacks:
            callback.on_job_start(config=config, **keys)

    def on_job_end(self, config: DictConfig, **keys: Any) -> None:
        for callback in self.callbacks:
            callback.on_job_end(config=config, **keys)


def _check_sweepable(parsed: Iterable[Override]) -> None:
    for override in parsed:
        typed, key = override.input_line, override.key_or_group
        if override.is_sweep_override() and not override.is_discrete_sweep():
            raise RequestError(
                f"{typed}: an interval has no end of values; give a list or "
                "range(START,STOP,STEP), or search it by hydra/sweeper=optuna"
            )
        if override.is_sweep_override() and override.is_hydra_override():
            raise RequestError(f"{typed}: give one value; a sweep cannot vary Hydra's own settings")
        if key == "hydra/sweeper":
            raise RequestError(
                f"{typed}: tcl-train expands sweeps itself; leave it out (any hydra/launcher "
                "works), or search by hydra/sweeper=optuna"
            )
        if key == "hydra.sweep.subdir":
            raise RequestError(
                f"{typed}: a sweep names the directories of its jobs; set hydra.sweep.dir only"
            )


# What to install for a launcher of which the name begins so.
PACKAGES = {
    "submitit": "'tcl-train[slurm]'",
    "joblib": "'tcl-train[joblib]'",
    "ray": "hydra-ray-launcher",
    "rq": "hydra-rq-launcher",
}


def _check_installed(parsed: Iterable[Override], loader: ConfigLoader) -> None:
    for override in parsed:
        name = str(override.value())
        if override.key_or_group != "hydra/launcher":
            continue
        there = loader.get_group_options("hydra/launcher")
        package = next((p for start, p in PACKAGES.items() if name.startswith(start)), None)
        if name in there:
            continue
        installed = any(word.startswith(name.partition("_")[0]) for word in there)
        if package is None or installed:
            raise RequestError(
                f"{override.input_line}: no such launcher; those that are installed: "
                f"{', '.join(there)}"
            )
        raise RequestError(
            f"{override.input_line}: this launcher is not installed; pip install {package}"
        )


def expand(parsed: Iterable[Override]) -> list[list[str]]:
    """The overrides of each job: all combinations of the values, the last one changing fastest."""
    return [
        list(job)
        for job in itertools.product(
            *(_values_of(o) for o in parsed if _of_the_job(o.get_key_element()))
        )
    ]


def with_values_of_experiments(
    loader: ConfigLoader, given: Sequence[Override]
) -> list[list[Override]]:
    """The words of a sweep with the values that its experiment brings (hydra.sweeper.params), for
    keys that are not given; once for each experiment, where the sweep goes over several of them.

    Raises:
        RequestError: there is no such experiment, or it has values that no sweep can go over.
    """
    swept = [o for o in given if o.key_or_group == EXPERIMENT and o.is_sweep_override()]
    sweeps = [list(given)]
    if swept:
        ones = parse_overrides(_values_of(swept[-1]))
        sweeps = [[one if o is swept[-1] else o for o in given] for one in ones]
    values = [_values_of_experiment(loader, words) for words in sweeps]
    if not any(values):
        return [list(given)]
    return [[*words, *more] for words, more in zip(sweeps, values, strict=True)]


def _values_of_experiment(loader: ConfigLoader, words: Sequence[Override]) -> list[Override]:
    chosen = [
        o.input_line or ""
        for o in words
        if o.key_or_group in (EXPERIMENT, SEARCHPATH)
        or o.key_or_group.startswith("hydra.sweeper.params")
    ]
    if not chosen:
        return []
    params = _config_of_sweep(loader, chosen).hydra.sweeper.get("params") or {}
    given = {o.get_key_element().lstrip("+~") for o in words}
    found = parse_overrides(
        [f"{key}={value}" for key, value in params.items() if key not in given],
        config_loader=_AllChoices(loader, chosen),
    )
    for override in found:
        if not _of_the_job(override.get_key_element()):
            raise RequestError(
                f"hydra.sweeper.params: {override.input_line}: a sweep cannot vary Hydra's own "
                "settings"
            )
    _check_sweepable(found)
    return found


def _values_of(override: Override) -> list[str]:
    if not override.is_sweep_override():
        return [override.input_line or ""]
    key = override.get_key_element()
    values = [f"{key}={value}" for value in override.sweep_string_iterator()]
    if not values:
        raise RequestError(f"{override.input_line}: matches no choice of {key}")
    return values


def _of_the_job(key: str) -> bool:
    """Whether an override belongs to the job, rather than to how Hydra starts it."""
    return not key.startswith(("hydra.", "hydra/"))


def _jobs_at_a_time(config: DictConfig, jobs: int) -> int:
    """Hydra's basic launcher runs one after the other; then each is launched separately, so that an
    interrupted job ends the sweep. Other launchers get all at once, or as many as Hydra is told."""
    if config.hydra.runtime.choices["hydra/launcher"] == "basic":
        return 1
    return config.hydra.sweeper.get("max_batch_size") or max(1, jobs)


# ------------------------------------------------------------------ directories


def assign_directories(
    sweep_dir: Path, jobs: Sequence[Sequence[str]], varied: Sequence[str]
) -> list[str]:
    """The name of each job's directory below the sweep's: the one where the job has run before, or
    a new one with the next free number.

    varied: the keys whose values make the label.
    """
    tried = _tried(sweep_dir)
    known = tried | {_identity(overrides): name for name, overrides in _started(sweep_dir)}
    names_taken = [*_names(sweep_dir), *tried.values()]
    number = itertools.count(max(map(_number, names_taken), default=-1) + 1)
    names = []
    for job in jobs:
        identity = _identity(job)
        if identity not in known:
            known[identity] = f"{next(number)}_{_label(job, varied)}".rstrip("_")
        names.append(known[identity])
    return names


def _number(directory: str) -> int:
    """With which a directory's name begins; -1 where it is not a job's."""
    match = re.match(r"\d+", directory)
    return -1 if match is None else int(match[0])


def _names(sweep_dir: Path) -> list[str]:
    return [path.name for path in sweep_dir.iterdir()] if sweep_dir.is_dir() else []


def _started(sweep_dir: Path) -> Iterable[tuple[str, list[str]]]:
    """The directories of runs, and what was typed for each."""
    for name in _names(sweep_dir):
        run_dir = RunDir(sweep_dir / name)
        if run_dir.started:
            yield name, list(run_dir.read_config(trust=None).overrides)


def _tried(sweep_dir: Path) -> dict[frozenset[tuple[str, str]], str]:
    """The jobs of the sweep's table with their directories, which a refused job does not have."""
    jobs = {}
    for row in _read(sweep_dir / TABLE):
        keys = row.keys() - set(LAST_COLUMNS)
        words = [f"{key}={row[key]}" for key in keys if row[key]]
        jobs[_identity(words)] = Path(row["dir"]).name
    return jobs


def _identity(overrides: Iterable[str]) -> frozenset[tuple[str, str]]:
    """What a job is: its keys with their values; of a key that is set twice the last counts."""
    return frozenset(dict(map(_key_and_value, overrides)).items())


@cache
def _key_and_value(override: str) -> tuple[str, str]:
    """The value as a sweep writes it: 0.01 for 1e-2."""
    (parsed,) = parse_overrides([override])
    return parsed.get_key_element(), parsed.get_value_element_as_str()


def _label(overrides: Iterable[str], varied: Sequence[str]) -> str:
    """`loss-tcl_seed-1`: short, and safe in a shell and in a file system."""
    pairs = [override.partition("=") for override in overrides]
    text = "_".join(f"{key}-{value}" for key, _, value in pairs if key in varied)
    safe = re.sub(r"[^A-Za-z0-9_.-]+", "-", text)
    return re.sub(r"\.{2,}|-{2,}", "-", safe)[:LONGEST_LABEL].strip("-._")


# ------------------------------------------------------------------ one job


def run_job_of_launcher(config: DictConfig) -> int:  # noqa: ARG001 - the child composes it again
    """What a launcher calls, perhaps in another process or on another machine."""
    hydra = HydraConfig.get()
    return run_job(
        list(hydra.overrides.task),
        Path(hydra.runtime.output_dir),
        Path(hydra.sweep.dir),
        searchpath=list(hydra.searchpath),
    )


def run_job(
    overrides: list[str], job_dir: Path, sweep_dir: Path, *, searchpath: Sequence[str] = ()
) -> int:
    """Runs one job (skips it if it is finished, resumes it if it was interrupted), notes it in
    `sweep.csv` and returns its exit status."""
    run_dir = RunDir(job_dir)
    title = " ".join(overrides) or "(no overrides)"
    if run_dir.finished:
        print(f"--- {title}: already finished, skipped", flush=True)
        status = 0
    else:
        print(f"--- {title}", flush=True)
        key = "resume" if run_dir.started else "hydra.run.dir"
        place = [*searchpath_override(searchpath), f"{key}={quoted(job_dir)}"]
        status = _run([sys.executable, "-m", "tcl_train", *overrides, *place])
    _note(sweep_dir / TABLE, job_dir, overrides, status)
    if status and status not in INTERRUPTED:
        print(f"--- {title}: {_status_name(status)}; the other jobs still run", flush=True)
    return status


def _status_name(status: int) -> str:
    return STATUS.get(status, f"exit status {status}")


def _run(command: list[str]) -> int:
    """A child process that gets the signals that we get; it stops in good order, and we wait. It
    runs in a separate session, so that a signal from the terminal reaches it once, through us."""
    child = subprocess.Popen(command, start_new_session=True)

    def forward(signum: int, frame: FrameType | None) -> None:  # noqa: ARG001
        child.send_signal(signum)

    with handled(STOPPING, forward):
        status = child.wait()
    return 128 - status if status < 0 else status


def _note(table: Path, job_dir: Path, overrides: list[str], status: int) -> None:
    """Adds or renews the job's row; columns are the overrides and the main results. Jobs may end at
    the same time, so each waits for the others' lock."""
    row: dict[str, Any] = dict(override.split("=", 1) for override in overrides if "=" in override)
    row |= {"status": _status_name(status), "dir": os.fspath(job_dir)}
    if (job_dir / "result.json").is_file():
        result = json.loads((job_dir / "result.json").read_text())
        row |= {name: result.get(name) for name in (*RESULT_COLUMNS, "wall_seconds")}
    with FileLock(table.with_name(f".{table.name}.lock")):
        rows = {row["dir"]: row for row in _read(table)}
        rows[row["dir"]] = row
        rows = dict(sorted(rows.items(), key=lambda item: _number(Path(item[0]).name)))
        of_job = dict.fromkeys(k for r in rows.values() for k in r if k not in LAST_COLUMNS)
        columns = [*of_job, *LAST_COLUMNS]
        text = io.StringIO()
        writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows.values())
        write_text(table, text.getvalue())


def _read(table: Path) -> list[dict[str, Any]]:
    if not table.exists():
        return []
    with table.open(newline="") as file:
        return list(csv.DictReader(file))
