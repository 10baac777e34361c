"""The report's folder: what may be written where, and the files themselves."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from pathlib import Path

from tcl_train.errors import RequestError, printable
from tcl_train.report.document import Report, Section
from tcl_train.report.figures import FIGURES
from tcl_train.report.figures.style import Drawing, save, styled
from tcl_train.report.markdown import to_markdown
from tcl_train.report.measures import BY_KEY
from tcl_train.report.page import MADE_BY, Picture, to_html
from tcl_train.report.spreadsheet import to_csv
from tcl_train.run.directory import RunDir
from tcl_train.runtime.files import write_atomically, write_text

PAGE = "report.html"
FIGURES_FOLDER = "figures"
PIXELS_AN_INCH = 96  # of a page


def check_out(out: Path) -> None:
    """Raises RequestError where a report may not be written: inside a run's directory, or in a
    folder that holds something else."""
    name = printable(out)
    for folder in (out.absolute(), *out.absolute().parents):
        files = RunDir(folder)
        if files.started and (files.finished or files.metrics.exists()):
            raise RequestError(
                f"out={name}: is in the directory of a run ({printable(folder)}), which a report "
                "would alter; give a folder outside it"
            )
    if out.exists() and not out.is_dir():
        raise RequestError(f"out={name}: is a file; give a folder")
    if out.exists() and any(out.iterdir()) and not _is_report(out / PAGE):
        raise RequestError(
            f"out={name}: holds something that is no report; give a new or an empty folder, or "
            "that of an earlier report"
        )


def _is_report(page: Path) -> bool:
    try:
        with page.open("rb") as file:
            return f'content="{MADE_BY}"'.encode() in file.read(1000)
    except OSError:
        return False


def write_report(
    report: Report, out: Path, *, pdf: bool = False, reload_every: float | None = None
) -> None:
    """Writes all files of a report, each atomically, the page last; and removes the figures of an
    earlier report in this folder that are no more drawn.

    Raises:
        OSError: the folder cannot be written.
    """
    before = _figures_of(out / PAGE)
    (out / FIGURES_FOLDER).mkdir(parents=True, exist_ok=True)
    pictures = {
        section.table.title: list(_pictures(report, section, out, pdf=pdf))
        for section in report.sections
    }
    links = {
        title: [(picture.file, picture.title, picture.caption) for picture in drawn]
        for title, drawn in pictures.items()
    }
    write_text(out / "report.md", to_markdown(report, links))
    write_text(out / "report.csv", to_csv(report))
    write_text(out / PAGE, to_html(report, pictures, reload_every=reload_every))
    drawn_now = {picture.file for drawn in pictures.values() for picture in drawn}
    for file in before - drawn_now:
        for path in (out / file, (out / file).with_suffix(".pdf")):
            path.unlink(missing_ok=True)


def _figures_of(page: Path) -> set[str]:
    """The files of the figures that an earlier page shows."""
    if not _is_report(page):
        return set()
    text = page.read_text(encoding="utf-8", errors="replace")
    return set(re.findall(rf'data-file="({FIGURES_FOLDER}/[\w.-]+\.png)"', text))


def _pictures(report: Report, section: Section, out: Path, *, pdf: bool) -> Iterator[Picture]:
    prefix = f"{_slug(report, section)}-" if len(report.sections) > 1 else ""
    for drawing in _drawings(section):
        path = out / FIGURES_FOLDER / f"{prefix}{drawing.name}.png"
        with styled():
            for kind in ("png", "pdf") if pdf else ("png",):
                write = functools.partial(save, drawing, kind=kind)
                write_atomically(path.with_suffix(f".{kind}"), write)
        width = round(drawing.figure.get_figwidth() * PIXELS_AN_INCH)
        name = f"{FIGURES_FOLDER}/{path.name}"
        yield Picture(name, drawing.title, drawing.caption, path.read_bytes(), width)


def _drawings(section: Section) -> Iterator[Drawing]:
    measure = section.measure or BY_KEY["top1"]  # runs without labels have their curves
    for draw in FIGURES:
        with styled():
            drawings = list(draw(section.table, measure))
        yield from drawings


def _slug(report: Report, section: Section) -> str:
    """The data set's name as a part of a file's, different for each."""
    slugs = [_safe(other.table.title) for other in report.sections]
    number = report.sections.index(section)
    return slugs[number] if slugs.count(slugs[number]) == 1 else f"{slugs[number]}-{number + 1}"


def _safe(title: str) -> str:
    return re.sub(r"[^A-Za-z0-9_]+", "-", title).strip("-")[:40] or "data"
