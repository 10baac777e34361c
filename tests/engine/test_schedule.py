"""Schedules: the factor on the peak learning rate, by step."""

from __future__ import annotations

import math
from dataclasses import FrozenInstanceError
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tcl_train.engine.schedule import Constant, Cosine, Linear, Step, by_epoch, warmup

few = settings(max_examples=100)
KINDS = [Cosine, Linear, Step, Constant]
whole_numbers = st.integers(1, 40)


def factors(schedule, steps_per_epoch, epochs):
    return [schedule(t, steps_per_epoch, epochs) for t in range(steps_per_epoch * epochs)]


# ------------------------------------------------------------------ values by hand


def test_cosine_without_warm_up():
    quarter = math.sqrt(0.5)  # cos 45 degrees
    expected = [1, (1 + quarter) / 2, 0.5, (1 - quarter) / 2]
    assert factors(Cosine(), 2, 2) == pytest.approx(expected)
    assert Cosine()(4, 2, 2) == pytest.approx(0, abs=1e-15)


def test_cosine_with_warm_up_and_floor():
    """Two steps up to 1, then four between 1 and 0.2."""
    schedule = Cosine(warmup_epochs=1, floor=0.2)
    quarter = math.sqrt(0.5)
    expected = [0.5, 1, 1, 0.6 + 0.4 * quarter, 0.6, 0.6 - 0.4 * quarter]
    assert factors(schedule, 2, 3) == pytest.approx(expected)
    assert schedule(6, 2, 3) == pytest.approx(0.2)


def test_the_papers_cosine_ends_at_a_thousandth():
    """From lr to lr times 0.1 cubed."""
    schedule = Cosine(floor=0.001)
    assert schedule(0, 390, 100) == 1
    assert schedule(390 * 50, 390, 100) == pytest.approx(0.5005)
    assert schedule(390 * 100 - 1, 390, 100) == pytest.approx(0.001, rel=1e-4)


def test_step_multiplies_by_gamma_at_each_milestone():
    schedule = Step(milestones=(0.5, 0.75), gamma=0.1)
    assert factors(schedule, 2, 4) == pytest.approx([1, 1, 1, 1, 0.1, 0.1, 0.01, 0.01])


def test_step_warms_up_first():
    schedule = Step(milestones=(0.5,), gamma=0.5, warmup_epochs=1)
    assert factors(schedule, 4, 2) == pytest.approx([0.25, 0.5, 0.75, 1, 0.5, 0.5, 0.5, 0.5])


def test_milestones_may_come_in_any_order():
    assert factors(Step((0.75, 0.5)), 2, 4) == factors(Step((0.5, 0.75)), 2, 4)


def test_without_milestones_nothing_falls():
    assert set(factors(Step(()), 3, 3)) == {1.0}


@few
@given(
    milestone=st.sampled_from(["0.1", "0.3", "0.6", "0.7", "0.8", "0.9"]),
    steps_per_epoch=st.sampled_from([1, 10, 97, 390, 781]),
    epochs=st.integers(1, 200),
)
def test_a_milestone_falls_on_the_step_of_that_share_of_the_run(milestone, steps_per_epoch, epochs):
    """Exactly, where the share is a whole step: 0.8 of 30 steps is step 24, although as floats
    the product is above 24."""
    at = math.ceil(Fraction(milestone) * steps_per_epoch * epochs)
    schedule = Step(milestones=(float(milestone),))
    assert schedule(at, steps_per_epoch, epochs) == pytest.approx(0.1)
    assert at == 0 or schedule(at - 1, steps_per_epoch, epochs) == 1


def test_constant_warms_up_and_stays():
    assert factors(Constant(), 3, 2) == [1] * 6
    assert factors(Constant(warmup_epochs=1), 4, 2) == pytest.approx([0.25, 0.5, 0.75] + [1] * 5)


def test_part_of_an_epoch_may_warm_up():
    """Half of five steps: parts of 1 / 2.5."""
    assert factors(Constant(warmup_epochs=0.5), 5, 1) == pytest.approx([0.4, 0.8, 1, 1, 1])


def test_warm_up_reaches_one_on_its_last_step():
    assert [warmup(t, 3) for t in range(5)] == pytest.approx([1 / 3, 2 / 3, 1, 1, 1])
    assert warmup(0, 0) == 1


# ------------------------------------------------------------------ properties


@few
@given(
    kind=st.sampled_from(KINDS),
    steps_per_epoch=whole_numbers,
    epochs=whole_numbers,
    share=st.floats(0, 0.6),  # the first milestone
)
def test_a_schedule_rises_to_one_and_never_again(kind, steps_per_epoch, epochs, share):
    warmup_epochs = share * epochs
    values = factors(kind(warmup_epochs=warmup_epochs), steps_per_epoch, epochs)
    peak = max(0, math.ceil(warmup_epochs * steps_per_epoch) - 1)
    rise, fall = values[: peak + 1], values[peak:]
    assert all(0 < v <= 1 for v in values)
    assert rise == sorted(rise)
    assert fall == sorted(fall, reverse=True)
    assert values[peak] == pytest.approx(1)


