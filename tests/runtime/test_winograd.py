"""Winograd convolutions against direct ones in float64, and where they are used."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import library, nn

from tcl_train import models
from tcl_train.runtime import winograd
from tcl_train.runtime.device import Runtime
from tcl_train.runtime.winograd import WinogradConv2d, matrices, suits, use_winograd

TOLERANCE = 5e-5  # of the standard deviation of the exact values
OPERATORS = torch.ops.tcl_train


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def assert_near(given, exact):
    assert given.shape == exact.shape
    assert given.dtype == torch.float32
    assert (given - exact).abs().max() <= TOLERANCE * exact.std(correction=0)


def layer(c=64, o=64, **options):
    return nn.Conv2d(c, o, 3, **{"padding": 1, "bias": False, **options})


# ------------------------------------------------------------------ the mathematics


@pytest.mark.parametrize("m", winograd.TILE_SIDES)
def test_the_matrices_make_m_outputs_of_a_filter_of_three(m):
    """In one dimension: A^T [(G w) * (B^T x)] is the correlation of x with w."""
    b, g, a = matrices(m)
    x, w = draw(m + 2), draw(3, seed=1)
    exact = [sum(x[i + k] * w[k] for k in range(3)) for i in range(m)]
    assert torch.allclose(a @ ((g @ w) * (b @ x)), torch.stack(exact), atol=1e-5)


# Whole tiles of 4, 3 and 2, maps that tiles do not fill, oblong ones, and single pixels.
MAPS = [(16, 16), (6, 6), (2, 2), (7, 9), (1, 1), (33, 2), (3, 14)]


@pytest.mark.parametrize("channels", [(64, 64), (128, 128), (64, 192), (136, 128)], ids=str)
@pytest.mark.parametrize("size", MAPS, ids=str)
def test_values_and_gradients_are_those_of_the_direct_convolution(channels, size):
    c, o = channels
    x, w, dy = draw(3, c, *size), 0.1 * draw(o, c, 3, 3, seed=1), draw(3, o, *size, seed=2)
    x64, w64 = (t.double().requires_grad_() for t in (x, w))
    y64 = F.conv2d(x64, w64, padding=1)
    y64.backward(dy.double())
    turned = w.flip(2, 3).transpose(0, 1)
    assert_near(OPERATORS.winograd(x, w), y64)
    assert_near(OPERATORS.winograd(dy, turned), x64.grad)
    assert_near(OPERATORS.winograd_filters(x, dy), w64.grad)
    module = WinogradConv2d(c, o, 3, padding=1, bias=False)
    module.load_state_dict({"weight": w})
    x.requires_grad_()
    y = module(x)
    y.backward(dy)
    for given, exact in ((y, y64), (x.grad, x64.grad), (module.weight.grad, w64.grad)):
        assert_near(given, exact)


@pytest.mark.parametrize("images", [1, 7])
@pytest.mark.parametrize("tiles", [1, 10**6])
def test_the_number_of_images_at_a_time_changes_nothing(monkeypatch, images, tiles):
    """Images of 4 tiles each, one at a time or all at once."""
    x, w, dy = draw(images, 64, 8, 8), draw(64, 64, 3, 3, seed=1), draw(images, 64, 8, 8, seed=2)
    at_once = OPERATORS.winograd(x, w), OPERATORS.winograd_filters(x, dy)
    monkeypatch.setattr(winograd, "SCRATCH_BYTES", 0)
    monkeypatch.setattr(winograd, "FEWEST_TILES", tiles)
    assert torch.allclose(OPERATORS.winograd(x, w), at_once[0], atol=1e-3)
    assert torch.allclose(OPERATORS.winograd_filters(x, dy), at_once[1], atol=1e-3)


def test_the_order_of_memory_changes_nothing_and_outputs_are_channels_last():
    x, w = draw(2, 128, 8, 8), draw(128, 128, 3, 3, seed=1)
    y = OPERATORS.winograd(x, w)
    last = torch.channels_last
    assert y.equal(OPERATORS.winograd(*(t.contiguous(memory_format=last) for t in (x, w))))
    assert y.is_contiguous(memory_format=last)


def test_no_images_have_no_outputs_and_a_gradient_of_zero():
    x, w = draw(0, 128, 8, 8), draw(128, 128, 3, 3)
    assert OPERATORS.winograd(x, w).shape == (0, 128, 8, 8)
    assert not OPERATORS.winograd_filters(x, x).any()


def test_the_default_device_and_type_do_not_matter():
    x, w = draw(2, 128, 8, 8), draw(128, 128, 3, 3)
    expected = OPERATORS.winograd(x, w)
    matrices.cache_clear()
    torch.set_default_dtype(torch.float64)
    try:
        with torch.device("meta"):
            assert OPERATORS.winograd(x, w).equal(expected)
    finally:
        torch.set_default_dtype(torch.float32)


def test_only_the_gradients_that_are_asked_for_are_computed():
    module = WinogradConv2d(128, 128, 3, padding=1, bias=False)
    module(draw(1, 128, 4, 4)).sum().backward()
    assert module.weight.grad is not None
    module.weight.requires_grad_(False)
    x = draw(1, 128, 4, 4).requires_grad_()
    module(x).sum().backward()
    assert x.grad is not None


def test_a_second_derivative_is_refused_and_not_wrong():
    x = draw(1, 128, 4, 4).requires_grad_()
    module = WinogradConv2d(128, 128, 3, padding=1, bias=False)
    (slope,) = torch.autograd.grad(module(x).square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="no second derivative"):
        slope.sum().backward()


# ------------------------------------------------------------------ where it is used


@pytest.mark.parametrize(
    "convolution",
    [
        layer(stride=2),
        layer(dilation=2, padding=2),
        layer(padding=0),
        layer(padding="same"),
        layer(padding_mode="circular"),
        layer(groups=2),
        layer(bias=True),
        layer(32, 64),
        layer(64, 32),
        nn.Conv2d(64, 64, 1, bias=False),
        nn.Conv2d(64, 64, (3, 1), padding=1, bias=False),
    ],
    ids=repr,
)
def test_other_convolutions_are_left_alone(convolution):
    assert not suits(convolution)
    use_winograd(convolution)
    assert type(convolution) is nn.Conv2d


def test_turning_a_module_keeps_its_parameters_and_keys():
    net = nn.Sequential(layer(), nn.ReLU(), layer(16, 16))
    before = dict(net.named_parameters())
    use_winograd(net)
    assert [type(part) for part in net] == [WinogradConv2d, nn.ReLU, nn.Conv2d]
    assert all(p is before[name] for name, p in net.named_parameters())
    assert list(net.state_dict()) == ["0.weight", "2.weight"]


class Own(nn.Conv2d):
    """A convolution of somebody else's."""


