"""Probes of few labels and accuracy on corrupted images, and the predictions that are stored."""

from __future__ import annotations

import dataclasses
from statistics import mean, stdev

import numpy as np
import pytest
import torch

from tcl_train.data.corruptions import CORRUPTIONS
from tcl_train.data.dataset import Split
from tcl_train.data.holding_out import few_rows
from tcl_train.data.images import ArrayImages
from tcl_train.errors import RequestError
from tcl_train.evaluation import measure
from tcl_train.evaluation.corruption import Corrupted
from tcl_train.evaluation.evaluate import Evaluator, Measured
from tcl_train.evaluation.few_labels import FewLabels
from tcl_train.evaluation.finetune import FineTuneProbe
from tcl_train.evaluation.lbfgs import LBFGSProbe
from tcl_train.evaluation.predictions import Predictions


@pytest.fixture
def evaluate(data, augment, encoder, runtime):
    def run(*further, probe=None, of=data) -> Measured:
        return Evaluator(
            data=of,
            probe=probe or LBFGSProbe(l2=[1e-3]),
            augment=augment,
            runtime=runtime,
            make_untrained=None,
            seed=1,
            batch_size=32,
            mirror_features=False,
            further=further,
        ).measure(encoder)

    return run


# ------------------------------------------------------------------ few labels


def test_rows_are_drawn_from_each_class() -> None:
    y_N = torch.tensor([0] * 50 + [1] * 20 + [3] * 3)

    def counts(amount: float) -> list[int]:
        rows_M = few_rows(y_N, amount, torch.Generator().manual_seed(1))
        assert torch.equal(rows_M, rows_M.unique())
        return torch.bincount(y_N[rows_M], minlength=4).tolist()

    assert counts(5) == [5, 5, 0, 3]
    assert counts(0.1) == [5, 2, 0, 1]
    assert counts(0.01) == [1, 1, 0, 1]


def test_few_labels_are_the_mean_of_several_draws(evaluate) -> None:
    values, _ = evaluate(FewLabels([5, 0.5], draws=3))
    found = values["few_labels"]
    assert list(found) == ["5", "0.5"]
    assert (found["5"]["images"], found["0.5"]["images"]) == (15, 120)
    draws = found["5"]["top1_of_draws"]
    assert len(draws) == 3
    assert len(set(draws)) > 1
    assert found["5"]["top1"] == pytest.approx(mean(draws))
    assert found["5"]["top1_std"] == pytest.approx(stdev(draws))
    assert 60 < found["5"]["top1"] <= found["0.5"]["top1"] <= 100
    assert "each class" in values["few_labels_protocol"]


def test_a_number_of_labels_is_the_same_beside_others_and_one_draw_has_no_deviation(
    evaluate,
) -> None:
    alone = evaluate(FewLabels(5, draws=1)).values["few_labels"]["5"]
    beside = evaluate(FewLabels([20, "50%", 5], draws=1)).values["few_labels"]
    assert beside["5"] == alone
    assert list(beside) == ["20", "0.5", "5"]
    assert alone["top1_std"] is None


def test_few_labels_take_the_chosen_probe(evaluate) -> None:
    probe = FineTuneProbe(epochs=1, min_steps=30, batch_size=16)
    values, _ = evaluate(FewLabels([10], draws=1), probe=probe)
    assert values["few_labels"]["10"]["top1"] > 40


def test_more_labels_than_a_class_has_are_refused_with_its_name(data) -> None:
    FewLabels([80, 0.99]).check(data)
    with pytest.raises(RequestError, match=r"few_labels=81: class a has 80 training images"):
        FewLabels([81, 0.1]).check(data)


@pytest.mark.parametrize("amounts", [[], 0, [-1], [1.5], ["x"], ["300%"], [True], None, [[5]]])
def test_wrong_amounts_are_named(amounts) -> None:
    with pytest.raises((ValueError, TypeError), match="few_labels"):
        FewLabels(amounts)


# ------------------------------------------------------------------ corrupted images


def test_each_kind_and_severity_has_its_accuracy(evaluate) -> None:
    values, _ = evaluate(Corrupted(["contrast", "gaussian_noise"], [5, 1]))
    found = values["corruption"]
    assert list(found["top1"]) == ["gaussian_noise", "contrast"]
    assert list(found["top1"]["contrast"]) == ["1", "5"]
    every = [value for of_kind in found["top1"].values() for value in of_kind.values()]
    assert found["mean_top1"] == pytest.approx(mean(every))
    assert found["top1"]["contrast"]["5"] < values["top1"]
    assert values["top1"] == evaluate().values["top1"]  # fitted to clean images all the same


def test_all_are_all() -> None:
    assert Corrupted("all").kinds == list(CORRUPTIONS)
    assert Corrupted("fog").severities == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("words", [("smog",), ("fog", 6), ("fog", "x"), ([],), (["fog", "x"],)])
def test_wrong_corruptions_are_named(words) -> None:
    with pytest.raises((ValueError, TypeError), match="corruption"):
        Corrupted(*words)


# ------------------------------------------------------------------ predictions


def test_predictions_agree_with_the_measures_and_come_back_from_the_file(
    evaluate, data, tmp_path
) -> None:
    values, found = evaluate()
    found.save(tmp_path / "predictions.npz")
    assert [path.name for path in tmp_path.iterdir()] == ["predictions.npz"]
    again = Predictions.load(tmp_path / "predictions.npz")
    for field in dataclasses.fields(Predictions):
        one, other = getattr(found, field.name), getattr(again, field.name)
        assert one.dtype == other.dtype
        assert np.array_equal(one, other)
    right_N = found.predicted == found.labels
    assert 100 * right_N.mean() == pytest.approx(values["top1"])
    assert np.array_equal(found.labels, data.test.labels_N.numpy())
    assert ((found.confidence > 1 / 3) & (found.confidence <= 1)).all()
    assert found.classes.tolist() == ["a", "b", "c"]
    dtypes = {"labels": "int64", "predicted": "int64", "confidence": "float32", "sample": "int64"}
    dtypes |= {"sample_features": "float16", "thumbnails": "uint8"}
    assert {name: str(getattr(found, name).dtype) for name in dtypes} == dtypes


def test_of_many_images_a_sample_is_stored(evaluate, data, monkeypatch) -> None:
    monkeypatch.setattr(measure, "SAMPLED", 20)
    found = evaluate().predictions
    assert found.sample_features.shape == (20, 8)
    assert found.thumbnails.shape == (20, 6, 6, 3)
    assert sorted(set(found.sample)) == found.sample.tolist()
    images_NHWC = data.test.images.images_NCHW.permute(0, 2, 3, 1).numpy()
    assert np.array_equal(found.thumbnails, images_NHWC[found.sample])


def test_thumbnails_of_large_grey_images_are_small_and_have_three_channels(
    evaluate, data, augment, encoder
) -> None:
    def grey(split: Split) -> Split:
        images = torch.randint(256, (len(split), 1, 40, 40), dtype=torch.uint8)
        return Split(ArrayImages(images), split.labels_N)

    of = dataclasses.replace(data, train=grey(data.train), test=grey(data.test))
    assert evaluate(of=of).predictions.thumbnails.shape == (90, 32, 32, 3)


@pytest.mark.parametrize("content", [None, b"", b"not a zip"])
def test_a_file_that_is_not_whole_is_refused(tmp_path, content) -> None:
    path = tmp_path / "predictions.npz"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(RequestError, match=r"predictions\.npz"):
        Predictions.load(path)
