"""The commands. Each composes, checks, runs, and says the result in one line.

torch is loaded only when something is to be computed, so that help and typing errors are quick.
"""

from __future__ import annotations

import argparse
import errno
import logging
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, NoReturn

from tcl_train import __version__
from tcl_train.cli.streams import forgiving_streams
from tcl_train.errors import CommandError, Interrupted, RequestError, printable
from tcl_train.runtime.memory import ask_for_huge_pages, keep_freed_memory
from tcl_train.runtime.signals import STOPPING, handled

if TYPE_CHECKING:
    from tcl_train.runtime.processes import Processes


# Takes the words of a command line, and the processes that torchrun has started, if it has.
Command = Callable[[list[str], "Processes | None"], int]


def main(arguments: Sequence[str] | None = None) -> int:
    """`tcl-train`; returns the exit status."""
    return _guarded("tcl-train", _train, list(sys.argv[1:] if arguments is None else arguments))


def main_eval(arguments: Sequence[str] | None = None) -> int:
    """`tcl-eval`; returns the exit status."""
    return _guarded("tcl-eval", _evaluate, list(sys.argv[1:] if arguments is None else arguments))


def _guarded(name: str, command: Command, arguments: list[str]) -> int:
    """Every failure is one line on standard error and an exit status."""
    with forgiving_streams(), handled(TO_STOP, _raise_interrupted):
        return _run_command(name, command, arguments)


def _run_command(name: str, command: Command, arguments: list[str]) -> int:
    ask_for_huge_pages()
    keep_freed_memory()
    # What Hydra logs before it raises is said by the error; without a handler Python prints it.
    if not (hydras := logging.getLogger("hydra")).handlers:
        hydras.addHandler(logging.NullHandler())
    try:
        return _in_each_process(command, arguments)
    except CommandError as error:
        if os.environ.get("HYDRA_FULL_ERROR") == "1":
            raise
        if not error.silent:
            print(f"{name}: {_one_line(error)}", file=sys.stderr)
        return error.exit_status
    except KeyboardInterrupt:
        print(f"{name}: {NOTHING_STARTED}", file=sys.stderr)
        return 128 + signal.SIGINT
    except Exception as error:
        if os.environ.get("HYDRA_FULL_ERROR") == "1":
            raise
        if isinstance(error, OSError) and error.filename is not None:
            print(f"{name}: {printable(error.filename)}: {error.strerror}", file=sys.stderr)
            return 1 if error.errno in DISK_FAILS else 2
        first = (str(error).splitlines() or [""])[0]
        print(
            f"{name}: {type(error).__name__}: {first} (HYDRA_FULL_ERROR=1 shows the traceback)",
            file=sys.stderr,
        )
        return 1


# What is wrong with a file that was named is wrong with the request, unless the disk fails.
DISK_FAILS = (errno.ENOSPC, errno.EDQUOT, errno.EIO)


def _in_each_process(command: Command, arguments: list[str]) -> int:
    """Carries out the command: where torchrun has started several processes, in all of them, which
    end in the same way; only the first one prints."""
    if os.environ.get("WORLD_SIZE", "1") == "1":
        return command(arguments, None)
    from tcl_train.runtime.processes import of_torchrun

    with of_torchrun() as processes, processes.failing_together(), _printing(processes.is_first):
        return command(arguments, processes)


@contextmanager
def _printing(wanted: bool) -> Iterator[None]:
    if wanted:
        yield
        return
    with (
        open(os.devnull, "w", encoding="utf-8") as nowhere,
        redirect_stdout(nowhere),
        redirect_stderr(nowhere),
    ):
        yield


# SIGINT raises KeyboardInterrupt by itself.
TO_STOP = tuple(signum for signum in STOPPING if signum != signal.SIGINT)
NOTHING_STARTED = "interrupted; nothing was started"


def _one_line(error: CommandError) -> str:
    message = " ".join(str(error).split()) or NOTHING_STARTED
    if error.resumable is None:
        return message
    return f"{message}; resume with: tcl-train {_shell_word(error.resumable)}"


def _shell_word(run_dir: Path) -> str:
    from tcl_train.cli.overrides import shell_word

    return shell_word("resume", run_dir)


def _raise_interrupted(signum: int, frame: FrameType | None) -> None:  # noqa: ARG001
    raise Interrupted(signum)


# ------------------------------------------------------------------ tcl-train

CFG_KINDS = ("job", "hydra", "all")


class _Parser(argparse.ArgumentParser):
    """The flags, which may stand anywhere among the overrides."""

    def __init__(self) -> None:
        super().__init__("tcl-train", add_help=False, allow_abbrev=False)
        self.add_argument("-h", "--help", action="store_true")
        self.add_argument("--version", action="store_true")
        self.add_argument("-m", "--multirun", action="store_true")
        self.add_argument("-c", "--cfg", metavar="|".join(CFG_KINDS))
        self.add_argument("--resolve", action="store_true")
        self.add_argument("-p", "--package", metavar="KEY")
        self.add_argument("-sc", "--shell-completion", action="store_true")
        self.add_argument("overrides", nargs="*")

    def error(self, message: str) -> NoReturn:
        flag, found, rest = message.partition("unrecognized arguments: ")
        if found:
            raise RequestError(
                f"{rest}: no such flag; settings are key=value, see tcl-train --help"
            )
        raise RequestError(f"{flag}; see tcl-train --help")


