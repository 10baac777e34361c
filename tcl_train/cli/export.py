"""`tcl-export`: its words, and what they lead to."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tcl_train.cli.words import Key, boolean, help_of, one_of, read_words
from tcl_train.errors import RequestError

if TYPE_CHECKING:
    from tcl_train.runtime.processes import Processes

FORMATS = ("torchvision", "timm", "safetensors", "torchscript", "onnx")
KEYS = {
    "run": Key(help="a run directory, finished or not", needed=True, example="DIR"),
    "format": Key(
        help=f"{' | '.join(FORMATS)}", read=one_of(*FORMATS), needed=True, example="torchvision"
    ),
    "out": Key(help="the file to write; by default one in DIR/exports/"),
    "overwrite": Key(help="true: replace files that are there", read=boolean, default=False),
    "trust": Key(help="a package, besides tcl_train, that the run's config may call"),
}


def export_command(words: list[str], processes: Processes | None) -> int:
    if processes is not None:
        raise RequestError("tcl-export is one process; call it without torchrun")
    if not words or {"-h", "--help"} & set(words):
        print(
            "tcl-export run=DIR format=FORMAT [out=FILE] [overwrite=true]\n\n"
            "Writes the encoder of a run for use elsewhere, and beside it FILE.json: how to load\n"
            "it, how to normalise images, their size, and the names of the classes.\n\n"
            f"{help_of(KEYS)}"
        )
        return 0
    given, _ = read_words("tcl-export", words, KEYS)
    trust = [] if given["trust"] is None else [given["trust"]]

    from tcl_train.commands.export import export
    from tcl_train.run.logs import log_to_terminal

    log_to_terminal()
    export(
        given["run"], given["format"], out=given["out"], overwrite=given["overwrite"], trust=trust
    )
    return 0
