"""Checks return the value in its type, or name the argument, the value, and what is right."""

from __future__ import annotations

import math
from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tcl_train import checks

# ------------------------------------------------------------------ integer


@pytest.mark.parametrize("value", [3, 4, 10**30])
def test_integers_pass(value):
    assert checks.integer("epochs", value, at_least=3) == value


def test_integers_below_are_refused():
    with pytest.raises(ValueError, match=r"^epochs must be a whole number >= 3, got 2$"):
        checks.integer("epochs", 2, at_least=3)


@pytest.mark.parametrize("value", [3.0, "3", None, True, [3]])
def test_what_is_no_integer_is_refused(value):
    with pytest.raises(TypeError, match="epochs must be a whole number >= 1, got ") as caught:
        checks.integer("epochs", value, at_least=1)
    assert str(caught.value).endswith(repr(value))


# ------------------------------------------------------------------ number


def test_a_number_comes_back_as_a_float():
    assert checks.number("tau", 1) == 1.0
    assert isinstance(checks.number("tau", 1), float)


@pytest.mark.parametrize(
    ("bounds", "inside", "outside"),
    [
        ({"above": 0}, [1e-300, 5], [0, -1]),
        ({"at_least": 0}, [0, 5], [-1e-300, -1]),
        ({"below": 1}, [0.999, -5], [1, 2]),
        ({"at_most": 1}, [1, -5], [1.001, 2]),
        ({"at_least": 0, "below": 1}, [0, 0.5], [-0.1, 1]),
        ({"above": 0, "at_most": 1}, [0.5, 1], [0, 1.1]),
    ],
    ids=str,
)
def test_bounds_are_kept(bounds, inside, outside):
    for value in inside:
        assert checks.number("x", value, **bounds) == value
    for value in outside:
        with pytest.raises(ValueError, match=rf"^x must be a finite number .*, got {value}$"):
            checks.number("x", value, **bounds)


def test_the_message_says_every_bound():
    with pytest.raises(ValueError, match=r"^x must be a finite number >= 0 and < 1, got 2$"):
        checks.number("x", 2, at_least=0, below=1)
    with pytest.raises(ValueError, match=r"^x must be a finite number > 0 and <= 0.5, got 2$"):
        checks.number("x", 2, above=0, at_most=0.5)
    with pytest.raises(ValueError, match=r"^x must be a finite number, got nan$"):
        checks.number("x", math.nan)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("bounds", [{}, {"at_least": 0}, {"at_most": 0}], ids=str)
def test_numbers_that_are_not_finite_are_refused(value, bounds):
    with pytest.raises(ValueError, match=f"x must be a finite number.*, got {value}"):
        checks.number("x", value, **bounds)


def test_a_whole_number_beyond_floats_is_refused_like_infinity():
    with pytest.raises(ValueError, match=r"^k1 must be a finite number >= 0, got 1000"):
        checks.number("k1", 10**400, at_least=0)


@pytest.mark.parametrize("value", ["1", None, True, [1.0], 1j])
def test_what_is_no_number_is_refused(value):
    with pytest.raises(TypeError, match="tau must be a finite number > 0, got ") as caught:
        checks.number("tau", value, above=0)
    assert str(caught.value).endswith(repr(value))


# ------------------------------------------------------------------ the others


def test_booleans_pass():
    assert checks.boolean("resume", True) is True
    assert checks.boolean("resume", False) is False


@pytest.mark.parametrize("value", [1, 0, "true", None])
def test_what_is_no_boolean_is_refused(value):
    with pytest.raises(TypeError, match=f"^resume must be true or false, got {value!r}$"):
        checks.boolean("resume", value)


def test_one_of_the_allowed_passes():
    assert checks.one_of("form", "in", ("out", "in")) == "in"
    assert checks.one_of("form", "in", iter(("out", "in"))) == "in"


def test_what_is_not_allowed_is_refused_with_the_list():
    with pytest.raises(ValueError, match=r"^form must be one of out, in, got 'both'$"):
        checks.one_of("form", "both", iter(("out", "in")))


