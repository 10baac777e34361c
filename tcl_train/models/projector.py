"""Projectors: the head between the encoder's features and the embeddings that the loss sees.

Each maker takes the encoder's `feature_dim` first and returns a module (N, feature_dim) -> (N, D).
"""

from __future__ import annotations

from torch import nn

from tcl_train import checks


def mlp(
    feature_dim: int,
    *,
    out_dim: int = 128,
    hidden_dim: int | None = None,
    depth: int = 2,
    hidden_norm: bool = False,
    out_norm: bool = False,
) -> nn.Module:
    """Linear-ReLU-...-Linear with `depth` linear layers; `hidden_dim` defaults to `feature_dim`,
    as in SimCLR, SupCon and TCL.

    hidden_norm: batch norm before each ReLU. out_norm: batch norm at the end, without learned
    values, as in SimSiam.
    """
    checks.integer("out_dim", out_dim, at_least=1)
    checks.integer("depth", depth, at_least=2)
    checks.boolean("hidden_norm", hidden_norm)
    checks.boolean("out_norm", out_norm)
    if hidden_dim is None:
        hidden_dim = feature_dim
    checks.integer("hidden_dim", hidden_dim, at_least=1)
    layers: list[nn.Module] = []
    width = feature_dim
    for _ in range(depth - 1):
        layers.append(nn.Linear(width, hidden_dim, bias=not hidden_norm))
        layers += [nn.BatchNorm1d(hidden_dim)] if hidden_norm else []
        layers.append(nn.ReLU(inplace=True))
        width = hidden_dim
    layers.append(nn.Linear(width, out_dim, bias=not out_norm))
    layers += [nn.BatchNorm1d(out_dim, affine=False)] if out_norm else []
    return nn.Sequential(*layers)


def linear(feature_dim: int, *, out_dim: int = 128) -> nn.Module:
    """One linear layer."""
    checks.integer("out_dim", out_dim, at_least=1)
    return nn.Linear(feature_dim, out_dim)


def none(feature_dim: int) -> nn.Module:  # noqa: ARG001 - every maker takes it
    """The features are the embeddings."""
    return nn.Identity()
