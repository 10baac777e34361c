"""Convolutions in half precision on a CPU."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from tcl_train.runtime.half_precision import StridedConv2d, use_float32_where_half_is_wrong

SHAPES = [  # kernel, stride, padding, height, width
    (3, 2, 1, 1, 1),
    (3, 2, 1, 2, 2),
    (3, 2, 1, 4, 1),
    (7, 2, 3, 2, 2),
    (4, 2, 1, 4, 2),
    (4, 4, 0, 5, 5),
    (3, 2, 1, 4, 4),
    (1, 2, 0, 2, 2),
]


def leave_rubbish() -> None:
    """Memory that is given to the next tensors of these sizes, with large numbers in it."""
    rubbish = [torch.full((2**k,), 1e30) for k in range(10, 20)]
    del rubbish


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_outputs_and_gradients_are_those_of_float32(shape: tuple[int, ...]) -> None:
    kernel, stride, padding, height, width = shape
    g = torch.Generator().manual_seed(0)
    plain = nn.Conv2d(64, 64, kernel, stride, padding, bias=False)
    x_NCHW = torch.randn(8, 64, height, width, generator=g)
    found = nn.Sequential(nn.Conv2d(64, 64, kernel, stride, padding, bias=False))
    found[0].load_state_dict(plain.state_dict())
    use_float32_where_half_is_wrong(found)
    found.to(memory_format=torch.channels_last)
    assert isinstance(found[0], StridedConv2d)
    x, exact_x = x_NCHW.clone().requires_grad_(), x_NCHW.clone().requires_grad_()
    leave_rubbish()
    with torch.autocast("cpu", torch.bfloat16):
        y = found(x.contiguous(memory_format=torch.channels_last))
    exact = plain(exact_x)
    dy = torch.randn(exact.shape, generator=g)
    leave_rubbish()
    y.backward(dy.to(y.dtype))
    exact.backward(dy)
    pairs: list[Any] = [
        (y, exact),
        (x.grad, exact_x.grad),
        (found[0].weight.grad, plain.weight.grad),
    ]
    for value, right in pairs:
        assert (value.float() - right).norm() < 0.02 * right.norm()


def test_only_convolutions_with_a_stride_change() -> None:
    class Other(nn.Conv2d):
        pass

    module = nn.Sequential(
        nn.Conv2d(2, 2, 3), nn.Conv2d(2, 2, 3, stride=2), Other(2, 2, 3, stride=2)
    )
    keys = list(module.state_dict())
    use_float32_where_half_is_wrong(module)
    assert [type(part) for part in module] == [nn.Conv2d, StridedConv2d, Other]
    assert list(module.state_dict()) == keys


def test_double_precision_stays_double() -> None:
    module = nn.Sequential(nn.Conv2d(2, 2, 3, stride=2)).double()
    use_float32_where_half_is_wrong(module)
    assert module(torch.ones(1, 2, 3, 3, dtype=torch.float64)).dtype == torch.float64


@pytest.mark.slow
def test_two_runs_on_maps_of_one_pixel_are_equal(
    command: Callable[..., Any],
) -> None:
    """With rubbish in the gradients each run went its own way, or ended in NaN."""
    from tcl_train.run.directory import RunDir

    results = []
    for i in range(2):
        leave_rubbish()
        short = ("epochs=1", "random_encoder_baseline=false", "probe.l2=[1e-3]", "device=cpu")
        outcome = command(
            "encoder=resnet18",
            "encoder.stem=patch",
            "precision=bf16",
            *short,
            f"hydra.run.dir=run{i}",
        )
        assert outcome.status == 0, outcome.err
        results.append(RunDir(f"run{i}").read_result()["top1"])
    assert results[0] == results[1]
    assert results[0] > 50
