from __future__ import annotations

import json
from pathlib import Path

import pytest

from tcl_train.report.collect import Collector
from tcl_train.report.measures import BY_KEY
from tcl_train.report.protocols import protocol_of
from tcl_train.report.tables import tables_of

TOP1 = BY_KEY["top1"]


def tables(folder: Path):
    return tables_of(Collector([str(folder)]).collect().finished)


def test_runs_are_grouped_by_what_differs_besides_seeds(tmp_path, write_sweep):
    (table,) = tables(write_sweep(tmp_path))
    assert [group.label for group in table.groups] == [
        "supcon",
        "tcl k1=0",
        "tcl k1=50",
        "tcl k1=5000",
    ]
    assert all(group.seeds == 3 for group in table.groups)
    assert table.ranked(TOP1)[0].label == "tcl k1=5000"


def test_one_run(tmp_path, write_run):
    write_run(tmp_path / "run")
    (table,) = tables(tmp_path)
    (group,) = table.groups
    assert group.label == "all runs"
    assert group.summary(TOP1).sd is None
    assert table.compare(TOP1) == []


def test_a_seed_that_was_trained_twice_is_one_sample(tmp_path, write_run):
    for name, seed, top1 in (("a", 1, 80.0), ("b", 1, 90.0), ("c", 2, 70.0)):
        write_run(tmp_path / name, seed=seed, result={"top1": top1})
    (group,) = tables(tmp_path)[0].groups
    assert group.by_seed(TOP1) == {1: 85.0, 2: 70.0}
    assert (group.seeds, len(group.runs)) == (2, 3)


def test_data_sets_are_never_put_together(tmp_path, write_run):
    write_run(tmp_path / "a", dataset="digits")
    write_run(tmp_path / "b", dataset="cifar10", seed=1)
    for name in ("cats", "dogs"):
        result = {"dataset_root": f"/data/{name}"}
        write_run(tmp_path / name, dataset="image_folder", result=result)
    assert [table.title for table in tables(tmp_path)] == [
        "cifar10",
        "digits",
        "image_folder cats (/data/cats)",
        "image_folder dogs (/data/dogs)",
    ]


@pytest.mark.parametrize(
    "other",
    [
        {"num_test": 100},
        {"probe": {"features": "frozen", "optimiser": "SGD", "l2": 0.01}},
        {"knn": {"k": 5, "temperature": 0.07}},
    ],
)
def test_what_was_measured_otherwise_is_neither_averaged_nor_compared(tmp_path, write_run, other):
    for seed in (1, 2, 3):
        write_run(tmp_path / f"a{seed}", seed=seed)
        write_run(tmp_path / f"b{seed}", seed=seed, result=other)
    (table,) = tables(tmp_path)
    assert [group.protocol for group in table.groups] == ["A", "B"]
    assert [group.title for group in table.groups] == ["all runs [A]", "all runs [B]"]
    assert table.compare(TOP1) == []
    (_, shared), (_, a), (_, b) = table.measured
    assert "features: frozen" in shared
    assert a != b


def test_a_protocol_does_not_tell_what_was_chosen_or_scored():
    def of(l2: float, score: float, candidates: str = "1, 0.1, 0.01") -> str:
        chosen = f"top-1 on 10 % ({score} %; seen), fitted again; candidates {candidates}"
        return protocol_of({"probe": {"l2": l2, "l2_chosen_by": chosen}, "num_test": 5})

    assert of(0.1, 90.1) == of(0.2, 80.2)
    assert of(0.1, 90.1) != of(0.1, 90.1, "1, 0.1")
    assert "among 3 from 1 to 0.01" in of(0.1, 90.1)


def test_a_protocol_of_an_earlier_version_is_a_text():
    assert protocol_of({"probe": "lbfgs"}) == (
        "name: lbfgs; test images: unknown; classes: unknown"
    )


def test_precisions_that_auto_came_to_are_other_settings(tmp_path, write_run):
    write_run(tmp_path / "a", result={"precision": "bf16"})
    write_run(tmp_path / "b", result={"precision": "fp32"})
    (table,) = tables(tmp_path)
    assert table.differences.keys == ("precision",)


def test_few_groups_are_compared_each_with_each(tmp_path, write_sweep):
    (table,) = tables(write_sweep(tmp_path))
    comparisons = table.compare(TOP1)
    assert len(comparisons) == 6
    said = {(c.first.label, c.second.label): c.verdict for c in comparisons}
    assert said["supcon", "tcl k1=5000"] == "B is better"
    assert all(c.difference.count == 3 for c in comparisons)


def test_of_many_groups_each_is_compared_with_the_best(tmp_path, write_run):
    for k1 in range(7):
        for seed in (1, 2):
            result = {"top1": 80.0 + k1 + 0.1 * seed}
            write_run(tmp_path / f"{k1}-{seed}", loss="tcl", k1=k1, seed=seed, result=result)
    (table,) = tables(tmp_path)
    comparisons = table.compare(TOP1)
    assert {c.first.label for c in comparisons} == {"k1=6"}
    assert len(comparisons) == 6
    assert all(c.verdict.startswith("cannot tell: 2 shared seeds") for c in comparisons)


