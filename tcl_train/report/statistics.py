"""What seeds tell: means with their spread, and differences over shared seeds.

Two settings that were trained with the same seeds are compared pair by pair, since what a seed
decides (initial weights, order, views) moves both alike. Differences are taken as normally
distributed, as in Student's paired t test.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

LEVEL = 0.05  # two-sided; intervals cover 1 - LEVEL
POWER = 0.8
FEWEST_PAIRS = 3  # of two, the spread is hardly known
MOST_SEEDS = 1000  # beyond, nobody trains them


@dataclass(frozen=True)
class Summary:
    """count: of values. sd: standard deviation with n - 1; None of a single value."""

    count: int
    mean: float
    sd: float | None


def summarise(values: Sequence[float]) -> Summary:
    """Mean and standard deviation of at least one value."""
    count = len(values)
    if count == 0:
        raise ValueError("no values to summarise")
    mean = math.fsum(values) / count
    if count == 1:
        return Summary(1, mean, None)
    return Summary(count, mean, math.sqrt(math.fsum((v - mean) ** 2 for v in values) / (count - 1)))


@dataclass(frozen=True)
class Difference:
    """First minus second, over `count` shared seeds. sd, low and high (the 95 % t interval of the
    mean) and p (two-sided paired t test) are None below two pairs; mean is None without any."""

    count: int
    mean: float | None
    sd: float | None
    low: float | None
    high: float | None
    p: float | None


def paired_difference(first: Mapping[int, float], second: Mapping[int, float]) -> Difference:
    """Of two settings, each given as seed -> value."""
    differences = [first[seed] - second[seed] for seed in first if seed in second]
    if not differences:
        return Difference(0, None, None, None, None, None)
    summary = summarise(differences)
    if summary.sd is None:
        return Difference(1, summary.mean, None, None, None, None)
    from scipy import special  # a fraction of a second; scipy.stats takes seconds

    error = summary.sd / math.sqrt(summary.count)
    freedom = summary.count - 1
    half = float(special.stdtrit(freedom, 1 - LEVEL / 2)) * error
    if error > 0:
        p = 2 * float(special.stdtr(freedom, -abs(summary.mean) / error))
    else:
        p = 1.0 if summary.mean == 0 else 0.0
    low, high = summary.mean - half, summary.mean + half
    return Difference(summary.count, summary.mean, summary.sd, low, high, p)


def holm(p_values: Sequence[float]) -> list[float]:
    """The p values of several tests at once, adjusted by Holm's step-down method (1979): where one
    is below a level, the chance of any false finding among all is below that level."""
    adjusted = [0.0] * len(p_values)
    largest = 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = largest
    return adjusted


def power_of_paired_t(count: int, effect: float) -> float:
    """The chance that a two-sided paired t test of `count` pairs finds a true mean difference of
    `effect` standard deviations of the differences."""
    from scipy import special

    freedom, shift = count - 1, abs(effect) * math.sqrt(count)
    critical = special.stdtrit(freedom, 1 - LEVEL / 2)
    # Of the noncentral t distribution; scipy gives NaN for a probability that is too small.
    missed, opposite = special.nctdtr(freedom, shift, [critical, -critical])
    return 1 - (0.0 if math.isnan(missed) else missed) + (0.0 if math.isnan(opposite) else opposite)


def seeds_needed(difference: Difference) -> int | None:
    """How many shared seeds find this difference with a chance of 80 %, if the true difference and
    its spread are as seen; None where that is not known or more than a thousand."""
    if not difference.mean or difference.sd is None:
        return None
    if difference.sd == 0:
        return FEWEST_PAIRS
    effect = min(abs(difference.mean) / difference.sd, 10.0)
    low, high = FEWEST_PAIRS - 1, FEWEST_PAIRS  # the answer is above low, and at most high
    while power_of_paired_t(high, effect) < POWER:
        low, high = high, 2 * high
        if low > MOST_SEEDS:
            return None
    while high - low > 1:
        middle = (low + high) // 2
        if power_of_paired_t(middle, effect) >= POWER:
            high = middle
        else:
            low = middle
    return high if high <= MOST_SEEDS else None


CANNOT_TELL = "cannot tell"


def verdict(difference: Difference, adjusted_p: float | None, *, higher_wins: bool) -> str:
    """Which of the two is better, in words: A is the first.

    adjusted_p: p after a correction for several comparisons; None below two pairs.
    """
    if difference.count == 0:
        return f"{CANNOT_TELL}: no shared seed"
    if difference.count < FEWEST_PAIRS or difference.p is None or adjusted_p is None:
        shared = "1 shared seed" if difference.count == 1 else f"{difference.count} shared seeds"
        return f"{CANNOT_TELL}: {shared}, at least {FEWEST_PAIRS} are needed"
    if difference.sd == 0 and difference.mean == 0:
        return "equal with every shared seed"
    if adjusted_p < LEVEL:
        assert difference.mean is not None
        return "A is better" if (difference.mean > 0) == higher_wins else "B is better"
    if difference.p < LEVEL:
        return f"{CANNOT_TELL}: not after the correction for several comparisons"
    return f"{CANNOT_TELL}: the interval contains 0"
