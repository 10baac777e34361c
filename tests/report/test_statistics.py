"""Against scipy's tests, published power tables, and by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from tcl_train.report.statistics import (
    MOST_SEEDS,
    Difference,
    holm,
    paired_difference,
    power_of_paired_t,
    seeds_needed,
    summarise,
    verdict,
)


def test_a_summary_by_hand():
    summary = summarise([1.0, 2.0, 6.0])
    assert (summary.count, summary.mean) == (3, 3.0)
    assert summary.sd == pytest.approx(math.sqrt((4 + 1 + 9) / 2))


def test_a_single_value_has_no_spread():
    assert summarise([4.0]).sd is None


def test_nothing_cannot_be_summarised():
    with pytest.raises(ValueError, match="no values"):
        summarise([])


@pytest.mark.parametrize("count", [2, 3, 5, 20])
def test_a_paired_difference_is_scipys(count):
    rng = np.random.default_rng(count)
    first, second = rng.normal(1, 1, count), rng.normal(0, 1, count)
    found = paired_difference(dict(enumerate(first)), dict(enumerate(second)))
    known = stats.ttest_rel(first, second)
    interval = known.confidence_interval(0.95)
    assert found.p == pytest.approx(known.pvalue)
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high))
    assert found.sd == pytest.approx(np.std(first - second, ddof=1))


def test_only_shared_seeds_count():
    difference = paired_difference({1: 5.0, 2: 6.0, 9: 100.0}, {2: 4.0, 1: 4.0, 7: 0.0})
    assert (difference.count, difference.mean) == (2, 1.5)


def test_no_shared_seed_and_a_single_one():
    assert paired_difference({1: 5.0}, {2: 4.0}) == Difference(0, None, None, None, None, None)
    assert paired_difference({1: 5.0}, {1: 4.0}) == Difference(1, 1.0, None, None, None, None)


@pytest.mark.parametrize(("other", "p"), [(1.0, 1.0), (0.0, 0.0)])
def test_differences_that_are_all_equal(other, p):
    found = paired_difference(dict.fromkeys(range(4), 1.0), dict.fromkeys(range(4), other))
    assert (found.sd, found.p) == (0, p)
    assert found.low == found.high == found.mean


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


@pytest.mark.parametrize(("effect", "count"), [(0.2, 199), (0.5, 34), (0.8, 15), (1.0, 10)])
def test_seeds_needed_are_those_of_power_tables(effect, count):
    """Two-sided, 5 %, 80 %: as G*Power has them for the paired t test."""
    assert seeds_needed(Difference(5, effect, 1.0, 0.0, 0.0, 0.5)) == count
    assert seeds_needed(Difference(5, -effect, 1.0, 0.0, 0.0, 0.5)) == count


@pytest.mark.parametrize("effect", [0.05, 0.3, 2.0, 10.0])
@pytest.mark.parametrize("count", [2, 3, 10, 50])
def test_power_is_scipys(effect, count):
    critical = stats.t.ppf(0.975, count - 1)
    shift = effect * math.sqrt(count)
    known = stats.nct.sf(critical, count - 1, shift)
    below = stats.nct.cdf(-critical, count - 1, shift)
    assert power_of_paired_t(count, effect) == pytest.approx(known + np.nan_to_num(below), abs=1e-6)


def test_as_many_seeds_as_needed_have_the_power_and_one_less_has_not():
    for effect in (0.1, 0.33, 1.2):
        count = seeds_needed(Difference(5, effect, 1.0, 0.0, 0.0, 0.5))
        assert power_of_paired_t(count, effect) >= 0.8 > power_of_paired_t(count - 1, effect)


@pytest.mark.parametrize(
    ("mean", "sd", "needed"),
    [(0.0, 1.0, None), (1e-9, 1.0, None), (1.0, None, None), (None, None, None), (1.0, 0.0, 3)],
)
def test_seeds_needed_at_the_ends(mean, sd, needed):
    assert seeds_needed(Difference(5, mean, sd, None, None, None)) == needed


def test_never_more_seeds_than_anybody_trains():
    for effect in np.linspace(0.06, 0.12, 20):
        needed = seeds_needed(Difference(5, float(effect), 1.0, 0.0, 0.0, 0.5))
        assert needed is None or 3 <= needed <= MOST_SEEDS


@pytest.mark.parametrize(
    ("values", "adjusted", "higher_wins", "said"),
    [
        ((5, 1.0, 0.1, 0.8, 1.2, 0.001), 0.001, True, "A is better"),
        ((5, 1.0, 0.1, 0.8, 1.2, 0.001), 0.001, False, "B is better"),
        ((5, -1.0, 0.1, -1.2, -0.8, 0.001), 0.001, True, "B is better"),
        ((5, 1.0, 0.9, 0.1, 1.9, 0.03), 0.06, True, "cannot tell: not after the correction"),
        ((5, 1.0, 9.0, -5, 7, 0.5), 0.5, True, "cannot tell: the interval contains 0"),
        ((2, 1.0, 0.001, 0.9, 1.1, 0.001), 0.001, True, "cannot tell: 2 shared seeds, at least 3"),
        ((1, 1.0, None, None, None, None), None, True, "cannot tell: 1 shared seed, at least 3"),
        ((0, None, None, None, None, None), None, True, "cannot tell: no shared seed"),
        ((4, 0.0, 0.0, 0.0, 0.0, 1.0), 1.0, True, "equal with every shared seed"),
    ],
)
def test_verdicts(values, adjusted, higher_wins, said):
    assert verdict(Difference(*values), adjusted, higher_wins=higher_wins).startswith(said)
