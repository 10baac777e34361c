"""Scores of prototypes.

N, B: rows; K: prototypes; D: embedding dimensions.
"""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from tcl_train.methods.prototypes import Prototypes, cross_entropies


def test_scores_are_cosines_whatever_the_lengths(rows):
    prototypes = Prototypes(4, 5).double()
    with torch.no_grad():
        prototypes.weight *= torch.arange(1.0, 5)[:, None]
    z_ND = rows(7, 5)
    expected = torch.cosine_similarity(z_ND[:, None], prototypes.weight[None], dim=2)
    torch.testing.assert_close(prototypes(z_ND), expected)


def test_they_begin_at_length_one():
    torch.testing.assert_close(Prototypes(4, 5).weight.norm(dim=1), torch.ones(4))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_scores_are_in_the_precision_of_the_rows_and_at_least_float32(dtype):
    score = Prototypes(4, 5)(torch.ones(2, 5, dtype=dtype))
    assert score.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)


def test_cross_entropies_are_those_of_torch(rows, assert_same_function):
    target_BK = rows(7, 4, seed=1).softmax(1).detach()
    assert_same_function(
        lambda logit_BK: cross_entropies(target_BK, logit_BK),
        lambda logit_BK: F.cross_entropy(logit_BK, target_BK),
        rows(7, 4),
    )


def test_one_prototype_is_too_few():
    with pytest.raises(ValueError, match="prototypes"):
        Prototypes(1, 5)
