"""`tcl-embed`: its words, and what they lead to."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from tcl_train.cli.words import FEATURES, Key, boolean, help_of, integer, number, one_of, read_words
from tcl_train.errors import RequestError, printable

if TYPE_CHECKING:
    from tcl_train.runtime.processes import Processes

DEVICES = ("auto", "cpu", "cuda", "mps")
PRECISIONS = ("auto", "fp32", "bf16", "fp16")
KEYS = {
    "run": Key(help="a run directory, finished or not"),
    "images": Key(help="a folder; all images below it are embedded"),
    "out": Key(
        help="FILE.npy (with the names in FILE.csv) or FILE.parquet; by default in DIR/embeddings/"
    ),
    "features": Key(
        help="encoder | projector: what to compute; FILE: what was written before",
        default="encoder",
    ),
    "query": Key(help="an image; the nearest ones are listed and drawn"),
    "top": Key(help="how many of them (10)", read=integer(at_least=1), default=10),
    "duplicates": Key(
        help="true: list pairs that are nearly the same", read=boolean, default=False
    ),
    "threshold": Key(
        help="the least cosine of such a pair (0.98)",
        read=number(above=0, at_most=1),
        default=0.98,
    ),
    "on_damaged": Key(
        help="skip | stop at images that cannot be read",
        read=one_of("skip", "stop"),
        default="skip",
    ),
    "device": Key(help=" | ".join(DEVICES), read=one_of(*DEVICES), default="auto"),
    "precision": Key(
        help=f"{' | '.join(PRECISIONS)}; by default the run's", read=one_of(*PRECISIONS)
    ),
    "batch_size": Key(
        help="images computed at a time, on a CPU by a thread", read=integer(at_least=1)
    ),
    "workers": Key(help="threads that decode, and on a CPU compute", read=integer(at_least=1)),
    "overwrite": Key(help="true: replace files that are there", read=boolean, default=False),
    "trust": Key(help="a package, besides tcl_train, that the run's config may call"),
}


def embed_command(words: list[str], processes: Processes | None) -> int:
    if not words or {"-h", "--help"} & set(words):
        print(
            "tcl-embed run=DIR images=FOLDER [out=FILE]\n"
            "tcl-embed features=FILE query=IMAGE [top=10]\n"
            "tcl-embed features=FILE duplicates=true [threshold=0.98]\n\n"
            "Writes the features of all images below a folder, with their names; finds the images\n"
            "nearest to one, and those that are nearly the same. Several processes share the\n"
            "images: torchrun --nproc-per-node 2 --no-python tcl-embed run=DIR images=FOLDER\n\n"
            f"{help_of(KEYS)}"
        )
        return 0
    given, _ = read_words("tcl-embed", words, KEYS)
    stored = given["features"] not in FEATURES
    _check(given, words, stored=stored)

    from tcl_train.commands.embed import EmbedSettings, embed
    from tcl_train.commands.search import find_duplicates, find_nearest
    from tcl_train.run.logs import log_to_terminal
    from tcl_train.runtime.processes import ALONE

    log_to_terminal()
    settings = EmbedSettings(
        layer="encoder" if stored else given["features"],
        device=given["device"],
        precision=given["precision"],
        batch_size=given["batch_size"],
        workers=given["workers"],
        skip=given["on_damaged"] == "skip",
        trust=[] if given["trust"] is None else [given["trust"]],
    )
    if stored:
        features = Path(given["features"]).expanduser()
    else:
        features = embed(
            given["run"],
            given["images"],
            settings,
            out=given["out"],
            overwrite=given["overwrite"],
            processes=processes or ALONE,
        )
    if processes is not None and not processes.is_first:
        return 0
    if given["query"] is not None:
        find_nearest(features, given["query"], settings, top=given["top"], run=given["run"])
    if given["duplicates"]:
        find_duplicates(features, threshold=given["threshold"])
    return 0


EMBEDDING = ("images", "out", "overwrite", "on_damaged", "batch_size", "workers")


def _check(given: dict[str, Any], words: list[str], *, stored: bool) -> None:
    typed = {word.partition("=")[0] for word in words}
    if stored:
        unused = [key for key in EMBEDDING if key in typed]
        if unused:
            raise RequestError(
                f"features={given['features']}: is what was written before, for which {unused[0]} "
                "has no meaning; leave it out, or give features=encoder"
            )
        if given["query"] is None and not given["duplicates"]:
            raise RequestError(
                f"features={given['features']}: what should be done with it? give query=IMAGE or "
                "duplicates=true"
            )
    else:
        for key, example in (("run", "run=DIR"), ("images", "images=FOLDER")):
            if given[key] is None:
                raise RequestError(
                    f"{key} is not set; give {example}, as in tcl-embed run=DIR images=FOLDER, or "
                    "features=FILE of an earlier call"
                )
        query = given["query"]
        if query is not None and not Path(query).expanduser().is_file():
            raise RequestError(f"query={printable(query)}: there is no such file; give an image")
    for key, needed in (("top", "query"), ("threshold", "duplicates")):
        if key in typed and not given[needed]:
            value = "IMAGE" if needed == "query" else "true"
            raise RequestError(f"{key}={given[key]}: has no meaning without {needed}={value}")
