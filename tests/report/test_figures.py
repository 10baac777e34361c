"""Which figures are drawn from what; that they look well, a person has to see."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("matplotlib", reason="an extra")

from tcl_train.report.collect import Collector
from tcl_train.report.figures import FIGURES
from tcl_train.report.figures.confusion import confusion_percent, similar_together
from tcl_train.report.figures.curves import together
from tcl_train.report.figures.feature_map import layout, without_overlap
from tcl_train.report.figures.style import plain, save, setting_axis, styled
from tcl_train.report.measures import BY_KEY
from tcl_train.report.run_files import Curve
from tcl_train.report.tables import tables_of

CURVES = ["training", "gradients", "knn_over_training"]


def drawings(folder: Path, measure: str = "top1"):
    (table,) = tables_of(Collector([str(folder)]).collect().finished)
    with styled():
        return {d.name: d for draw in FIGURES for d in draw(table, BY_KEY[measure])}


def test_one_run_has_curves_only(tmp_path, write_run):
    write_run(tmp_path / "run")
    assert list(drawings(tmp_path)) == CURVES


def test_a_sweep_has_a_figure_for_each_setting(tmp_path, write_sweep):
    found = drawings(write_sweep(tmp_path))
    assert list(found) == ["top1_by_group", "top1_over_k1", *CURVES]
    (axes,) = found["top1_over_k1"].figure.axes
    assert axes.get_xscale() == "symlog"  # 0 is among the values
    low, high = axes.get_ylim()
    assert 89 < low < 90.5 < 94 < high < 95  # all of the data, and not much more


@pytest.mark.parametrize(
    ("key", "values"),
    [
        ("tau", (0.05, 0.1, 0.5)),
        ("batch_size", (64, 128)),
        ("encoder__width", (4, 16, 64, 256)),
        ("loss", ("ce", "supcon", "tcl")),
    ],
)
def test_any_setting_that_varies_has_its_figure(tmp_path, write_run, key, values):
    for value in values:
        write_run(tmp_path / str(value), **{key: value})
    assert f"top1_over_{key.replace('__', '_')}" in drawings(tmp_path)


def test_geometry_confusion_and_map_where_their_data_are(tmp_path, write_run, write_predictions):
    for tau in (0.05, 0.1, 0.5):
        geometry = {"uniformity": -3 + tau, "tolerance": tau, "alignment": 0.1, "rankme": 9.0}
        run = write_run(tmp_path / str(tau), tau=tau, result={"geometry": geometry})
    write_predictions(run, classes=["cat", "dog", "a$b$"])
    found = drawings(tmp_path)
    assert {"uniformity_tolerance", "confusion", "feature_map"} <= found.keys()
    assert "dog for a$b$" in found["confusion"].caption
    assert found["feature_map"].caption.startswith("PCA of the features of 40 test images")
    with styled():
        for name in ("uniformity_tolerance", "confusion", "feature_map"):
            save(found[name], tmp_path / f"{name}.png", "png")


def test_points_that_lie_together_have_one_label(tmp_path, write_run):
    for tau, uniformity in ((0.05, -3), (0.07, -2.99), (0.1, -2.98), (0.5, -1), (1.0, -0.1)):
        geometry = {"uniformity": uniformity, "tolerance": 1 + uniformity / 4}
        geometry |= {"alignment": 0.1, "rankme": 9.0}
        write_run(tmp_path / str(tau), tau=tau, result={"geometry": geometry})
    (axes,) = drawings(tmp_path)["uniformity_tolerance"].figure.axes
    assert [text.get_text() for text in axes.texts] == ["τ 0.05", "τ 0.5", "τ 1"]


def test_a_hundred_classes(tmp_path, write_run, write_predictions):
    run = write_run(tmp_path / "run")
    write_predictions(run, classes=[f"class {k}" for k in range(100)], count=1000)
    assert {"confusion", "feature_map"} <= drawings(tmp_path).keys()


def test_predictions_that_cannot_be_used(tmp_path, write_run, write_predictions):
    run = write_run(tmp_path / "run")
    write_predictions(run, classes=["a", "b"])
    whole = (run / "predictions.npz").read_bytes()
    labels_N = np.zeros(3, int)
    for content in (b"", whole[: len(whole) // 2], b"PK\x03\x04", b"no archive"):
        (run / "predictions.npz").write_bytes(content)
        assert list(drawings(tmp_path)) == CURVES
    for foreign in ({"labels": labels_N}, {"labels": labels_N, "predicted": labels_N + 7}):
        np.savez(run / "predictions.npz", classes=np.array(["a"]), **foreign)
        assert list(drawings(tmp_path)) == CURVES


def test_predictions_without_features_have_no_map(tmp_path, write_run):
    run = write_run(tmp_path / "run")
    labels_N = np.arange(4) % 2
    np.savez(run / "predictions.npz", labels=labels_N, predicted=labels_N, classes=["a", "b"])
    found = drawings(tmp_path)
    assert list(found) == [*CURVES, "confusion"]
    assert "No image taken wrongly" in found["confusion"].caption


def test_of_many_groups_a_few_are_drawn_and_the_caption_says_so(tmp_path, write_run):
    for k1 in range(1, 31):
        write_run(tmp_path / str(k1), loss="tcl", k1=k1, lines=3, result={"top1": 60.0 + k1})
    found = drawings(tmp_path)
    assert found["training"].caption.startswith("The best 8 of 30 groups")
    assert found["gradients"].caption.startswith("8, evenly over the table, of 30 groups")
    assert found["top1_by_group"].caption.startswith("The best 20 of 30 groups")


def test_the_same_figure_is_the_same_bytes(tmp_path, write_run):
    write_run(tmp_path / "run")
    for name in "ab":
        drawing = drawings(tmp_path)["training"]
        with styled():
            for kind in ("png", "pdf"):
                save(drawing, tmp_path / f"{name}.{kind}", kind)
    for kind in ("png", "pdf"):
        assert (tmp_path / f"a.{kind}").read_bytes() == (tmp_path / f"b.{kind}").read_bytes()


@pytest.mark.parametrize(
    ("values", "scale", "numbers"),
    [
        (["1", "3"], "linear", True),
        (["0.05", "0.1", "0.5"], "linear", True),
        (["5", "50", "5000"], "log", True),
        (["0", "50", "5000"], "symlog", True),
        (["-1", "0", "5000"], "linear", True),
        (["resnet8", "resnet18"], "linear", False),
        (["true", "1"], "linear", False),
    ],
)
def test_axes_of_settings(values, scale, numbers):
    from matplotlib.figure import Figure

    axes = Figure().subplots()
    places, are_numbers = setting_axis(axes, "key", values)
    assert (axes.get_xscale(), are_numbers) == (scale, numbers)
    assert places.keys() == set(values)


def test_names_that_matplotlib_would_read_as_something_else():
    assert plain("a$b$") == r"a\$b\$"
    assert not plain("_hidden").startswith("_")
    assert len(plain("x" * 100)) == 44


def test_curves_of_several_runs_meet_where_all_have_points():
    first = Curve(np.array([0.0, 1.0, 2.0]), np.array([0.0, 1.0, 2.0]))
    second = Curve(np.array([1.0, 3.0]), np.array([5.0, 7.0]))
    x_P, y_RP = together([first, second])
    assert (x_P[0], x_P[-1]) == (1.0, 2.0)
    assert y_RP[:, 0] == pytest.approx([1.0, 5.0])
    assert y_RP[:, -1] == pytest.approx([2.0, 6.0])


def test_confusion_by_hand():
    labels_N, predicted_N = np.array([0, 0, 0, 0, 2]), np.array([0, 0, 1, 2, 2])
    expected = [[50, 25, 25], [0, 0, 0], [0, 0, 100]]
    assert confusion_percent(labels_N, predicted_N, 3).tolist() == expected


def test_classes_that_are_taken_for_each_other_stand_together():
    rng = np.random.default_rng(0)
    shuffled_K = rng.permutation(30)
    pair_K = shuffled_K // 2
    percent_KK = 40.0 * (pair_K[:, None] == pair_K[None]) + np.eye(30)
    ordered = pair_K[similar_together(percent_KK)]
    assert (ordered[::2] == ordered[1::2]).all()


def test_a_map_is_the_same_each_time_and_keeps_clusters_apart():
    rng = np.random.default_rng(0)
    features_nD = np.repeat(np.eye(4, 16), 30, 0) + 0.05 * rng.normal(size=(120, 16))
    places_n2, method = layout(features_nD.astype(np.float32))
    assert method == "t-SNE"
    assert (layout(features_nD.astype(np.float32))[0] == places_n2).all()
    means = places_n2.reshape(4, 30, 2).mean(1)
    spread = np.abs(places_n2.reshape(4, 30, 2) - means[:, None]).max()
    apart = min(np.abs(means[i] - means[j]).max() for i in range(4) for j in range(i))
    assert apart > spread


def test_thumbnails_do_not_cover_each_other():
    rng = np.random.default_rng(0)
    places_n2 = rng.normal(size=(500, 2)).astype(np.float32)
    kept = without_overlap(places_n2)
    cell = (places_n2.max(0) - places_n2.min(0)) / 28
    away = np.abs(places_n2[kept][:, None] - places_n2[kept][None]) / cell
    assert (away.max(-1) + 2 * np.eye(len(kept)) >= 0.999).all()
    assert len(without_overlap(np.zeros((5, 2), np.float32))) == 1
