"""The encoders: torchvision's wide ResNets with another stem, and the thin ones of He et al."""

from __future__ import annotations

import copy
from functools import lru_cache
from math import sqrt

import pytest
import torch
import torchvision
from torch import nn

from tcl_train import models
from tcl_train.models.resnet import PaddedShortcut
from tcl_train.models.stem import choose_stem

WIDE = {"resnet18": 512, "resnet34": 512, "resnet50": 2048, "resnet101": 2048}
THIN = {"resnet8": 8, "resnet20": 20, "resnet32": 32, "resnet56": 56}
EVERY = [*WIDE, *THIN]
ONE_OF_EACH = ["resnet18", "resnet8"]


def build(name, image_size=32, *, device="cpu", **options):
    """A fresh encoder from a fixed draw."""
    with torch.random.fork_rng(devices=[]), torch.device(device):
        torch.manual_seed(0)
        return getattr(models, name)(image_size, **options)


def parameters(module):
    return sum(p.numel() for p in module.parameters())


@lru_cache
def shapes(name, stem="small"):
    """An encoder without values, which is all that most tests need; for looking at only."""
    return build(name, stem=stem, device="meta").eval()


def images(size, n=2):
    return torch.randn(n, 3, size, size, generator=torch.Generator().manual_seed(1))


def shape_of_features(encoder, size):
    return tuple(encoder(torch.empty(2, 3, size, size, device="meta")).shape)


# ------------------------------------------------------------------ the wide family


@pytest.mark.parametrize("name", WIDE)
def test_the_wide_encoders_are_torchvisions_without_the_classifier(name):
    """Same parameters, strictly loadable, and the same features for the same weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        theirs = getattr(torchvision.models, name)(weights=None).eval()
    weights = {k: v for k, v in theirs.state_dict().items() if not k.startswith("fc.")}
    encoder = build(name, 224, stem="imagenet", device="meta").eval()
    assert parameters(encoder) == parameters(theirs) - parameters(theirs.fc)
    encoder.load_state_dict(weights, strict=True, assign=True)
    theirs.fc = nn.Identity()
    with torch.inference_mode():
        assert torch.equal(encoder(images(40)), theirs(images(40)))


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_the_small_stem_has_a_smaller_first_convolution_and_no_pool(name):
    small, large = (shapes(name, stem) for stem in ("small", "imagenet"))
    assert parameters(large) - parameters(small) == 64 * 3 * (7 * 7 - 3 * 3)
    assert small.conv1.weight.shape == (64, 3, 3, 3)
    assert small.conv1.stride == (1, 1)
    assert small.conv1.bias is None
    assert isinstance(small.maxpool, nn.Identity)


def test_the_small_stem_changes_nothing_else():
    small, large = build("resnet18", stem="small"), build("resnet18", stem="imagenet")
    changed = {
        k
        for k, v in small.state_dict().items()
        if large.state_dict()[k].shape != v.shape or not torch.equal(large.state_dict()[k], v)
    }
    assert changed == {"conv1.weight"}


@pytest.mark.parametrize(("name", "stem"), [("resnet18", "small"), ("resnet8", "imagenet")])
def test_convolutions_start_from_he_initialisation_by_fan_out(name, stem):
    """torch's own default is narrower by far."""
    convolutions = [m for m in build(name, stem=stem).modules() if isinstance(m, nn.Conv2d)]
    for conv in convolutions:
        expected = sqrt(2 / (conv.out_channels * conv.kernel_size[0] * conv.kernel_size[1]))
        assert conv.weight.std().item() == pytest.approx(expected, rel=0.1)
        assert abs(conv.weight.mean().item()) < 0.1 * expected


# ------------------------------------------------------------------ the thin family


@pytest.mark.parametrize(
    ("name", "exact", "published"),
    [
        # A stem of 464, then blocks of 4,672, 18,560 and 73,984 parameters, the first of the second
        # and third stage 4,608 and 18,432 fewer; 650 in the classifier. Published: table 6.
        ("resnet8", 75_290, None),
        ("resnet20", 269_722, 0.27),
        ("resnet32", 464_154, 0.46),
        ("resnet56", 853_018, 0.85),
    ],
)
def test_the_thin_encoders_have_the_published_size(name, exact, published):
    encoder = shapes(name)
    count = parameters(encoder) + parameters(nn.Linear(encoder.feature_dim, 10))
    assert count == exact
    if published is not None:
        assert round(count / 1e6, 2) == published