def test_lower_calibration_error_is_better(tmp_path, write_run):
    measure = BY_KEY["calibration_error"]
    for seed in (1, 2, 3):
        for loss, error in (("supcon", 5.0), ("tcl", 2.0)):
            result = {"calibration_error": error + 0.01 * seed * (loss == "tcl")}
            write_run(tmp_path / f"{loss}{seed}", loss=loss, seed=seed, result=result)
    (table,) = tables(tmp_path)
    assert table.ranked(measure)[0].label == "tcl"
    assert [c.verdict for c in table.compare(measure)] == ["B is better"]


def test_runs_without_labels_have_no_accuracy(tmp_path, write_run):
    write_run(tmp_path / "run", result={"top1": None, "top5": None, "knn_top1": None})
    (table,) = tables(tmp_path)
    assert TOP1 not in table.measures()
    assert table.ranked(TOP1) == []


def evaluate(run: Path, name: str, **content) -> None:
    folder = run / "evaluations"
    folder.mkdir(exist_ok=True)
    result = json.loads((run / "result.json").read_text())
    for key in ("steps", "epochs", "precision"):  # of training, which it does not state
        del result[key]
    (folder / f"{name}.json").write_text(json.dumps(result | {"step": 40} | content))


def test_evaluations_are_rows_of_the_data_set_they_were_made_on(tmp_path, write_run):
    for seed in (1, 2):
        run = write_run(tmp_path / str(seed), seed=seed)
        evaluate(run, "digits-lbfgs", top1=80.0 + seed)
        evaluate(run, "digits-lbfgs-2", top1=80.0 + seed)
        evaluate(run, "cifar10-lbfgs", top1=50.0, dataset="cifar10")
        evaluate(run, "digits-blur", top1=10.0, features="projector", step=20)
    cifar10, digits = tables(tmp_path)
    assert (cifar10.title, cifar10.groups) == ("cifar10", [])
    (transfer,) = cifar10.again
    assert (transfer.group, transfer.trained_on) == ("all runs", "digits")
    blurred, again = digits.again
    assert blurred.what == "digits-blur, features projector, step 20"
    assert again.what == "digits-lbfgs"
    assert again.summary(TOP1).mean == 81.5
    assert again.summary(TOP1).count == 2


def test_evaluations_on_images_of_another_size_are_rows_of_their_own(tmp_path, write_run):
    run = write_run(tmp_path / "run")
    evaluate(run, "digits-lbfgs", top1=80.0, image_size=8, encoder_image_size=8)
    evaluate(run, "digits-lbfgs-2", top1=60.0, image_size=16, encoder_image_size=8)
    (digits,) = tables(tmp_path)
    found = {row.what: row.summary(TOP1).mean for row in digits.again}
    assert found == {"digits-lbfgs": 80, "digits-lbfgs, images of 16 x 16": 60}


def test_evaluations_in_another_precision_are_rows_of_their_own(tmp_path, write_run):
    run = write_run(tmp_path / "run", result={"precision": "bf16"})
    evaluate(run, "digits-lbfgs", top1=80.0, precision="bf16")
    evaluate(run, "digits-lbfgs-2", top1=60.0, precision="fp32")
    (digits,) = tables(tmp_path)
    found = {row.what: row.summary(TOP1).mean for row in digits.again}
    assert found == {"digits-lbfgs": 80, "digits-lbfgs, precision fp32": 60}


@pytest.mark.parametrize(
    "damage",
    [{"num_classes": [2]}, {"corruption": {"top1": {"fog": 3}}}, {"few_labels": {"5": 3}}],
    ids=str,
)
def test_values_of_other_types_do_not_stop_the_report(tmp_path, write_run, damage):
    run = write_run(tmp_path / "run")
    evaluate(run, "digits-lbfgs", **damage)
    (run / "result.json").write_text(
        json.dumps(json.loads((run / "result.json").read_text()) | damage)
    )
    (digits,) = tables(tmp_path)
    assert len(digits.again) == 1


def test_few_labels_and_corruptions_are_measures_of_their_own(tmp_path, write_run):
    few = {"0.01": {"top1": 40.0, "top1_std": 2.0}, "5": {"top1": 60.0}}
    corruption = {"mean_top1": 30.0, "top1": {"fog": {"1": 40, "5": 20}, "snow": {"5": 30}}}
    run = write_run(tmp_path / "run")
    evaluate(
        run,
        "digits-lbfgs-epoch-00003",
        few_labels=few,
        corruption=corruption,
        few_labels_protocol="long words",
        features="projector",
        checkpoint="epoch-00003.pt",
    )
    (again,) = tables(tmp_path)[0].again
    assert again.what == (
        "digits-lbfgs-epoch-00003, features projector, checkpoint epoch-00003.pt, "
        "2 kinds of corruption in strengths 1, 5"
    )
    shown = {m.title: again.summary(m).mean for m in tables(tmp_path)[0].again_measures()}
    assert shown["1 % of labels"] == 40
    assert shown["5 a class"] == 60
    assert shown["corrupted top-1"] == 30


def test_an_encoder_from_elsewhere_is_a_group_without_a_loss(tmp_path, write_run):
    write_run(tmp_path / "run", loss="tcl", k1=5)
    nothing = {"loss": {"name": "none"}, "method": {"name": "none"}, "epochs": 0, "steps": 0}
    other = write_run(tmp_path / "evaluations" / "other", loss="tcl", k1=7, result=nothing)
    (other / "metrics.jsonl").unlink()
    collection = Collector([str(tmp_path)]).collect()
    assert collection.notes == []
    (table,) = tables_of(collection.finished)
    assert [group.label for group in table.groups] == ["not trained here", "tcl"]
