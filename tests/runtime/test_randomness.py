"""Randomness is a function of the seed and the draw's name."""

from __future__ import annotations

import hashlib
import itertools

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tcl_train.runtime.randomness import _state, derive, generator, seeded

names = st.lists(st.one_of(st.integers(), st.text("abc", min_size=1)), max_size=3)


def draw(g):
    return torch.rand(4, generator=g)


def test_a_derived_seed_is_the_same_for_ever():
    """Runs are resumed, and figures repeated, with later versions: this may not change."""
    digest = hashlib.blake2b(b"0/order/3", digest_size=8).digest()
    assert derive(0, "order", 3) == int.from_bytes(digest, "big") // 2
    assert derive(0, "order", 3) == 228_291_028_133_782_092


@settings(max_examples=100)
@given(seed=st.integers(), name=names)
def test_a_derived_seed_fits_torchs_generators(seed, name):
    value = derive(seed, *name)
    assert 0 <= value < 2**63
    assert value == derive(seed, *name)
    torch.Generator().manual_seed(value)


def test_every_part_of_the_name_counts():
    seeds = [
        derive(seed, word, number)
        for seed, word, number in itertools.product((0, 1, 10, -1), ("order", "views"), (0, 1, 10))
    ]
    seeds += [derive(0), derive(0, "order"), derive(0, "order", 1, 0), derive(1, "order", 10, 1)]
    assert len(set(seeds)) == len(seeds)


parts = st.one_of(
    st.integers(-20, 20), st.text('ab1-_/"\\ ', max_size=3), st.sampled_from(["1", "-1", ""])
)


@settings(max_examples=300)
@given(one=st.lists(parts, max_size=3), other=st.lists(parts, max_size=3))
@example(["a/b"], ["a", "b"])
@example(["a", 1], ["a", "1"])
@example([], [""])
@example(['"a"'], ["a"])
def test_names_that_differ_give_seeds_that_differ(one, other):
    assert (derive(0, *one) == derive(0, *other)) == (one == other)


def test_generators_of_one_name_draw_the_same_and_are_independent_of_each_other():
    first, second = generator(7, "order", 2), generator(7, "order", 2)
    assert first is not second
    assert torch.equal(draw(first), draw(second))
    assert not torch.equal(draw(first), draw(generator(7, "order", 2)))


def test_generators_of_other_names_draw_otherwise():
    values = draw(generator(7, "order", 2))
    for other in (generator(8, "order", 2), generator(7, "views", 2), generator(7, "order", 3)):
        assert not torch.equal(draw(other), values)


def test_all_bits_of_a_seed_count():
    """torch's own manual_seed takes 32 of them."""
    low = 5
    assert torch.equal(
        torch.rand(4, generator=torch.Generator().manual_seed(low)),
        torch.rand(4, generator=torch.Generator().manual_seed(low + 2**32)),
    )
    states = [bytes(_state(low + high).numpy()) for high in (0, 2**32, 2**62)]
    assert len(set(states)) == 3


def test_a_generator_is_numpy_s_mersenne_twister():
    """The words that torch draws from are those that were set."""
    state = np.random.SeedSequence(derive(3, "order")).generate_state(624)
    twister = np.random.RandomState()
    twister.set_state(("MT19937", state, 624))
    words = twister.randint(0, 2**32, 8, dtype=np.uint32)
    bits = torch.randint(0, 2**16, (8,), generator=generator(3, "order"))
    assert bits.tolist() == (words % 2**16).tolist()


def test_a_generator_leaves_the_global_one_alone():
    before = torch.get_rng_state()
    draw(generator(0, "order"))
    assert torch.equal(torch.get_rng_state(), before)
    assert generator(0, "order").device.type == "cpu"


def test_inside_the_block_the_global_generator_is_seeded():
    with seeded(3, "weights"):
        first = torch.nn.Linear(4, 4).weight
    torch.rand(5)
    with seeded(3, "weights"):
        second = torch.nn.Linear(4, 4).weight
    with seeded(4, "weights"):
        other = torch.nn.Linear(4, 4).weight
    assert torch.equal(first, second)
    assert not torch.equal(first, other)
    with seeded(3, "weights"):
        assert torch.equal(torch.rand(4), draw(generator(3, "weights")))


def test_after_the_block_the_global_generator_goes_on_as_if_nothing_had_been():
    before = torch.get_rng_state()
    with seeded(3, "weights"):
        torch.rand(5)
    assert torch.equal(torch.get_rng_state(), before)


def test_after_an_error_in_the_block_too():
    before = torch.get_rng_state()

    def fail():
        with seeded(3, "weights"):
            torch.rand(5)
            raise KeyError("a failure")

    with pytest.raises(KeyError):
        fail()
    assert torch.equal(torch.get_rng_state(), before)


def test_blocks_may_be_nested():
    with seeded(1, "outer"):
        torch.rand(1)
        expected = torch.rand(3)
    with seeded(1, "outer"):
        torch.rand(1)
        with seeded(2, "inner"):
            torch.rand(7)
        assert torch.equal(torch.rand(3), expected)
