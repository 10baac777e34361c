"""`tcl-eval`: its words, and what they lead to."""

from __future__ import annotations

import glob
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tcl_train.cli.failures import explained, traceback_wanted
from tcl_train.cli.words import FEATURES, Key, help_of
from tcl_train.errors import Interrupted, RequestError, printable
from tcl_train.runtime.signals import stop_if_interrupted

if TYPE_CHECKING:
    from tcl_train.commands.evaluate import Wanted
    from tcl_train.runtime.processes import Processes

KEYS = {
    "run": Key(
        help="a run, finished or interrupted; several: run=A run=B, run=[A,B], run='outputs/*'"
    ),
    "checkpoint": Key(help="the name of a file in the run's checkpoints/", default="last"),
    "features": Key(help="encoder | projector: before or behind the projector", default="encoder"),
    "few_labels": Key(help="also probes of few images: [1%,0.1,5] is 1 %, 10 %, 5 a class"),
    "few_labels.draws": Key(help="how many times few images are drawn", default=5),
    "corruption": Key(help="also accuracy on corrupted test images: a kind, [several], or all"),
    "corruption.severity": Key(help="1 to 5, [several], or all", default="all"),
    "random_encoder_baseline": Key(help="false: leave out the untrained encoder", default=True),
    "out": Key(help="without run=: the folder for the result of encoder=NAME [encoder.KEY=...]"),
}
HELP = f"""tcl-eval run=DIR [dataset=...] [probe=...] [knn.k=...] [device=...] ...
tcl-eval encoder=NAME [encoder.KEY=...] dataset=... [out=FOLDER] ...

Evaluates the frozen encoder of a run again, on its own data set or on another one (transfer), or
an encoder that no run has trained. The result is printed and written to DIR/evaluations/, or to
FOLDER; what is there already stays. probe=finetune trains a copy of the encoder, too.

{help_of(KEYS)}

All else are settings of the config: dataset, probe, knn, device, precision, data, seed,
batch_size, mirror_features."""


@dataclass
class Words:
    """What was typed: the runs, values of KEYS, and the overrides of the config."""

    runs: list[str] = field(default_factory=list)
    values: dict[str, Any] = field(default_factory=dict)
    overrides: list[str] = field(default_factory=list)


def evaluate_command(words: list[str], processes: Processes | None) -> int:
    if processes is not None:
        raise RequestError("tcl-eval is one process; call it without torchrun")
    if not words or {"-h", "--help"} & set(words):
        print(HELP)
        return 0
    given = _read(words)
    if not given.runs and not any(o.startswith("encoder=") for o in given.overrides):
        raise RequestError(
            "run is not set; give the directory of a run, as in tcl-eval run=DIR, or an encoder, "
            "as in tcl-eval encoder=resnet18 dataset=cifar10"
        )
    if given.runs and "out" in given.values:
        raise RequestError(
            f"out={given.values['out']}: the evaluation of a run goes to its directory; leave this "
            "out"
        )
    from tcl_train.cli.compose import check_evaluation_keys
    from tcl_train.run.logs import log_to_terminal

    check_evaluation_keys(given.overrides, of_run=bool(given.runs))
    wanted = _wanted(given.values)
    log_to_terminal()
    if not given.runs:
        return _evaluate_encoder(given, wanted)
    if len(given.runs) == 1:
        _evaluate_run(given.runs[0], given.overrides, wanted)
        return 0
    return _evaluate_all(given, wanted)


def _read(words: Sequence[str]) -> Words:
    from tcl_train.cli.overrides import parse_overrides

    given = Words()
    for word in words:
        key, equals, text = word.partition("=")
        if not equals or key not in KEYS:
            given.overrides.append(word)
        elif text in ("", "[]"):  # a path of no letters would be the working directory
            raise RequestError(f"{word}: nothing is given; give a value, or leave it out")
        elif key == "run":
            given.runs += _runs(text)
        elif key in given.values:
            raise RequestError(f"{word}: {key} is given twice; give it once")
        elif key in ("out", "checkpoint"):
            given.values[key] = text  # a file's name may look like anything
        else:
            (parsed,) = parse_overrides([word])
            given.values[key] = parsed.value()
    places = [Path(run).expanduser().resolve() for run in given.runs]
    pairs = zip(given.runs, places, strict=True)
    twice = next((run for run, place in reversed([*pairs]) if places.count(place) > 1), None)
    if twice is not None:
        raise RequestError(f"run={twice}: the run is given twice; give it once")
    return given


