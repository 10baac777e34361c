"""What lies in folders: runs, parts of runs, and what only looks like one."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from tcl_train.errors import RequestError
from tcl_train.report.collect import Collector

EARLIER = Path(__file__).parents[1] / "earlier_runs"


def collect(*folders: Path):
    return Collector([str(folder) for folder in folders]).collect()


def reason(folder: Path) -> str:
    found = collect(folder)
    assert not found.finished
    (apart,) = found.apart
    assert "\n" not in apart.reason
    return apart.reason


def test_runs_are_found_at_any_depth_and_once(tmp_path, write_run):
    run = write_run(tmp_path / "a" / "b" / "run", seed=2)
    (tmp_path / "link").symlink_to(tmp_path / "a")
    (tmp_path / "a" / "circle").symlink_to(tmp_path)
    found = collect(tmp_path, tmp_path / "a", run)
    assert [r.seed for r in found.finished] == [2]
    assert not found.apart


def test_a_folder_that_is_a_run(tmp_path, write_run):
    assert len(collect(write_run(tmp_path / "run")).finished) == 1


def test_curves_are_in_epochs(tmp_path, write_run):
    (run,) = collect(write_run(tmp_path / "run")).finished
    assert list(run.curves["loss"].x_P) == pytest.approx(np.arange(1, 9) * 0.5)
    assert (run.epoch, run.step) == (4, 40)


def test_an_unfinished_run_says_how_far_it_is(tmp_path, write_run):
    run = write_run(tmp_path / "run", finished=False)
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 45, "epo')  # it is being written
    found = collect(tmp_path)
    (unfinished,) = found.unfinished
    assert (unfinished.epoch, unfinished.step) == (4, 40)
    assert not found.notes


def test_a_run_without_a_step_yet(tmp_path, write_run):
    run = write_run(tmp_path / "run", finished=False)
    (run / "metrics.jsonl").unlink()
    (unfinished,) = collect(tmp_path).unfinished
    assert (unfinished.epoch, unfinished.step) == (0, 0)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"top1": 9', "result.json is cut short or damaged"),
        ("", "result.json is cut short or damaged"),
        ("[" * 100_000, "result.json is cut short or damaged"),
        ("[1, 2]", "not a JSON object"),
        ('{"top1": 90, "probe": {}}', "result.json lacks dataset; written by another version?"),
        ('{"accuracy": 3}', "lacks top1, dataset, probe"),
        ('{"top1": NaN, "dataset": "d", "probe": {}}', "top1 is not a finite number"),
        ('{"top1": "90", "dataset": "d", "probe": {}}', "top1 is not a finite number"),
        ('{"top1": 90, "dataset": 3, "probe": {}}', "dataset is not a name"),
    ],
)
def test_a_result_that_cannot_be_used(tmp_path, write_run, text, said):
    run = write_run(tmp_path / "run")
    (run / "result.json").write_text(text)
    assert said in reason(tmp_path)


def test_bytes_that_are_no_text(tmp_path, write_run):
    run = write_run(tmp_path / "run")
    (run / "result.json").write_bytes(b"\xff\xfe\x00{")
    assert "cut short or damaged" in reason(tmp_path)
    (run / "config.yaml").write_bytes(b"\xffa: {")
    assert "config.yaml is not readable" in reason(tmp_path)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: [1, 2", "config.yaml is not readable"),
        ("seed: 1", "config.yaml is not the config of a run"),
        ("- 1", "config.yaml is not the config of a run"),
        ("", "config.yaml is not the config of a run"),
    ],
)
def test_a_config_that_cannot_be_used(tmp_path, write_run, text, said):
    run = write_run(tmp_path / "run")
    (run / "config.yaml").write_text(text)
    assert said in reason(tmp_path)


def test_a_result_without_a_config(tmp_path, write_run):
    run = write_run(tmp_path / "run")
    (run / "config.yaml").unlink()
    assert "no config.yaml" in reason(tmp_path)


def test_a_foreign_config_alone_is_no_run(tmp_path):
    (tmp_path / "config.yaml").write_text("title: my site\n")
    assert collect(tmp_path).empty


def test_damaged_metrics_of_a_finished_run_are_noted(tmp_path, write_run):
    run = write_run(tmp_path / "run")
    text = (run / "metrics.jsonl").read_text().splitlines(keepends=True)
    text[3] = "\x00\x00\n"
    text[5] = "7\n"
    (run / "metrics.jsonl").write_text("".join(text))
    found = collect(tmp_path)
    assert len(found.finished[0].curves["loss"].x_P) == 6
    assert [note.reason for note in found.notes] == [
        "metrics.jsonl: 2 of 8 lines not readable; curves lack them"
    ]


def test_a_finished_run_without_metrics(tmp_path, write_run):
    (write_run(tmp_path / "run") / "metrics.jsonl").unlink()
    found = collect(tmp_path)
    assert found.finished[0].curves == {}
    assert "no curves" in found.notes[0].reason


def test_losses_that_were_not_finite_or_foreign_are_left_out(tmp_path, write_run):
    run = write_run(tmp_path / "run")
    records = [{"step": i, "epoch": 0, "loss": value} for i, value in enumerate([1, None, 3, "x"])]
    text = "".join(json.dumps(record) + "\n" for record in records)
    (run / "metrics.jsonl").write_text(text + '{"step": 9, "epoch": 0, "loss": NaN}\n')
    assert list(collect(tmp_path).finished[0].curves["loss"].y_P) == [1, 3]


def test_long_curves_are_thinned(tmp_path, write_run):
    (run,) = collect(write_run(tmp_path / "run", lines=5000)).finished
    assert 200 < len(run.curves["loss"].x_P) <= 400
    assert run.step == 25_000


def test_evaluations_are_read_and_damaged_ones_noted(tmp_path, write_run):
    run = write_run(tmp_path / "run")
    (run / "evaluations").mkdir()
    (run / "evaluations" / "digits-lbfgs.json").write_text((run / "result.json").read_text())
    (run / "evaluations" / "digits-sgd.json").write_text("{")
    found = collect(tmp_path)
    assert [e.name for e in found.finished[0].evaluations] == ["digits-lbfgs"]
    assert "evaluations/digits-sgd.json is cut short" in found.notes[0].reason


def test_runs_of_earlier_versions(tmp_path):
    shutil.copytree(EARLIER, tmp_path / "earlier")
    found = collect(tmp_path)
    assert (len(found.finished), len(found.unfinished), len(found.apart)) == (1, 1, 0)
    assert found.finished[0].curves["loss"].y_P[0] == pytest.approx(5.49, abs=0.01)


def test_numbers_as_hydra_reads_them(tmp_path, write_run):
    run = write_run(tmp_path / "run")
    text = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(f"{text}weight_decay: 1e-4\n")
    assert collect(tmp_path).finished[0].config["weight_decay"] == 1e-4


@pytest.mark.skipif(os.geteuid() == 0, reason="root may list everything")
def test_a_folder_that_cannot_be_listed(tmp_path, write_run):
    run = write_run(tmp_path / "run")
    run.chmod(0)
    try:
        assert "cannot be listed" in reason(tmp_path)
    finally:
        run.chmod(0o755)


@pytest.mark.parametrize("name", ["none", "file"])
def test_folders_that_are_none(tmp_path, name):
    (tmp_path / "file").touch()
    with pytest.raises(RequestError, match=f"{name}: (no such folder|is a file); give"):
        Collector([str(tmp_path / name)])


def test_only_what_changed_is_read_again(tmp_path, write_run):
    first, second = (write_run(tmp_path / name) for name in "ab")
    collector = Collector([str(tmp_path)])
    before = collector.stamps()
    one = collector.collect().finished
    assert collector.stamps() == before
    (second / "result.json").write_text((second / "result.json").read_text() + " ")
    assert collector.stamps() != before
    two = collector.collect().finished
    assert two[0] is one[0]
    assert two[1] is not one[1]
    shutil.rmtree(first)
    assert [run.path for run in collector.collect().finished] == [second]


def test_predictions_that_are_cut_short_are_told(tmp_path, write_run, write_predictions):
    for name in ("whole", "cut"):
        write_predictions(write_run(tmp_path / name), classes=["a", "b"])
    path = tmp_path / "cut" / "predictions.npz"
    path.write_bytes(path.read_bytes()[:300])
    collection = Collector([str(tmp_path)]).collect()
    assert len(collection.finished) == 2
    (note,) = collection.notes
    assert note.name.endswith("cut")
    assert "predictions.npz is cut short" in note.reason
