"""Searches: `tcl-train -m hydra/sweeper=optuna k1=interval(100,50000) validation=0.1`.

Optuna chooses the values of each next run from the results of those before; what it maximises is
`val_top1`, the accuracy on validation images, and never that on the test split. Jobs are started as
those of a sweep are (tcl_train/cli/sweep.py). The study is kept in the sweep's directory, so that
the same command continues it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.override_parser.types import IntervalSweep, Override
from omegaconf import DictConfig

from tcl_train.errors import RequestError

if TYPE_CHECKING:
    import optuna

SWEEPER = "hydra/sweeper"
TRIALS = "hydra.sweeper.n_trials"
DEFAULT_TRIALS = 20
SCORE = "val_top1"
STUDY = "optuna.journal"
INSTALL = "pip install 'tcl-train[optuna]'"

# Starts a job with these overrides in a directory of this number; gives its exit status and its
# directory.
StartJob = Callable[[list[str], int], "tuple[int, Path]"]


def is_search(parsed: Sequence[Override]) -> bool:
    return any(o.key_or_group == SWEEPER and o.value() == "optuna" for o in parsed)


class Search:
    """What is searched, and what stays: words without Hydra's own.

    Raises:
        RequestError: Optuna is not installed, nothing is searched, or a value is out of range.
    """

    def __init__(self, parsed: Sequence[Override]) -> None:
        try:
            import optuna
        except ImportError as error:
            raise RequestError(f"{SWEEPER}=optuna: Optuna is not installed; {INSTALL}") from error
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.trials = _trials(parsed)
        ours = [o for o in parsed if not o.key_or_group.startswith(("hydra.", "hydra/"))]
        self.space = {o.key_or_group: _values(o) for o in ours if o.is_sweep_override()}
        self.fixed = [o.input_line or "" for o in ours if not o.is_sweep_override()]
        if not self.space:
            raise RequestError(
                f"{SWEEPER}=optuna: nothing is searched; give an interval, as in "
                "'k1=tag(log, interval(100, 50000))', or a list of values"
            )

    def example(self) -> list[str]:
        """The overrides of some job, to check before anything starts."""
        values = {name: _first(space) for name, space in self.space.items()}
        return [*self.fixed, *_words(values)]

    def run(self, sweep_dir: Path, start: StartJob, *, seed: int) -> int:
        """Carries out the jobs that are left; the first exit status that is not 0."""
        import optuna
        from optuna.storages import JournalStorage
        from optuna.storages.journal import JournalFileBackend

        sweep_dir.mkdir(parents=True, exist_ok=True)
        study = optuna.create_study(
            study_name="tcl-train",
            direction="maximize",
            storage=JournalStorage(JournalFileBackend(str(sweep_dir / STUDY))),
            sampler=optuna.samplers.TPESampler(seed=seed),
            load_if_exists=True,
        )
        done = (optuna.trial.TrialState.COMPLETE, optuna.trial.TrialState.FAIL)
        statuses = []
        for _ in range(len(study.get_trials(states=done)), self.trials):
            trial = study.ask(self.space)
            status, job_dir = start([*self.fixed, *_words(trial.params)], trial.number)
            statuses.append(status)
            score = None if status else json.loads((job_dir / "result.json").read_text())[SCORE]
            study.tell(trial, score, state=None if score is not None else done[1])
            if status > 128:  # the user wants to stop
                break
        _say_best(study)
        return next((status for status in statuses if status), 0)


def check_scored(config: DictConfig) -> None:
    """Raises RequestError where nothing would say which values are best."""
    if not config.validation:
        raise RequestError(
            f"{SWEEPER}=optuna chooses by accuracy on validation images; give their share, as in "
            "validation=0.1"
        )


def _say_best(study: optuna.Study) -> None:
    finished = [trial for trial in study.trials if trial.value is not None]
    if finished:
        best = study.best_trial
        print(
            f"best of {len(finished)}: {' '.join(_words(best.params))} with {SCORE} "
            f"{best.value:.2f} % (job {best.number}); its test accuracy decided nothing",
            flush=True,
        )


def _words(values: Mapping[str, Any]) -> list[str]:
    return [f"{name}={value}" for name, value in values.items()]


def _trials(parsed: Sequence[Override]) -> int:
    given = [o for o in parsed if o.key_or_group == TRIALS]
    if not given:
        return DEFAULT_TRIALS
    value = given[-1].value()
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise RequestError(f"{given[-1].input_line}: give a whole number >= 1")
    return value


def _values(override: Override) -> Any:
    """As Optuna wants them: an interval, on a logarithmic scale where it is tagged `log`, or a
    list."""
    from optuna import distributions

    value = override.value()
    if not isinstance(value, IntervalSweep):
        words = list(override.sweep_string_iterator())
        return distributions.CategoricalDistribution(words)
    assert value.start is not None
    assert value.end is not None
    kind: Any = distributions.FloatDistribution
    if isinstance(value.start, int) and isinstance(value.end, int):
        kind = distributions.IntDistribution
    try:
        return kind(value.start, value.end, log="log" in value.tags)
    except ValueError as error:
        raise RequestError(f"{override.input_line}: {error}") from error


def _first(space: Any) -> Any:
    return space.choices[0] if hasattr(space, "choices") else space.low
