"""`tcl-train`: its flags, its help, and what they lead to."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, NoReturn

from tcl_train import __version__
from tcl_train.errors import RequestError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tcl_train.runtime.processes import Processes

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


def train_command(arguments: list[str], processes: Processes | None) -> int:
    given = _Parser().parse_intermixed_args(arguments)
    if given.help:
        print(_help())
    elif given.version:
        print(f"tcl-train {__version__}")
    elif given.shell_completion:
        from tcl_train.cli.completion import print_completion

        print_completion(given.overrides)
    elif given.cfg is not None and given.multirun:
        raise RequestError("--cfg prints the config of one run; give one value a key, without -m")
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

    config, directory, sweeps_over = compose_run(overrides)
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
        _check_single(sweeps_over, overrides)
        run_dir = RunDir(directory)
        if processes is None or processes.is_first:
            run_dir.check_free()

    from tcl_train.commands.train import train
    from tcl_train.run.logs import log_to_terminal
    from tcl_train.runtime.processes import ALONE

    log_to_terminal()
    train(config, run_dir, resume=resume, extends=extends, processes=processes or ALONE)


def _check_single(sweeps_over: Mapping[str, str], overrides: list[str]) -> None:
    """One run takes one of the values that an experiment goes over."""
    from tcl_train.cli.overrides import parse_overrides

    parsed = parse_overrides(overrides)
    given = {override.key_or_group for override in parsed}
    chosen = [o.input_line for o in parsed if o.key_or_group == "experiment"] or ["this config"]
    values = " ".join(f"{key}={value}" for key, value in sweeps_over.items() if key not in given)
    if values:
        raise RequestError(
            f"{chosen[-1]} goes over {values}; add the flag -m, which trains once for each, or "
            "give one value"
        )


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