@pytest.mark.parametrize("name", THIN)
def test_the_name_counts_the_weighted_layers(name):
    """6n + 1 convolutions and the classifier; shortcuts have none."""
    convolutions = [m for m in shapes(name).modules() if isinstance(m, nn.Conv2d)]
    assert len(convolutions) + 1 == THIN[name]


@pytest.mark.parametrize("width", [1, 4, 24])
def test_width_scales_every_stage(width):
    encoder = build("resnet8", width=width, device="meta")
    assert encoder.feature_dim == 4 * width
    assert [m.out_channels for m in encoder.modules() if isinstance(m, nn.Conv2d)] == [
        width,
        *(2 * [width]),
        *(2 * [2 * width]),
        *(2 * [4 * width]),
    ]
    assert shape_of_features(encoder, 8) == (2, 4 * width)


def test_the_shortcut_takes_every_second_pixel_and_pads_channels_with_zeros():
    shortcut = PaddedShortcut(2)
    x_NCHW = images(5)
    out_NCHW = shortcut(x_NCHW)
    assert parameters(shortcut) == 0
    assert out_NCHW.shape == (2, 5, 3, 3)
    assert torch.equal(out_NCHW[:, :3], x_NCHW[:, :, ::2, ::2])
    assert torch.count_nonzero(out_NCHW[:, 3:]) == 0


def test_blocks_of_the_thin_encoders_start_from_their_input():
    """A residual network, not a plain one: with its second norm at zero a block passes on the
    (rectified) shortcut."""
    encoder = build("resnet8", width=4)
    nn.init.zeros_(encoder.layer2[0].bn2.weight)
    x_NCHW = images(6).abs().repeat(1, 2, 1, 1)[:, :4]
    expected = torch.cat([x_NCHW[:, :, ::2, ::2], torch.zeros(2, 4, 3, 3)], 1)
    assert torch.equal(encoder.layer2[0](x_NCHW), expected)


def test_the_pooled_shortcut_is_the_normalised_projection_of_means():
    encoder = build("resnet8", width=4, shortcut="pool")
    block = encoder.layer2[0]
    nn.init.zeros_(block.bn2.weight)
    x_NCHW = images(6, n=8).abs().repeat(1, 2, 1, 1)[:, :4]
    mean_NCHW = x_NCHW.view(8, 4, 3, 2, 3, 2).mean((3, 5))
    projected_NCHW = torch.einsum("nchw,oc->nohw", mean_NCHW, block.downsample[1].weight[..., 0, 0])
    expected = (projected_NCHW - projected_NCHW.mean((0, 2, 3), keepdim=True)) / (
        projected_NCHW.var((0, 2, 3), correction=0, keepdim=True) + 1e-5
    ).sqrt()
    torch.testing.assert_close(block(x_NCHW), expected.relu())


@pytest.mark.parametrize("size", [8, 9, 24, 31])
def test_pooled_shortcuts_fit_images_of_any_size(size):
    encoder = build("resnet8", shortcut="pool", device="meta")
    assert shape_of_features(encoder, size) == (2, 64)


