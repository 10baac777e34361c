"""The heads between features and embeddings."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tcl_train.models import linear, mlp, none


def features(n=5, dim=12):
    return torch.randn(n, dim, generator=torch.Generator().manual_seed(0))


def linear_layers(module):
    return [(m.in_features, m.out_features) for m in module.modules() if isinstance(m, nn.Linear)]


def test_the_mlp_is_linear_relu_linear_to_128():
    projector = mlp(12)
    assert [type(m) for m in projector] == [nn.Linear, nn.ReLU, nn.Linear]
    assert linear_layers(projector) == [(12, 12), (12, 128)]
    assert projector(features()).shape == (5, 128)


@pytest.mark.parametrize("depth", [2, 3, 5])
def test_depth_counts_the_linear_layers(depth):
    projector = mlp(12, out_dim=3, hidden_dim=7, depth=depth)
    assert linear_layers(projector) == [(12, 7), *[(7, 7)] * (depth - 2), (7, 3)]
    assert [type(m) for m in projector] == [nn.Linear, nn.ReLU] * (depth - 1) + [nn.Linear]
    assert projector(features()).shape == (5, 3)


def test_the_mlp_ends_without_relu():
    """Embeddings must be able to point anywhere on the sphere."""
    torch.manual_seed(0)
    assert (mlp(12)(features()) < 0).any()


def test_the_features_are_left_alone():
    """Its ReLU works in place; diagnostics look at the features after it."""
    features_ND = features()
    for projector in (mlp(12), linear(12), none(12)):
        projector(features_ND)
        assert torch.equal(features_ND, features())


def test_the_linear_head_is_one_linear_layer():
    assert linear_layers(linear(12)) == [(12, 128)]
    assert linear(12, out_dim=4)(features()).shape == (5, 4)


def test_no_head_gives_the_features_and_has_no_parameters():
    assert torch.equal(none(12)(features()), features())
    assert list(none(12).parameters()) == []


@pytest.mark.parametrize(
    ("make", "name", "least"),
    [(mlp, "out_dim", 1), (mlp, "hidden_dim", 1), (mlp, "depth", 2), (linear, "out_dim", 1)],
)
def test_sizes_out_of_range_are_refused_by_name(make, name, least):
    with pytest.raises(
        ValueError, match=f"{name} must be a whole number >= {least}, got {least - 1}"
    ):
        make(12, **{name: least - 1})
    for value in (2.0, "4", True):
        with pytest.raises(TypeError, match=f"{name} must be .*, got {value!r}"):
            make(12, **{name: value})


def test_hidden_norm_stands_before_each_relu_and_takes_the_place_of_the_bias():
    projector = mlp(12, out_dim=3, hidden_dim=7, depth=3, hidden_norm=True)
    hidden = [nn.Linear, nn.BatchNorm1d, nn.ReLU]
    assert [type(m) for m in projector] == [*hidden, *hidden, nn.Linear]
    biases = [m.bias is not None for m in projector if isinstance(m, nn.Linear)]
    assert biases == [False, False, True]
    assert all(m.affine for m in projector if isinstance(m, nn.BatchNorm1d))


def test_out_norm_standardises_each_dimension_without_learned_values():
    projector = mlp(12, out_dim=3, out_norm=True)
    assert projector[-2].bias is None
    assert not projector[-1].affine
    z_ND = projector.train()(features(32))
    torch.testing.assert_close(z_ND.mean(0), torch.zeros(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(z_ND.var(0, correction=0), torch.ones(3), atol=1e-2, rtol=0)


@pytest.mark.parametrize("name", ["hidden_norm", "out_norm"])
def test_norms_are_booleans(name):
    with pytest.raises(TypeError, match=name):
        mlp(12, **{name: 1})
