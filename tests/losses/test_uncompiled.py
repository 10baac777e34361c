"""The blockwise engine inside a compiled program."""

from __future__ import annotations

import pytest
import torch

from tcl_train.losses import TCL


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # torch's compiler, of itself
def test_a_compiled_loss_gives_what_the_loss_gives() -> None:
    loss = TCL(tau=0.1, k1=5.0, k2=1.0)
    g = torch.Generator().manual_seed(0)
    labels_N = torch.arange(1500) // 4
    results = []
    for function in (loss, torch.compile(loss, backend="eager")):
        z_ND = torch.randn(1500, 16, generator=g.manual_seed(0)).requires_grad_()
        value = function(z_ND, labels_N)
        value.backward()
        results.append((value.detach(), z_ND.grad))
    assert torch.equal(results[0][0], results[1][0])
    assert torch.equal(results[0][1], results[1][1])