@given(low=st.floats(0, 1), high=st.floats(0, 1))
def test_an_interval_is_two_numbers_in_order(low, high):
    if low <= high:
        assert checks.interval("scale", [low, high], at_least=0, at_most=1) == (low, high)
    else:
        with pytest.raises(ValueError, match=r"^scale\[1\] must be a finite number >= "):
            checks.interval("scale", [low, high], at_least=0, at_most=1)


def test_an_interval_comes_back_as_floats():
    low, high = checks.interval("scale", (0, 1), at_least=0, at_most=1)
    assert (type(low), type(high)) == (float, float)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ((-0.1, 1), r"scale\[0\] must be a finite number >= 0 and <= 1, got -0.1"),
        ((0.2, 1.1), r"scale\[1\] must be a finite number >= 0.2 and <= 1, got 1.1"),
    ],
)
def test_an_interval_out_of_bounds_is_refused(value, words):
    with pytest.raises(ValueError, match=words):
        checks.interval("scale", value, at_least=0, at_most=1)


@pytest.mark.parametrize("value", [0.5, (0.1,), (0, 0.5, 1), None])
def test_what_is_no_pair_is_refused(value):
    with pytest.raises(TypeError, match=r"scale must be two numbers \[low, high\], got ") as caught:
        checks.interval("scale", value, at_least=0, at_most=1)
    assert str(caught.value).endswith(repr(value))


def test_a_pair_of_words_is_refused():
    with pytest.raises(TypeError, match=r"scale\[0\] must be .*, got 'a'"):
        checks.interval("scale", ("a", "b"), at_least=0, at_most=1)


@pytest.mark.parametrize(
    "value", [[0.1], (0.1,), range(3), iter("ab")], ids=["list", "tuple", "range", "iterator"]
)
def test_several_values_come_back_as_a_list(value: Iterable[object]) -> None:
    assert isinstance(checks.several("l2", value), list)


@pytest.mark.parametrize("value", [0.1, "word", None, {0.1: 1}])
def test_what_is_no_list_of_values_is_refused(value: object) -> None:
    with pytest.raises(TypeError, match=r"^l2 must be a list .* of 1 or more values, got ") as told:
        checks.several("l2", value)
    assert str(told.value).endswith(repr(value))


def test_a_list_of_too_few_values_is_refused() -> None:
    assert checks.several("l2", [], at_least=0) == []
    with pytest.raises(
        ValueError, match=r"^l2 must be a list \[\.\.\.\] of 2 or more values, got \[1\]"
    ):
        checks.several("l2", [1], at_least=2)


@pytest.mark.parametrize("value", [0, 0.3, 1])
def test_a_probability_is_a_number_or_one_a_view(value: float) -> None:
    assert checks.probability("p", value) == value
    assert checks.probability("p", [value, 0.5]) == (value, 0.5)


@pytest.mark.parametrize(
    ("value", "named"), [(1.1, "p"), ("0.5", "p"), ([], "p"), ([0.5, -0.1], r"p\[1\]"), (True, "p")]
)
def test_what_is_no_probability_is_named(value: object, named: str) -> None:
    with pytest.raises((ValueError, TypeError), match=rf"^{named} must be a finite number >= 0"):
        checks.probability("p", value)


def test_all_complaints_are_raised_at_once():
    done = []
    checks.all_of(lambda: done.append(1), lambda: checks.integer("a", 1, at_least=1))
    assert done == [1]
    with pytest.raises(TypeError, match=r"^a must be"):
        checks.all_of(lambda: checks.integer("a", "x", at_least=1), lambda: done.append(2))
    assert done == [1, 2]
    with pytest.raises(ValueError, match=r"^a must be .*; b must be .*"):
        checks.all_of(
            lambda: checks.integer("a", "x", at_least=1),
            lambda: checks.number("b", -1, at_least=0),
        )
