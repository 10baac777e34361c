"""Words of commands that compose no config."""

from __future__ import annotations

import pytest

from tcl_train.cli.words import Key, boolean, help_of, integer, number, one_of, read_words
from tcl_train.errors import RequestError

KEYS = {
    "run": Key(help="a run", needed=True, example="DIR"),
    "out": Key(help="a file", default="out.pt"),
    "watch": Key(help="stay", read=boolean, default=False),
    "top": Key(help="how many", read=integer(at_least=1), default=5),
    "tau": Key(help="a temperature", read=number(above=0), default=0.1),
    "format": Key(help="a format", read=one_of("a", "b"), default="a"),
}


def read(*words: str, places: bool = False) -> tuple[dict[str, object], list[str]]:
    return read_words("tcl-thing", words, KEYS, places=places)


def test_values_are_read_in_their_types_and_defaults_fill_in():
    values, others = read("run=a=b", "watch=True", "top=3", "tau=1e-2", "format=b")
    assert values == {
        "run": "a=b",
        "out": "out.pt",
        "watch": True,
        "top": 3,
        "tau": 0.01,
        "format": "b",
    }
    assert others == []


def test_folders_stand_among_the_keys():
    values, others = read("one", "run=r", "./k=1/two", places=True)
    assert values["run"] == "r"
    assert others == ["one", "./k=1/two"]


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("tpo=3", "tpo=3: no such key; did you mean top? there are run, out, watch"),
        ("top=0", "top=0: must be a whole number >= 1"),
        ("top=x", "top=x: must be a whole number >= 1"),
        ("tau=0", "tau=0: must be a finite number > 0"),
        ("out=", "out=: nothing is given; give a value, or leave it out"),
        ("tau=x", "tau=x: must be a number"),
        ("watch=1", "watch=1: must be true or false"),
        ("format=c", "format=c: must be one of a, b"),
        ("run=other", "run=other: run is given twice; give it once"),
        ("stray", "stray: no such key; there are run, out"),
    ],
)
def test_a_wrong_word_is_named_with_what_would_be_right(word: str, message: str):
    with pytest.raises(RequestError, match=f"^{message.replace('?', '[?]')}"):
        read("run=r", word)


def test_a_missing_key_is_named():
    with pytest.raises(RequestError, match=r"^run is not set; give it, as in tcl-thing run=DIR$"):
        read("out=x")


def test_a_flag_is_no_folder():
    with pytest.raises(RequestError, match=r"^-x: no such flag; see tcl-thing --help$"):
        read("run=r", "-x", places=True)


def test_help_has_a_line_for_each_key():
    assert help_of(KEYS).splitlines()[1] == "  out=     a file"