@few
@given(
    floor=st.floats(0, 1), warmup_epochs=st.floats(0, 3), n=whole_numbers, epochs=st.integers(4, 40)
)
def test_cosine_reaches_its_floor_at_the_end(floor, warmup_epochs, n, epochs):
    schedule = Cosine(warmup_epochs=warmup_epochs, floor=floor)
    assert schedule(n * epochs, n, epochs) == pytest.approx(floor, abs=1e-12)
    assert all(schedule(t, n, epochs) >= floor for t in range(3 * n + 1, n * epochs))
    assert schedule(n * epochs + 5, n, epochs) == pytest.approx(floor, abs=1e-12)


def test_a_warm_up_longer_than_the_run_only_rises():
    for kind in (Cosine, Linear, Constant):
        values = factors(kind(warmup_epochs=10), 2, 2)
        assert values == pytest.approx([0.05, 0.1, 0.15, 0.2])


@pytest.mark.parametrize("kind", KINDS)
def test_a_schedule_is_a_function_of_the_step_alone(kind):
    """Asked backwards, as by a run that was resumed, it says the same; and it cannot change."""
    schedule = kind(warmup_epochs=1)
    forwards = factors(schedule, 3, 5)
    assert [schedule(t, 3, 5) for t in reversed(range(15))] == forwards[::-1]
    assert kind(warmup_epochs=1) == schedule
    with pytest.raises(FrozenInstanceError):
        schedule.warmup_epochs = 2


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_of_one_step_is_possible(kind):
    assert kind()(0, 1, 1) == 1


# ------------------------------------------------------------------ what is refused


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: Cosine(warmup_epochs=-1), "warmup_epochs must be .* >= 0, got -1"),
        (lambda: Step(warmup_epochs=-1), "warmup_epochs must be .* >= 0, got -1"),
        (lambda: Constant(warmup_epochs=-1), "warmup_epochs must be .* >= 0, got -1"),
        (lambda: Cosine(floor=-0.1), "floor must be .* >= 0 and <= 1, got -0.1"),
        (lambda: Cosine(floor=1.1), "floor must be .* >= 0 and <= 1, got 1.1"),
        (lambda: Step(gamma=0), "gamma must be .* > 0 and <= 1, got 0"),
        (lambda: Step(gamma=1.1), "gamma must be .* > 0 and <= 1, got 1.1"),
        (lambda: Step(milestones=(0.5, 1)), r"milestones\[1\] must be .* > 0 and < 1, got 1"),
        (lambda: Step(milestones=(0, 0.5)), r"milestones\[0\] must be .* > 0 and < 1, got 0"),
        (lambda: Step(milestones=(60, 75)), r"milestones\[0\] must be .* < 1, got 60"),
    ],
)
def test_values_out_of_range_are_refused_by_name(build, words):
    with pytest.raises(ValueError, match=words):
        build()


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: Cosine(warmup_epochs="5"), "warmup_epochs must be .* got '5'"),
        (lambda: Step(milestones=("a",)), r"milestones\[0\] must be .* got 'a'"),
        (lambda: Step(milestones="0.5"), r"milestones"),
        (lambda: Constant(warmup_epochs=True), "warmup_epochs must be .* got True"),
    ],
)
def test_values_of_the_wrong_type_are_refused_by_name(build, words):
    with pytest.raises(TypeError, match=words):
        build()


# ------------------------------------------------------------------ settings by epoch


def test_one_value_is_for_all_epochs():
    assert [by_epoch("view_size", 24, 3)(epoch) for epoch in range(3)] == [24] * 3
    assert by_epoch("view_size", None, 8)(7) is None


def test_values_hold_from_their_epoch_on():
    for pairs in ([[3, 32], [0, 24]], {3: 32, 0: 24}):
        size = by_epoch("view_size", pairs, 6)
        assert [size(epoch) for epoch in range(6)] == [24, 24, 24, 32, 32, 32]


@pytest.mark.parametrize(
    ("given", "error", "words"),
    [
        (0, ValueError, "view_size"),
        (2.5, TypeError, "view_size"),
        ("24", TypeError, "view_size"),
        ({1: 24}, ValueError, "from epoch 0 on"),
        ({0: 24, -1: 32}, ValueError, "an epoch of view_size"),
        ({0: 24, "a": 32}, TypeError, "epoch"),
        ([0, 24], ValueError, "pairs"),
        ([[0, 24, 32]], ValueError, "pairs"),
        (["ab"], ValueError, "pairs"),
        ([], ValueError, "from epoch 0 on"),
        ({0: -24}, ValueError, "view_size from epoch 0 on"),
        ([[0, 24], [6, 32]], ValueError, "epoch 6 .*beyond the run's 6"),
    ],
)
def test_other_settings_by_epoch_are_refused(given, error, words):
    with pytest.raises(error, match=words):
        by_epoch("view_size", given, 6)


# ------------------------------------------------------------------ linear


def test_linear_falls_by_equal_parts_after_its_warm_up():
    schedule = Linear(warmup_epochs=1, floor=0.1)
    factors = [schedule(step, 4, 3) for step in range(12)]
    assert factors[:4] == pytest.approx([0.25, 0.5, 0.75, 1.0])
    assert factors[4:] == pytest.approx([1 - 0.9 * k / 8 for k in range(8)])
    assert schedule(12, 4, 3) == pytest.approx(0.1)
