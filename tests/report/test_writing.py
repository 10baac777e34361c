"""The files of a report."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import pytest

pytest.importorskip("matplotlib", reason="an extra")

from tcl_train.errors import RequestError
from tcl_train.report.collect import Collector
from tcl_train.report.document import compose_report
from tcl_train.report.measures import BY_KEY
from tcl_train.report.writing import check_out, write_report


def write(folder: Path, out: Path, **keys) -> str:
    collection = Collector([str(folder)]).collect()
    write_report(compose_report(collection, BY_KEY["top1"]), out, **keys)
    return (out / "report.html").read_text(encoding="utf-8")


class Page(HTMLParser):
    """The tags of a page, and its visible text by the tag it stands in."""

    VOID = ("meta", "img", "input", "br", "line", "circle", "rect", "link")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, list[str]] = {}
        self.feed(text)
        assert self.open == [], "not closed"

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in self.VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and data.strip():
            self.texts.setdefault(self.open[-1], []).append(data.strip())


@pytest.fixture(scope="module")
def swept(
    tmp_path_factory: pytest.TempPathFactory,
    write_sweep: Callable[..., Path],
    write_run: Callable[..., Path],
) -> tuple[Path, str]:
    """A report over a sweep, a run on other data, an unfinished one and a damaged one."""
    folder = tmp_path_factory.mktemp("swept")
    write_sweep(folder / "runs")
    write_run(folder / "runs" / "other", dataset="cifar10", result={"top1": 55.5})
    write_run(folder / "runs" / "part", finished=False)
    (write_run(folder / "runs" / "cut") / "result.json").write_text('{"top1"')
    return folder / "out", write(folder / "runs", folder / "out")


def test_a_page_is_one_file_and_loads_nothing(swept):
    page = Page(swept[1])
    for tag, attributes in page.tags:
        for name in ("src", "href"):
            target = attributes.get(name) or "#"
            assert target.startswith(("#", "data:image/png;base64,")), (tag, target)
    assert not {"link", "iframe", "object"} & {tag for tag, _ in page.tags}
    assert not re.search(r"https?://|@import|url\(", swept[1])
    assert "location.reload" not in swept[1]


def test_a_page_says_what_there_is(swept):
    page = Page(swept[1])
    assert "13 finished runs · 5 groups · 2 data sets · 1 unfinished · 1 not usable" in swept[1]
    assert page.texts["h2"] == [
        "cifar10",
        "digits",
        "Common to all runs",
        "Unfinished",
        "Not usable",
    ]
    assert any("epoch 4 of 4, step 40" in text for text in page.texts["td"])
    assert "tcl-train loss=tcl k1=5000 seed=2" in page.texts["code"]


def test_markdown_has_the_numbers(swept):
    text = (swept[0] / "report.md").read_text()
    assert re.search(r"\| tcl \| 5000 \| 3 \| \*\*93\.\d\d ± 0\.\d\d\*\* \|", text)
    assert re.search(r"\| tcl k1=5000 \| 3 \| −\d\.\d\d \| −.* \| B is better \|", text)
    assert "| all runs | 1 | 55.50 |" in text
    for file in re.findall(r"\]\((figures/[^)]+)\)", text):
        assert (swept[0] / file).exists()


def test_csv_has_a_row_a_run_unrounded(swept):
    with (swept[0] / "report.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 15
    assert {row["status"][:10] for row in rows} == {"finished", "unfinished", "not usable"}
    one = next(row for row in rows if (row["group"], row["seed"]) == ("tcl k1=50", "2"))
    assert len(one["top1"]) > 10
    assert one["k1"] == "50"


def test_figures_are_named_by_data_set(swept):
    figures = [*(swept[0] / "figures").iterdir()]
    names = {path.name for path in figures}
    assert {"digits-top1_over_k1.png", "digits-training.png", "cifar10-training.png"} <= names
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in figures)


def test_one_run_has_no_spread_and_nothing_to_compare(tmp_path, write_run):
    write_run(tmp_path / "runs" / "run", lines=0)
    page = write(tmp_path / "runs", tmp_path / "out")
    text = (tmp_path / "out" / "report.md").read_text()
    assert "| all runs | 1 | 90.00 | 99.00 | 88.00 |" in text
    assert "Comparison" not in page + text


def test_runs_without_shared_seeds_are_told_what_to_do(tmp_path, write_run):
    for seed, loss in enumerate(["supcon", "tcl"]):
        write_run(tmp_path / "runs" / loss, loss=loss, seed=seed, lines=0)
    assert "at least three: seed=1,2,3" in write(tmp_path / "runs", tmp_path / "out")


def test_odd_names_stay_texts(tmp_path, write_run):
    odd = '<script>alert(1)</script>|`*"$x$_'
    for seed, name in ((1, odd), (2, "tcl")):
        words = {"result": {"dataset": odd}, "loss": name, "seed": seed, "lines": 0}
        write_run(tmp_path / "runs" / f"<b>{seed} ünï", **words)
    page = write(tmp_path / "runs", tmp_path / "out")
    assert "<script>alert" not in page
    assert "<b>1" not in page
    assert odd in Page(page).texts["h2"]
    text = (tmp_path / "out" / "report.md").read_text(encoding="utf-8")
    assert r"\<script\>alert(1)\</script\>\|\`\*" in text
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    bars = [len(re.findall(r"(?<!\\)\|", line)) for line in lines]
    assert bars[0] == bars[1] == bars[2] == bars[3]


def test_names_that_are_not_utf_8(tmp_path, write_run):
    import os

    try:
        run = write_run(Path(os.fsdecode(os.fsencode(tmp_path) + b"/runs/\xff\xfe")), lines=0)
    except OSError:
        pytest.skip("this file system has names in UTF-8 only")
    assert run.exists()
    assert "xff" in write(tmp_path / "runs", tmp_path / "out")


def test_runs_without_labels(tmp_path, write_run):
    nothing = dict.fromkeys(("top1", "top5", "knn_top1"))
    write_run(tmp_path / "runs" / "run", result=nothing | {"wall_seconds": 4.0})
    page = write(tmp_path / "runs", tmp_path / "out")
    assert (tmp_path / "out" / "figures" / "training.png").exists()
    assert "top-1" not in Page(page).texts["th"]


def test_a_page_that_is_kept_current_loads_itself_again(tmp_path, write_run):
    write_run(tmp_path / "runs" / "run", lines=0)
    page = write(tmp_path / "runs", tmp_path / "out", reload_every=2.5)
    assert "location.reload" in page
    assert "}, 2500);" in page


def test_figures_that_are_no_more_drawn_go_and_other_files_stay(tmp_path, write_run):
    run = write_run(tmp_path / "runs" / "run")
    out = tmp_path / "out"
    write(tmp_path / "runs", out, pdf=True)
    assert (out / "figures" / "training.pdf").read_bytes().startswith(b"%PDF")
    (out / "figures" / "mine.png").touch()
    (run / "metrics.jsonl").write_text("")
    write(tmp_path / "runs", out)
    assert [path.name for path in (out / "figures").iterdir()] == ["mine.png"]


def test_where_a_report_may_be_written(tmp_path, write_run):
    run = write_run(tmp_path / "runs" / "run")
    for place in (run, run / "report", run / "checkpoints" / "deep"):
        with pytest.raises(RequestError, match="is in the directory of a run"):
            check_out(place)
    with pytest.raises(RequestError, match="holds something that is no report"):
        check_out(tmp_path / "runs")
    (tmp_path / "file").touch()
    with pytest.raises(RequestError, match="is a file; give a folder"):
        check_out(tmp_path / "file")
    (tmp_path / "empty").mkdir()
    check_out(tmp_path / "empty")
    check_out(tmp_path / "new")
    (run / "metrics.jsonl").write_text("")
    write(tmp_path / "runs", tmp_path / "new")
    check_out(tmp_path / "new")
