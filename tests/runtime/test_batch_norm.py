"""Batch norm over all processes, here of one; several are in tests/engine/test_processes.py."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from tcl_train.errors import RequestError
from tcl_train.runtime.batch_norm import GlobalBatchNorm, use_global_statistics
from tcl_train.runtime.processes import ALONE, Processes


def inputs(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    g = torch.Generator().manual_seed(0)
    return (3 * torch.randn(shape, generator=g) + 5).to(dtype)


@pytest.fixture(params=["2d", "1d", "not affine", "cumulative"])
def layers(request: pytest.FixtureRequest) -> tuple[nn.Module, nn.Module, Tensor]:
    """torch's layer, ours with the same values, and an input."""
    shape = (6, 4) if request.param == "1d" else (6, 4, 3, 5)
    kind = nn.BatchNorm1d if request.param == "1d" else nn.BatchNorm2d
    keys = {"not affine": {"affine": False}, "cumulative": {"momentum": None}}
    torchs = kind(4, **keys.get(request.param, {})).double()
    if torchs.affine:
        nn.init.normal_(torchs.weight, generator=torch.Generator().manual_seed(1))
        nn.init.normal_(torchs.bias, generator=torch.Generator().manual_seed(2))
    ours = copy.deepcopy(torchs)
    ours.__class__ = GlobalBatchNorm
    ours.processes = ALONE
    return torchs, ours, inputs(*shape)


def test_it_is_torchs_in_values_gradients_and_statistics(
    layers: tuple[nn.Module, nn.Module, Tensor],
) -> None:
    torchs, ours, x = layers
    weight = inputs(*x.shape)[:, torch.randperm(4, generator=torch.Generator().manual_seed(3))]
    found = []
    for layer in (torchs, ours):
        gradients = []
        for factor in (1.0, 2.0):  # two batches
            leaf = (factor * x).requires_grad_()
            y = layer(leaf)
            (y * weight).square().sum().backward()
            gradients.append(leaf.grad)
        by_parameters = [p.grad for p in layer.parameters()]
        found.append([y, *gradients, *by_parameters, *layer.state_dict().values()])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(other, one)


def test_in_evaluation_it_is_torchs(layers: tuple[nn.Module, nn.Module, Tensor]) -> None:
    torchs, ours, x = layers
    assert torch.equal(ours.eval()(x), torchs.eval()(x))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_half_precision_has_statistics_in_float32(dtype: torch.dtype) -> None:
    ours = nn.BatchNorm2d(4)
    ours.__class__ = GlobalBatchNorm
    x = inputs(64, 4, 8, 8, dtype=dtype)
    y = ours(x.requires_grad_())
    y.float().square().sum().backward()
    assert y.dtype == x.grad.dtype == dtype
    torch.testing.assert_close(ours.running_mean, 0.1 * x.detach().float().mean((0, 2, 3)))
    torch.testing.assert_close(y.float().std((0, 2, 3)), torch.ones(4), rtol=0.01, atol=0)


def test_one_process_keeps_torchs_layers() -> None:
    model = nn.Sequential(nn.BatchNorm2d(2), nn.BatchNorm1d(2), nn.GroupNorm(1, 2))
    use_global_statistics(model, ALONE)
    assert [type(layer) for layer in model] == [nn.BatchNorm2d, nn.BatchNorm1d, nn.GroupNorm]
    names = list(model.state_dict())
    use_global_statistics(model, Processes(0, 2))
    assert [type(layer) for layer in model] == [GlobalBatchNorm, GlobalBatchNorm, nn.GroupNorm]
    assert list(model.state_dict()) == names


class WithActivation(nn.BatchNorm2d):
    """As timm's: dropout and activation are parts of it."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.drop, self.act = nn.Identity(), nn.Hardswish()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.drop(super().forward(x)))


def test_a_layer_with_an_activation_keeps_it() -> None:
    torchs = WithActivation(4)
    ours = copy.deepcopy(torchs)
    use_global_statistics(ours, Processes(0, 2))
    assert isinstance(ours, GlobalBatchNorm)
    ours.processes = ALONE
    x = inputs(6, 4, 3, 5, dtype=torch.float32)
    torch.testing.assert_close(ours(x), torchs(x))
    torch.testing.assert_close(ours.eval()(x), torchs.eval()(x))
    assert ours.state_dict().keys() == torchs.state_dict().keys()


def test_a_layer_that_is_not_known_is_refused_rather_than_left_to_each_process() -> None:
    class Unknown(nn.BatchNorm2d):
        pass

    with pytest.raises(RequestError, match="several processes: Unknown cannot take"):
        use_global_statistics(nn.Sequential(Unknown(2)), Processes(0, 2))
