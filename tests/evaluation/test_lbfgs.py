from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from omegaconf import OmegaConf
from sklearn.linear_model import LogisticRegression

from tcl_train.cli.choices import config_dir
from tcl_train.data.holding_out import held_out_rows
from tcl_train.evaluation.features import Features, accuracy
from tcl_train.evaluation.lbfgs import (
    HALF_DECADES,
    LBFGSProbe,
    LinearClassifier,
    Standardise,
)
from tcl_train.evaluation.probe import ProbeInput
from tcl_train.runtime.randomness import generator


@pytest.mark.parametrize("l2", [1e-1, 1e-3])
def test_fit_finds_the_minimum_that_scikit_learn_finds(make_features, l2) -> None:
    train = make_features(400)
    probe = LBFGSProbe(max_iter=500, tolerance=0)
    start = LinearClassifier(torch.zeros(5, 3), torch.zeros(3))
    weights = probe.fit(train, l2, start)
    # scikit-learn minimises C * sum of losses + |W|^2 / 2.
    reference = LogisticRegression(C=1 / (l2 * 400), tol=1e-10, max_iter=10_000)
    reference.fit(train.x_ND.double().numpy(), train.y_N.numpy())
    expected = torch.from_numpy(reference.predict_proba(train.x_ND.double().numpy())).float()
    got = weights.scores(train.x_ND).softmax(1)
    torch.testing.assert_close(got, expected, atol=2e-3, rtol=0)
    assert not start.w_DK.any()  # the start is left as it is


@pytest.fixture(scope="module")
def correlated() -> Features:
    """Features as encoders give them: a few directions with most of the variance, mixed; classes
    overlap."""
    rows, dim, classes = 800, 24, 6
    g = torch.Generator().manual_seed(5)
    y_N = torch.arange(rows) % classes
    centre_KD = 0.5 * torch.randn(classes, dim, generator=g)
    mixing_DD = torch.randn(dim, dim, generator=g) / torch.arange(1, dim + 1)[:, None]
    x_ND = (centre_KD[y_N] + torch.randn(rows, dim, generator=g)) @ mixing_DD
    return Features(Standardise(x_ND)(x_ND), y_N)


@pytest.mark.parametrize("start", ["cold", "warm"])
@pytest.mark.parametrize("l2", [1, 1e-2, 1e-4, 1e-5, 1e-6])
def test_strong_or_weak_cold_or_warm_a_fit_ends_at_scikit_learn_s_optimum(
    correlated: Features, l2: float, start: str
) -> None:
    """Warm, through all stronger ones, as the probe comes there. torch's own criterion would end a
    fit with weak L2 before any weight has moved."""
    x_ND, y_N = correlated.x_ND.double().numpy(), correlated.y_N.numpy()
    reference = LogisticRegression(C=1 / (l2 * len(y_N)), tol=1e-9, max_iter=50_000).fit(x_ND, y_N)
    best = LinearClassifier(
        torch.from_numpy(reference.coef_.T).float(), torch.from_numpy(reference.intercept_).float()
    )
    weights = LinearClassifier(torch.zeros(24, 6), torch.zeros(6))
    probe = LBFGSProbe(max_iter=1000)
    strengths = [l2] if start == "cold" else [x for x in HALF_DECADES if x >= l2]
    for strength in strengths:
        weights = probe.fit(correlated, strength, weights)
    assert objective(weights, correlated, l2) <= objective(best, correlated, l2) + 5e-4
    assert weights.w_DK.norm().item() == pytest.approx(best.w_DK.norm().item(), rel=0.05)


def objective(weights: LinearClassifier, train: Features, l2: float) -> float:
    loss = F.cross_entropy(weights.scores(train.x_ND), train.y_N)
    return (loss + 0.5 * l2 * weights.w_DK.square().sum()).item()


