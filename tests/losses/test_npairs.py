"""What is N-pairs' own: rows as they are, and no temperature."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from tcl_train.losses import NPairs, NTXent


def rows(n=10, dimensions=6):
    draw = torch.Generator().manual_seed(0)
    return torch.randn(n, dimensions, generator=draw, dtype=torch.float64)


@pytest.mark.parametrize("tau", [0.05, 1.0])
def test_on_unit_rows_it_is_ntxent_and_the_length_is_the_temperature(tau):
    """Rows of length 1/sqrt(tau) have similarities s/tau."""
    y_N = torch.arange(5).repeat(2)
    value = NPairs()(F.normalize(rows()) / tau**0.5, y_N)
    torch.testing.assert_close(value, NTXent(tau=tau)(rows(), y_N), rtol=1e-12, atol=1e-12)


def test_long_rows_do_not_overflow(value_and_gradient):
    """e^{s} of rows as long as a thousand is no float64."""
    z_ND = (1000 * F.normalize(rows())).float()
    value, gradient_ND = value_and_gradient(NPairs(), z_ND, torch.arange(5).repeat(2))
    assert value.isfinite()
    assert gradient_ND.isfinite().all()
