"""What the benchmark of losses compares computes the same."""

from __future__ import annotations

import importlib

import pytest
import torch


@pytest.mark.filterwarnings("ignore")  # flex attention, of itself
@pytest.mark.usefixtures("on_path")
@pytest.mark.parametrize("loss", ["tcl", "supcon"])
def test_dense_and_fused_forms_have_the_value_of_the_losses(loss: str) -> None:
    bench = importlib.import_module("bench_losses")
    flex = importlib.import_module("torch.nn.attention.flex_attention")
    k1, k2 = (bench.K1, bench.K2) if loss == "tcl" else (0.0, 1.0)
    z_ND, y_N = bench.rows_of(loss, 2048, torch.float32, torch.device("cpu"))
    expected = bench.IMPLEMENTATIONS[loss]["ours"]()(z_ND, y_N)
    dense = bench.IMPLEMENTATIONS[loss]["dense"]()
    fused = bench.flex_loss(k1, k2, attention=flex.flex_attention)
    for other in (dense, fused):
        torch.testing.assert_close(other(z_ND, y_N), expected, rtol=1e-5, atol=0)