def test_a_convolution_with_a_forward_of_its_own_keeps_it():
    net = nn.Sequential(Own(64, 64, 3, padding=1, bias=False))
    use_winograd(net)
    assert type(net[0]) is Own


@pytest.mark.parametrize(("name", "expected"), [("resnet18", 13), ("resnet50", 13), ("resnet8", 1)])
def test_encoders_use_it_where_it_is_faster(name, expected):
    """All 3x3 convolutions of stride 1; of the thin ones those of the last stage."""
    with torch.device("meta"):
        encoder = getattr(models, name)(32)
    assert not any(type(part) is WinogradConv2d for part in encoder.modules())
    use_winograd(encoder)
    assert sum(type(part) is WinogradConv2d for part in encoder.modules()) == expected


def test_half_precision_and_other_devices_have_the_usual_convolution(monkeypatch):
    def forbidden(*_):
        raise AssertionError

    monkeypatch.setattr(winograd._Convolution, "apply", forbidden)
    module = WinogradConv2d(64, 64, 3, padding=1, bias=False)
    x = draw(1, 64, 4, 4)
    with torch.autocast("cpu", torch.bfloat16):
        assert module(x).dtype == torch.bfloat16
    assert module.to(torch.bfloat16)(x.bfloat16()).dtype == torch.bfloat16
    assert module.to("meta")(x.to("meta").bfloat16()).device.type == "meta"


def test_few_channels_have_the_direct_convolution_forward():
    """Exactly: only the gradient by the filters is by Winograd."""
    x = draw(2, 64, 6, 6)
    module = WinogradConv2d(64, 64, 3, padding=1, bias=False)
    assert module(x).equal(F.conv2d(x, module.weight, padding=1))


# ------------------------------------------------------------------ the operators


@pytest.mark.parametrize("size", [(8, 8), (5, 7)], ids=str)
def test_the_shapes_without_values_are_those_of_the_operators(size):
    checks = ("test_schema", "test_faketensor")
    x, w, dy = draw(2, 64, *size), draw(128, 64, 3, 3), draw(2, 128, *size)
    for operator, given in ((OPERATORS.winograd, (x, w)), (OPERATORS.winograd_filters, (x, dy))):
        library.opcheck(operator.default, given, test_utils=checks)


def test_a_compiled_module_computes_the_same():
    """Traced as one piece, without C++ compilation."""
    module = WinogradConv2d(128, 128, 3, padding=1, bias=False)
    compiled = torch.compile(module, backend="aot_eager", fullgraph=True)
    results = []
    for call in (module, compiled):
        module.zero_grad()
        x = draw(2, 128, 6, 6).requires_grad_()
        y = call(x)
        y.square().sum().backward()
        results.append((y.detach(), x.grad, module.weight.grad.clone()))
    for plain, traced in zip(*results, strict=True):
        assert plain.equal(traced)


@pytest.mark.parametrize(("device", "used"), [("cpu", True), ("meta", False)])
def test_what_is_placed_on_a_cpu_uses_it(device, used):
    runtime = Runtime(device="cpu", precision="fp32", compile=False)
    runtime.device = torch.device(device)
    net = nn.Sequential(nn.Conv2d(64, 64, 3, padding=1, bias=False))
    assert (type(runtime.place(net)[0]) is WinogradConv2d) == used
