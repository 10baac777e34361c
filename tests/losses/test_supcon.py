"""What is SupCon's own: its two forms."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tcl_train.losses import SupCon

few = settings(max_examples=50)


@few
@given(
    labels=st.lists(st.integers(0, 4), min_size=2, max_size=24),
    seed=st.integers(0, 2**32 - 1),
    tau=st.sampled_from([0.01, 0.05, 0.1, 0.5, 1.0]),
)
def test_the_form_in_never_exceeds_the_form_out(labels, seed, tau):
    """Jensen's inequality."""
    draw = torch.Generator().manual_seed(seed)
    z_ND = torch.randn(len(labels), 4, generator=draw, dtype=torch.float64)
    y_N = torch.tensor(labels)
    inside, outside = (SupCon(tau=tau, form=form)(z_ND, y_N) for form in ("in", "out"))
    assert inside <= outside + 1e-6  # and equal where there is one positive
    if max(map(labels.count, labels)) > 2 and tau <= 0.1:
        assert inside < outside - 1e-4


def test_the_forms_agree_where_each_anchor_has_one_positive(mixed_batch):
    z_ND, y_N = mixed_batch[0], torch.tensor([0, 0, 1, 1, 2, 2, 3, 4, 5, 6])
    inside, outside = (SupCon(form=form)(z_ND, y_N) for form in ("in", "out"))
    torch.testing.assert_close(inside, outside, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("form", ["out", "in"])
def test_equal_rows_give_the_chance_level(form):
    """ln(N - 1), with no hidden factor tau / base tau, whatever the temperature."""
    y_N = torch.tensor([0, 0, 0, 1, 1, 2])
    for tau in (0.07, 0.5):
        value = SupCon(tau=tau, form=form)(torch.ones(6, 4), y_N)
        assert value.item() == pytest.approx(math.log(5), rel=1e-6)


def test_the_defaults_are_the_published_ones():
    loss = SupCon()
    assert (loss.tau, loss.form) == (0.1, "out")
