"""The commands. Each composes, checks, runs, and says the result in one line.

torch is loaded only when something is to be computed, so that help and typing errors are quick.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType

from tcl_train import __version__
from tcl_train.errors import Interrupted, RequestError, TrainingError
from tcl_train.runtime.memory import ask_for_huge_pages

CFG_KINDS = ("job", "hydra", "all")
PRINTING_FLAGS = ("--cfg", "-c", "--info", "-i", "--hydra-help", "--shell-completion", "-sc")


def main(words: Sequence[str] | None = None) -> int:
    """`tcl-train`; returns the exit status."""
    return _guarded("tcl-train", _train, list(sys.argv[1:] if words is None else words))


def main_eval(words: Sequence[str] | None = None) -> int:
    """`tcl-eval`; returns the exit status."""
    return _guarded("tcl-eval", _evaluate, list(sys.argv[1:] if words is None else words))


def _guarded(name: str, command: Callable[[list[str]], int], words: list[str]) -> int:
    """Every failure is one line on standard error and an exit status."""
    before = signal.signal(signal.SIGTERM, _raise_interrupted)
    ask_for_huge_pages()
    try:
        return command(words)
    except (RequestError, TrainingError, Interrupted) as error:
        if os.environ.get("HYDRA_FULL_ERROR") == "1":
            raise
        message = " ".join(str(error).split()) or "interrupted; nothing was started"
        print(f"{name}: {message}", file=sys.stderr)
        return error.exit_status
    except KeyboardInterrupt:
        print(f"{name}: interrupted; nothing was started", file=sys.stderr)
        return 128 + signal.SIGINT
    except Exception as error:
        if os.environ.get("HYDRA_FULL_ERROR") == "1":
            raise
        first = (str(error).splitlines() or [""])[0]
        print(
            f"{name}: {type(error).__name__}: {first} (HYDRA_FULL_ERROR=1 shows the traceback)",
            file=sys.stderr,
        )
        return 1
    finally:
        signal.signal(signal.SIGTERM, before)


def _raise_interrupted(signum: int, frame: FrameType | None) -> None:  # noqa: ARG001
    raise Interrupted(signum)


# ------------------------------------------------------------------ tcl-train


def _train(words: list[str]) -> int:
    if {"-h", "--help"} & set(words):
        print(_help())
        return 0
    if "--version" in words:
        print(f"tcl-train {__version__}")
        return 0
    if {"-m", "--multirun"} & set(words):
        return _sweep([word for word in words if word not in ("-m", "--multirun")])
    if any(word.split("=")[0] in PRINTING_FLAGS for word in words):
        return _print_config(words)
    for word in words:
        if word.startswith("-"):
            raise RequestError(
                f"{word}: no such flag; settings are key=value, see tcl-train --help"
            )
    from tcl_train.cli.compose import compose_run, resumed_config
    from tcl_train.run.directory import RunDir

    config, directory = compose_run(words)
    resume = config.resume is not None
    if resume:
        run_dir = RunDir(config.resume)
        run_dir.check_resumable()
        config = resumed_config(run_dir.read_config(), words)
    else:
        run_dir = RunDir(directory)
        run_dir.check_free()

    from tcl_train.commands.train import train
    from tcl_train.run.sink import log_to_terminal

    log_to_terminal()
    train(config, run_dir, resume=resume)
    return 0


def _print_config(words: list[str]) -> int:
    """Hydra prints; what is typed beside its flags is checked as for a run."""
    from tcl_train.cli.compose import compose_run, understood

    for flag, kinds in (("--cfg", CFG_KINDS), ("-c", CFG_KINDS)):
        if flag in words:
            kind = "".join(words[words.index(flag) + 1 :][:1])
            if kind not in kinds:
                raise RequestError(f"{flag} {kind}: give one of {', '.join(kinds)}")
    words = understood(words)
    compose_run([w for w in words if "=" in w and not w.startswith("-")])
    _hydra_main(words, lambda config: None)  # noqa: ARG005
    return 0


def _sweep(words: list[str]) -> int:
    """Checks every job of the sweep, then runs one after the other (or as Hydra's launcher does);
    returns the first exit status that is not 0."""
    from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
    from hydra.core.hydra_config import HydraConfig

    from tcl_train.cli.compose import compose_run, parse, understood
    from tcl_train.cli.sweep import run_job

    words = understood(words)
    overrides = parse(words)
    if not any(o.key_or_group in ("hydra/sweeper", "hydra/launcher") for o in overrides):
        for job in BasicSweeper.split_arguments(overrides, None)[0]:
            compose_run(job)
    # A job's directory is named after what the sweep varies.
    fixed = [o.key_or_group for o in overrides if not o.is_sweep_override()]
    exclude = f"hydra.job.config.override_dirname.exclude_keys=[{','.join(fixed)}]"
    statuses: list[int] = []
    stopped: list[Exception] = []

    def run(config: object) -> None:  # noqa: ARG001 - the child composes it again
        hydra = HydraConfig.get()
        task_words = list(hydra.overrides.task)
        job_dir, sweep_dir = Path(hydra.runtime.output_dir), Path(hydra.sweep.dir)
        try:
            statuses.append(run_job(task_words, job_dir, sweep_dir))
        except (Interrupted, RequestError) as error:
            stopped.append(error)
            raise KeyboardInterrupt from error  # Hydra would print a traceback of anything else

    try:
        _hydra_main(["--multirun", *words, exclude], run)
    except KeyboardInterrupt:
        if stopped:
            raise stopped[0] from None
        raise
    return next((status for status in statuses if status), 0)


def _hydra_main(words: list[str], job: Callable[[object], None]) -> None:
    """Hydra's own command line, for what only it does: sweeps, and printing configs."""
    import hydra

    from tcl_train.cli.choices import CONFIG_NAME, config_dir

    before = sys.argv
    sys.argv = ["tcl-train", *words]
    try:
        hydra.main(config_path=str(config_dir()), config_name=CONFIG_NAME, version_base="1.3")(
            job
        )()
    finally:
        sys.argv = before


def _help() -> str:
    from tcl_train.cli.choices import CONFIG_NAME, choices, config_dir, groups

    root = (config_dir() / f"{CONFIG_NAME}.yaml").read_text(encoding="utf-8")
    settings = root.split("# --- settings ---\n")[1].split("# --- end of settings ---")[0].rstrip()
    lines = [
        f"  {group + '=':<12}{' | '.join(choices(group))}" for group in groups() if choices(group)
    ]
    return f"""\
tcl-train {__version__}: pretrains an image encoder, evaluates it, and stores the result.

  tcl-train [group=choice] [key=value] ...        one run
  tcl-train -m loss=ce,supcon,tcl seed=1,2        a sweep: a run for each combination
  tcl-train resume=DIR                            go on with an interrupted run
  tcl-train --cfg job [group=choice] ...          print the config and stop
  tcl-eval run=DIR [dataset=...] [probe=...]      evaluate the encoder of a run again

Without arguments: TCL on scikit-learn's digits, in about a minute.

Choices (choosing a data set chooses its recipe; every part can be overridden):
{chr(10).join(lines)}

Settings and their defaults:
{settings}

The loss brings keys of its own: tau, k1, k2 where it has them. All keys: tcl-train --cfg job"""


# ------------------------------------------------------------------ tcl-eval


def _evaluate(words: list[str]) -> int:
    if not words or {"-h", "--help"} & set(words):
        print(
            "tcl-eval run=DIR [dataset=...] [dataset.root=...] [probe=...] [device=...]\n\n"
            "Evaluates the frozen encoder of a run, finished or interrupted, again: on its own\n"
            "data set or on another one (transfer). The result is printed and written to\n"
            "DIR/evaluations/; what is there already stays."
        )
        return 0
    runs = [word for word in words if word.startswith("run=")]
    if len(runs) != 1:
        raise RequestError("run is not set; give the directory of a run, as in tcl-eval run=DIR")
    from tcl_train.cli.compose import evaluation_config
    from tcl_train.run.directory import RunDir

    run_dir = RunDir(runs[0].removeprefix("run="))
    config = evaluation_config(run_dir.read_config(), [w for w in words if w not in runs])

    from tcl_train.commands.evaluate import reevaluate
    from tcl_train.run.sink import log_to_terminal

    log_to_terminal()
    reevaluate(config, run_dir)
    return 0
