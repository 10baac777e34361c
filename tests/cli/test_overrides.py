"""Words that the program tells users to type are read back as they were meant."""

from __future__ import annotations

import shlex

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tcl_train.cli.overrides import parse_overrides, quoted, shell_word

# Any text that can name a folder.
names = st.text(
    st.characters(blacklist_categories=["Cs", "Cc"]) | st.sampled_from("'\"\\ =~,[]{}$!#()"),
    min_size=1,
    max_size=12,
)
steady = settings(max_examples=150)


def read(words: list[str]) -> object:
    (override,) = parse_overrides(words)
    return override.value()


@steady
@given(names)
@example("a\\'b\\")
@example("\\")
def test_a_quoted_value_is_read_as_it_is(text: str) -> None:
    assert read([f"resume={quoted(text)}"]) == text


@steady
@given(names)
@example("outputs/run 1 (best), seed=1")
@example("$HOME/it's `here`!")
@example("2024")
@example("1e5")
@example(".5")
@example("null")
@example("True")
def test_a_typed_word_comes_through_a_shell_and_the_grammar(text: str) -> None:
    words = shlex.split(shell_word("resume", text))
    assert len(words) == 1
    assert read(words) == text


@pytest.mark.parametrize(
    ("name", "word"),
    [
        ("run", "resume=run"),
        ("/a/b_c/2024-01-02_03-04-05", "resume=/a/b_c/2024-01-02_03-04-05"),
        ("outputs/digits-tcl/1", "resume=outputs/digits-tcl/1"),
        ("my runs", "\"resume='my runs'\""),
        ("0_seed=1", "\"resume='0_seed=1'\""),
    ],
)
def test_what_is_said_is_no_more_quoted_than_it_must_be(name: str, word: str) -> None:
    assert shell_word("resume", name) == word