def test_the_strongest_of_the_best_on_held_out_rows_is_chosen(make_features, monkeypatch) -> None:
    """Fits are replaced: what matters here is which rows they get and which one is chosen."""
    train = make_features(100)
    good = LinearClassifier(torch.randn(5, 3), torch.zeros(3))
    perfect_K = {0.1: 1.0, 0.01: 1.0, 0.001: 0.0}
    fitted_on = []

    def fit(self, part, l2, start):
        fitted_on.append(part.x_ND)
        return LinearClassifier(good.w_DK * perfect_K.get(l2, 0.0), good.b_K)

    monkeypatch.setattr(LBFGSProbe, "fit", fit)
    probe = LBFGSProbe(l2=(1e-3, 1.0, 0.1, 0.01), held_out=0.2)
    # Labels that the weights of 0.1 and 0.01 predict without a mistake.
    train = Features(train.x_ND, good.scores(train.x_ND).argmax(1))
    held_N = held_out_rows(train.y_N, 0.2, generator(5, "held-out"))
    l2, top1, _ = probe.choose_l2(train, 3, seed=5)
    assert (l2, top1) == (0.1, 100)
    assert all(torch.equal(x_ND, train.x_ND[~held_N]) for x_ND in fitted_on)


def test_the_search_stops_after_three_strengths_below_the_best(make_features, monkeypatch) -> None:
    """As good as the best is not below it: on few rows many strengths are equally good."""
    train = make_features(50)
    good = LinearClassifier(torch.randn(5, 3), torch.zeros(3))
    train = Features(train.x_ND, good.scores(train.x_ND).argmax(1))
    tried = []

    def fit(self, part, l2, start):
        tried.append(l2)
        return good if l2 >= 1e-3 else LinearClassifier(-good.w_DK, good.b_K)

    monkeypatch.setattr(LBFGSProbe, "fit", fit)
    l2, top1, _ = LBFGSProbe().choose_l2(train, 3, seed=0)
    assert (l2, top1) == (1, 100)
    assert tried == [1, 0.3, 0.1, 0.03, 0.01, 3e-3, 1e-3, 3e-4, 1e-4, 3e-5]


def test_the_strengths_are_half_decades_or_those_given() -> None:
    """Stored configs of earlier versions have the list."""
    config = OmegaConf.load(config_dir() / "probe" / "lbfgs.yaml")
    assert config.l2 is None
    assert tuple(LBFGSProbe(l2=None).l2) == HALF_DECADES
    assert LBFGSProbe(l2=[1e-3, 1.0]).l2 == [1.0, 1e-3]


def test_a_probe_is_not_given_the_test_split() -> None:
    """So that it can decide nothing."""
    assert not {name for name in vars(ProbeInput)["__dataclass_fields__"] if "test" in name}


def test_probe_beats_chance_and_says_its_protocol(given, data) -> None:
    classifier = LBFGSProbe()(given)
    score_NK = classifier.scores(given, data.test)
    assert accuracy(score_NK, data.test.labels_N) > 60
    assert accuracy(score_NK, data.test.labels_N, top=5) == 100
    assert classifier.protocol["l2"] in LBFGSProbe().l2
    assert "held out" in classifier.protocol["l2_chosen_by"]


def test_standardise_gives_mean_0_and_deviation_1_and_survives_constants() -> None:
    x_ND = torch.randn(100, 4) * 7 + 3
    x_ND[:, 2] = 5
    y_ND = Standardise(x_ND)(x_ND)
    torch.testing.assert_close(y_ND.mean(0), torch.zeros(4), atol=1e-5, rtol=0)
    torch.testing.assert_close(y_ND.std(0, correction=0), torch.tensor([1.0, 1, 0, 1]))


@pytest.mark.parametrize(
    ("keys", "named"),
    [
        ({"l2": []}, "l2"),
        ({"l2": [0.0]}, "l2"),
        ({"held_out": 1}, "held_out"),
        ({"max_iter": 0}, "max_iter"),
        ({"tolerance": -1}, "tolerance"),
    ],
)
def test_wrong_values_are_named(keys, named) -> None:
    with pytest.raises(ValueError, match=named):
        LBFGSProbe(**keys)