@pytest.mark.parametrize("feature_dim", [3, 40])
def test_more_or_fewer_features_are_a_rectified_projection_of_the_last_stage(feature_dim):
    plain, widened = build("resnet8"), build("resnet8", feature_dim=feature_dim)
    assert widened.feature_dim == feature_dim
    assert parameters(widened) - parameters(plain) == 64 * feature_dim + 2 * feature_dim
    weights = {k: v for k, v in widened.state_dict().items() if not k.startswith("widen.")}
    plain.load_state_dict(weights)  # the rest has the published names
    x_NCHW = images(8)
    last_NCHW = []
    plain.layer3.register_forward_hook(lambda *given: last_NCHW.append(given[2]))
    with torch.no_grad():
        plain.eval()(x_NCHW)
        filters_OC = widened.widen[0].weight[:, :, 0, 0]
        wide_NOHW = torch.einsum("oc,nchw->nohw", filters_OC, last_NCHW[0])
        # An untrained normalisation divides by sqrt(1 + eps).
        expected_NO = wide_NOHW.relu().mean((2, 3)) / sqrt(1 + 1e-5)
        torch.testing.assert_close(widened.eval()(x_NCHW), expected_NO, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("wrong", [0, -4, 2.5])
def test_a_number_of_features_out_of_range_is_refused(wrong):
    with pytest.raises((ValueError, TypeError), match="feature_dim"):
        build("resnet8", feature_dim=wrong)


def test_an_unknown_shortcut_is_refused():
    with pytest.raises(ValueError, match="shortcut must be one of pad, pool, got 'conv'"):
        build("resnet8", shortcut="conv")


# ------------------------------------------------------------------ every encoder


@pytest.mark.parametrize(
    ("name", "size"), [(n, 32) for n in EVERY] + [(n, s) for n in ONE_OF_EACH for s in (8, 9, 97)]
)
def test_an_encoder_maps_images_of_any_size_to_feature_dim_features(name, size):
    encoder = shapes(name, choose_stem("auto", size))
    assert encoder.feature_dim == WIDE.get(name, 64)
    assert shape_of_features(encoder, size) == (2, encoder.feature_dim)


@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_features_tell_images_apart(name):
    encoder = build(name).eval()
    with torch.inference_mode():
        features_ND = encoder(images(32))
    assert features_ND.isfinite().all()
    assert not torch.allclose(features_ND[0], features_ND[1], rtol=1e-3)


@pytest.mark.parametrize(
    ("name", "stem", "sizes"),
    [
        ("resnet18", "small", [32, 32, 16, 8, 4]),
        ("resnet18", "imagenet", [16, 8, 4, 2, 1]),
        ("resnet8", "small", [32, 32, 16, 8]),
        ("resnet8", "imagenet", [16, 8, 4, 2]),
        ("resnet18", "patch", [16, 16, 8, 4, 2]),
        ("resnet8", "cosine", [16, 16, 8, 4]),
        ("resnet18", "cosine", [16, 16, 8, 4, 2]),
    ],
)
def test_the_stem_decides_how_far_the_image_shrinks(name, stem, sizes):
    encoder = build(name, stem=stem, device="meta")  # not the shared one: this one gets hooks
    seen = []
    for part in [encoder.conv1, *(getattr(encoder, f"layer{i}", None) for i in range(1, 5))]:
        if part is not None:
            part.register_forward_hook(lambda m, x, out: seen.append(out.shape[-1]))  # noqa: ARG005
    shape_of_features(encoder, 32)
    assert seen == sizes


@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_every_parameter_is_trained(name):
    encoder = build(name)
    encoder(images(16, n=4)).square().sum().backward()
    idle = [k for k, p in encoder.named_parameters() if not p.requires_grad or p.grad is None]
    assert idle == []


def test_building_draws_from_torchs_generator():
    """So that the run's seed decides the initial weights."""
    first, second = build("resnet8"), build("resnet8")
    other = models.resnet8(32)
    assert torch.equal(first.conv1.weight, second.conv1.weight)
    assert not torch.equal(first.conv1.weight, other.conv1.weight)


# ------------------------------------------------------------------ the stem


@pytest.mark.parametrize(("size", "stem"), [(8, "small"), (64, "small"), (65, "imagenet")])
def test_auto_takes_the_small_stem_up_to_64_pixels(size, stem):
    assert choose_stem("auto", size) == stem
    for name in ONE_OF_EACH:
        encoder = build(name, size, device="meta")
        assert encoder.conv1.kernel_size == ((3, 3) if stem == "small" else (7, 7))


@pytest.mark.parametrize("name", ONE_OF_EACH)
@pytest.mark.parametrize("stem", ["big", "", None, 3])
def test_an_unknown_stem_is_refused(name, stem):
    with pytest.raises(
        ValueError, match="stem must be one of auto, small, padded, patch, cosine, imagenet, got"
    ) as caught:
        build(name, stem=stem, device="meta")
    assert repr(stem) in str(caught.value)


@pytest.mark.parametrize("name", THIN)
def test_a_width_below_one_is_refused(name):
    with pytest.raises(ValueError, match="width must be a whole number >= 1, got 0"):
        build(name, width=0)


@pytest.mark.parametrize("width", [16.0, "16", None, True])
def test_a_width_that_is_no_whole_number_is_refused(width):
    with pytest.raises(TypeError, match="width must be a whole number >= 1, got") as caught:
        build("resnet8", width=width)
    assert repr(width) in str(caught.value)


@pytest.mark.parametrize("name", WIDE)
def test_the_wide_family_has_no_width(name):
    with pytest.raises(TypeError, match="width"):
        build(name, width=16)


@pytest.mark.parametrize("make", [models.resnet8, models.resnet18])
def test_an_encoder_can_be_copied_with_what_it_says_of_itself(make):
    """As teachers and fine-tuning do."""
    encoder = make(8)
    assert copy.deepcopy(encoder).architecture == encoder.architecture