def _runs(text: str) -> list[str]:
    """Of `DIR`, `[DIR,DIR]` or a pattern, of which the folders that hold a run count."""
    if Path(text).expanduser().exists():
        return [text]
    if text.startswith("[") and text.endswith("]"):
        return [
            run for part in text[1:-1].split(",") if part.strip() for run in _runs(part.strip())
        ]
    if not glob.has_magic(text):
        return [text]
    from tcl_train.run.directory import RunDir

    found = sorted(glob.glob(str(Path(text).expanduser())), key=_by_number)
    runs = [path for path in found if RunDir(path).started]
    if not runs:
        raise RequestError(f"run={text}: matches no run (a folder with config.yaml)")
    return runs


def _by_number(path: str) -> tuple[int, str]:
    """A sweep's jobs in their order, 2 before 10."""
    number = Path(path).name.partition("_")[0]
    return (int(number) if number.isdigit() else -1, path)


def _wanted(values: dict[str, Any]) -> Wanted:
    """Checked values. Raises RequestError for a wrong one."""
    from tcl_train import checks
    from tcl_train.commands.evaluate import Wanted
    from tcl_train.evaluation.corruption import Corrupted
    from tcl_train.evaluation.few_labels import FewLabels

    for key in values:
        parent = key.partition(".")[0]
        if parent not in values:
            raise RequestError(f"{key}={values[key]}: goes with {parent}=; give it, too")
    values = {key: values.get(key, known.default) for key, known in KEYS.items()}
    further: list[Any] = []
    try:
        checks.one_of("features", values["features"], FEATURES)
        checks.boolean("random_encoder_baseline", values["random_encoder_baseline"])
        if values["few_labels"] is not None:
            further.append(FewLabels(values["few_labels"], values["few_labels.draws"]))
        if values["corruption"] is not None:
            further.append(Corrupted(values["corruption"], values["corruption.severity"]))
    except (ValueError, TypeError) as error:
        raise RequestError(str(error)) from error
    return Wanted(
        checkpoint=values["checkpoint"],
        features=values["features"],
        untrained=values["random_encoder_baseline"],
        further=tuple(further),
    )


def _evaluate_run(run: str, overrides: Sequence[str], wanted: Wanted) -> dict[str, Any]:
    from tcl_train.cli.compose import evaluation_config
    from tcl_train.cli.overrides import trusted
    from tcl_train.commands.evaluate import evaluate_again
    from tcl_train.run.directory import RunDir
    from tcl_train.run.trust import check_targets

    run_dir = RunDir(run)
    trust = trusted(overrides)
    config = evaluation_config(run_dir.read_config(trust), overrides)
    check_targets(config, run_dir.config, trust)
    return evaluate_again(config, run_dir, wanted)


def _evaluate_all(given: Words, wanted: Wanted) -> int:
    """Evaluates the runs one after another. A failed run is reported in one line and the rest are
    still evaluated. The exit status is the first that is not 0."""
    from tcl_train.commands.evaluate import table_of

    results: dict[str, dict[str, Any]] = {}
    first_status = 0
    try:
        for run in given.runs:
            print(f"--- {printable(run)}", flush=True)
            try:
                results[run] = _evaluate_run(run, given.overrides, wanted)
            except Interrupted:
                raise
            except Exception as error:
                stop_if_interrupted()
                if traceback_wanted():
                    raise
                line, status = explained(error, trains=False)
                print(f"tcl-eval: {printable(run)}: {line}", file=sys.stderr, flush=True)
                first_status = first_status or status
    finally:  # also when it is interrupted
        if results:
            print(f"\n{table_of(results)}", flush=True)
    return first_status


def _evaluate_encoder(given: Words, wanted: Wanted) -> int:
    """Of an encoder that no run has trained."""
    if wanted.features != "encoder" or wanted.checkpoint != "last":
        raise RequestError("features and checkpoint are of a run; give run=DIR, or leave them out")
    from tcl_train.cli.compose import compose_run
    from tcl_train.commands.evaluate import evaluate_encoder

    evaluate_encoder(compose_run(given.overrides).config, given.values.get("out"), wanted)
    return 0
