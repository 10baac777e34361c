"""`tcl-report`: its words, and what they lead to."""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING

from tcl_train.cli.words import Key, boolean, help_of, number, one_of, read_words
from tcl_train.errors import RequestError

if TYPE_CHECKING:
    from tcl_train.runtime.processes import Processes

# Those of tcl_train.report.measures.RANKED, stated here so that help does not load the report.
MEASURES = (
    *("top1", "top5", "knn_top1", "val_top1", "classifier_top1", "random_encoder_top1"),
    "calibration_error",
)
KEYS = {
    "out": Key(help="folder for the report (default: report)", default="report"),
    "measure": Key(
        help=f"by which groups are compared (default: top1): {', '.join(MEASURES)}",
        read=one_of(*MEASURES),
        default="top1",
    ),
    "pdf": Key(help="true: each figure as PDF, too", read=boolean, default=False),
    "watch": Key(help="true: keep the report current until Ctrl-C", read=boolean, default=False),
    "every": Key(
        help="seconds between two looks, with watch=true (default: 10)",
        read=number(above=0),
    ),
}
SECONDS = 10.0  # between two looks
NEEDED = {"matplotlib": "matplotlib", "jinja2": "jinja2", "sklearn": "scikit-learn"}


def report_command(words: list[str], processes: Processes | None) -> int:
    if processes is not None:
        raise RequestError("tcl-report is one process; call it without torchrun")
    if not words or {"-h", "--help"} & set(words):
        print(
            "tcl-report DIR ... [key=value ...]\n\n"
            "Collects every run below the folders, groups them by what differs, and writes\n"
            "report.html (one page that opens from disk), report.md, report.csv and\n"
            f"figures/*.png.\n\n{help_of(KEYS)}"
        )
        return 0
    values, folders = read_words("tcl-report", words, KEYS, places=True)
    if not folders:
        raise RequestError("no folder is given; give some that hold runs, as in tcl-report outputs")
    watch, every = values.pop("watch"), values.pop("every")
    if every is not None and not watch:
        raise RequestError(f"every={every:g}: goes with watch=true; give it, too")
    missing = [of for name, of in NEEDED.items() if importlib.util.find_spec(name) is None]
    if missing:
        raise RequestError(f"{missing[0]} is not installed; pip install 'tcl-train[report]'")
    from tcl_train.commands.report import keep_report_current, make_report
    from tcl_train.run.logs import log_to_terminal

    log_to_terminal()
    if watch:
        keep_report_current(folders, every=every or SECONDS, **values)
    else:
        make_report(folders, **values)
    return 0
