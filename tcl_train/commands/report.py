"""`tcl-report`: tables, comparisons, figures and a page out of run directories."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from pathlib import Path

from tcl_train.errors import Interrupted, RequestError, few, printable, signum_of
from tcl_train.report.collect import Collection, Collector
from tcl_train.report.document import compose_report
from tcl_train.report.measures import BY_KEY, RANKED
from tcl_train.report.writing import PAGE, check_out, write_report

log = logging.getLogger(__name__)


def make_report(
    folders: Sequence[str], out: str | Path, *, measure: str = "top1", pdf: bool = False
) -> Collection:
    """Writes the report over the runs below the folders to `out`, and returns what was found.

    measure: the one by which groups are ranked and compared. pdf: each figure as PDF, too.

    Raises:
        RequestError: a folder is missing, there are no runs below them, or `out` is not free.
    """
    out = Path(out).expanduser()
    check_out(out)
    collection = Collector(folders).collect()
    if collection.empty:
        raise RequestError(f"{few(list(map(printable, folders)))}: contains no runs")
    _write(collection, out, measure, pdf=pdf)
    return collection


def keep_report_current(
    folders: Sequence[str],
    out: str | Path,
    *,
    measure: str = "top1",
    pdf: bool = False,
    every: float = 10,
) -> None:
    """Looks at the runs every so many seconds, and writes the report anew when any of their files
    has changed, until a signal stops it. Runs may be none at first.

    Raises:
        Interrupted: by a signal, in good order; the page is left as one that stays as it is.
    """
    out = Path(out).expanduser()
    check_out(out)
    collector = Collector(folders)
    seen = None
    collection = None
    try:
        while True:
            stamps = collector.stamps()
            if stamps != seen:
                collection = collector.collect()
                if collection.empty:
                    log.info("no runs yet; looking again every %g s", every)
                else:
                    _write(collection, out, measure, pdf=pdf, reload_every=every)
                seen = stamps
            time.sleep(every)
    except (KeyboardInterrupt, Interrupted) as stopped:
        signum = signum_of(stopped)
        if collection is None or collection.empty:
            message = "stopped watching; there were no runs to report"
        else:
            _write(collection, out, measure, pdf=pdf, quiet=True)
            message = f"stopped watching; the report is in {printable(out / PAGE)}"
        raise Interrupted(signum, message) from None


def _write(
    collection: Collection,
    out: Path,
    measure: str,
    *,
    pdf: bool,
    reload_every: float | None = None,
    quiet: bool = False,
) -> None:
    report = compose_report(collection, BY_KEY[measure])
    there = {m.key for section in report.sections for m in section.measures} & {*RANKED}
    if there and measure not in there:
        known = ", ".join(key for key in RANKED if key in there)
        raise RequestError(f"measure={measure}: no finished run has it; they have {known}")
    try:
        write_report(report, out, pdf=pdf, reload_every=reload_every)
    except OSError as error:
        raise RequestError(
            f"out={printable(out)}: cannot be written ({error.strerror}); give another folder"
        ) from error
    if not quiet:
        log.info("%s, in %s", report.in_short, printable(out / PAGE))
