"""What is the simple contrastive loss's own: it does not care how hard a negative is."""

from __future__ import annotations

import pytest
import torch

from tcl_train.losses import SimpleContrastive


def batch():
    draw = torch.Generator().manual_seed(0)
    z_ND = torch.randn(8, 12, generator=draw, dtype=torch.float64)
    y_N = torch.arange(4).repeat(2)
    same_NM = y_N[:, None] == y_N
    return z_ND, y_N, same_NM & ~torch.eye(8, dtype=torch.bool), ~same_NM


def test_every_negative_is_pushed_alike(gradient_by_similarity):
    """A pair is in the losses of both its rows, each 1/8 of the mean."""
    z_ND, y_N, positive_NM, negative_NM = batch()
    gradient_NM = gradient_by_similarity(SimpleContrastive(lam=0.3), z_ND, y_N)
    for mask_NM, expected in ((positive_NM, -2 / 8), (negative_NM, 0.3 * 2 / 8)):
        assert gradient_NM[mask_NM].tolist() == pytest.approx([expected] * int(mask_NM.sum()))


def test_the_hard_form_pushes_only_the_hardest(gradient_by_similarity):
    z_ND, y_N, _, negative_NM = batch()
    gradient_NM = gradient_by_similarity(SimpleContrastive(lam=0.3, alpha=0.01), z_ND, y_N)
    pushed = [round(8 * g / 0.3) for g in gradient_NM[negative_NM].tolist()]
    assert set(pushed) == {0, 1, 2}  # by neither row, by one, by both
    assert sum(pushed) / 2 == 8  # one for each anchor


def test_all_negatives_are_kept_unless_asked_otherwise():
    assert SimpleContrastive().alpha is None


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_without_negatives_nothing_is_pushed_however_large_lam_is(dtype):
    """The sum over all rows less that over the class leaves rounding, which lam would amplify."""
    z_ND = torch.randn(33, 8, generator=torch.Generator().manual_seed(0)).to(dtype)
    y_N = torch.zeros(33, dtype=torch.int64)
    small, large = (SimpleContrastive(lam=lam)(z_ND, y_N) for lam in (1e-6, 1e6))
    torch.testing.assert_close(large, small)
