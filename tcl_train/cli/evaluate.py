"""`tcl-eval`: its words, and what they lead to."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tcl_train.errors import RequestError

if TYPE_CHECKING:
    from tcl_train.runtime.processes import Processes


def evaluate_command(overrides: list[str], processes: Processes | None) -> int:
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