def _train(arguments: list[str], processes: Processes | None) -> int:
    given = _Parser().parse_intermixed_args(arguments)
    if given.help:
        print(_help())
    elif given.version:
        print(f"tcl-train {__version__}")
    elif given.shell_completion:
        from tcl_train.cli.completion import print_completion

        print_completion(given.overrides)
    elif given.cfg is not None:
        _print_config(given.cfg, given.overrides, key=given.package, resolve=given.resolve)
    elif given.multirun and processes is not None:
        raise RequestError(
            "-m starts a process for each run, and torchrun has started several already; sweep "
            "with a launcher (hydra/launcher=submitit_slurm), or call torchrun once for each run"
        )
    elif given.multirun:
        from tcl_train.cli.sweep import run_sweep

        return run_sweep(given.overrides)
    else:
        _run(given.overrides, processes)
    return 0


def _run(overrides: list[str], processes: Processes | None) -> None:
    from tcl_train.cli.compose import compose_run, extends_run, resumed_config
    from tcl_train.cli.overrides import trusted
    from tcl_train.run.directory import RunDir
    from tcl_train.run.trust import check_targets

    config, directory = compose_run(overrides)
    if processes is not None:
        directory = processes.from_first("hydra.run.dir", directory)  # it may hold the time
    resume = config.resume is not None
    extends = extends_run(overrides)
    if extends and not resume:
        raise RequestError("resume_extend=true: give the run, too, as in resume=DIR epochs=N")
    if resume:
        run_dir = RunDir(config.resume)
        run_dir.check_resumable(extends=extends)
        trust = trusted(overrides)
        config = resumed_config(run_dir.read_config(trust), overrides)
        check_targets(config, run_dir.config, trust)
    else:
        run_dir = RunDir(directory)
        if processes is None or processes.is_first:
            run_dir.check_free()

    from tcl_train.commands.train import train
    from tcl_train.run.logs import log_to_terminal
    from tcl_train.runtime.processes import ALONE

    log_to_terminal()
    train(config, run_dir, resume=resume, extends=extends, processes=processes or ALONE)


def _print_config(kind: str, overrides: list[str], *, key: str | None, resolve: bool) -> None:
    from hydra.core.hydra_config import HydraConfig
    from omegaconf import OmegaConf

    from tcl_train.cli.compose import compose_with_hydra, without_hydra

    if kind not in CFG_KINDS:
        raise RequestError(f"--cfg {kind}: give one of {', '.join(CFG_KINDS)}")
    config = compose_with_hydra(overrides)
    HydraConfig.instance().set_config(config)
    if resolve:
        OmegaConf.set_readonly(config.hydra, False)
        OmegaConf.resolve(config)
    if kind == "job":
        config = without_hydra(config)
    elif kind == "hydra":
        config = OmegaConf.masked_copy(config, ["hydra"])
    part = config if key is None else OmegaConf.select(config, key)
    if part is None:
        raise RequestError(f"--package {key}: there is no such key in the config")
    print(OmegaConf.to_yaml(part).rstrip() if OmegaConf.is_config(part) else part)


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
  tcl-train resume=DIR                            resume an interrupted run
  tcl-train --cfg job [group=choice] ...          print the config and stop
  tcl-train -sc install=bash                      print what turns on completion by the tab key
  tcl-eval run=DIR [dataset=...] [probe=...]      evaluate the encoder of a run again

Without arguments: TCL on scikit-learn's digits, in about 15 seconds.

Choices (choosing a data set chooses its recipe; every part can be overridden):
{chr(10).join(lines)}

Settings and their defaults:
{settings}

The loss adds its keys: tau, k1, k2 where it has them. All keys: tcl-train --cfg job"""


# ------------------------------------------------------------------ tcl-eval


def _evaluate(overrides: list[str], processes: Processes | None) -> int:
    if processes is not None:
        raise RequestError("tcl-eval is one process; call it without torchrun")
    if not overrides or {"-h", "--help"} & set(overrides):
        print(
            "tcl-eval run=DIR [dataset=...] [dataset.root=...] [probe=...] [device=...]\n\n"
            "Evaluates the frozen encoder of a run, finished or interrupted, again: on its own\n"
            "data set or on another one (transfer). The result is printed and written to\n"
            "DIR/evaluations/; what is there already stays."
        )
        return 0
    runs = [o for o in overrides if o.startswith("run=")]
    if len(runs) != 1:
        raise RequestError("run is not set; give the directory of a run, as in tcl-eval run=DIR")
    from tcl_train.cli.compose import evaluation_config
    from tcl_train.cli.overrides import trusted
    from tcl_train.run.directory import RunDir
    from tcl_train.run.trust import check_targets

    run_dir = RunDir(runs[0].removeprefix("run="))
    trust = trusted(overrides)
    config = evaluation_config(run_dir.read_config(trust), [o for o in overrides if o not in runs])
    check_targets(config, run_dir.config, trust)

    from tcl_train.commands.evaluate import evaluate_again
    from tcl_train.run.logs import log_to_terminal

    log_to_terminal()
    evaluate_again(config, run_dir)
    return 0
