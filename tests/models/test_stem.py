"""The stems; how encoders use them is tested with the encoders."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tcl_train.models.stem import STEMS, CosinePatches, build_stem, choose_stem


@pytest.mark.parametrize("stem", [stem for stem in STEMS if stem != "auto"])
@pytest.mark.parametrize("size", [8, 224])
def test_a_stem_that_is_named_is_taken_whatever_the_size(stem, size):
    assert choose_stem(stem, size) == stem


@pytest.mark.parametrize(
    ("stem", "side"),
    [("small", 32), ("padded", 34), ("patch", 16), ("cosine", 16), ("imagenet", 8)],
)
def test_a_stem_makes_so_many_channels_of_such_a_side(stem, side):
    convolution, norm, pool = build_stem(stem, 32, 12)
    assert pool(norm(convolution(torch.zeros(2, 3, 32, 32)))).shape == (2, 12, side, side)


# ------------------------------------------------------------------ fixed filters


def photographs(count: int) -> torch.Tensor:
    """Random images with the spectrum of photographs: neighbours are alike, colours too."""
    g = torch.Generator().manual_seed(0)
    noise = torch.randn(count, 1, 64, 64, generator=g)
    noise = noise + 0.2 * torch.randn(count, 3, 64, 64, generator=g)
    down = torch.fft.fftfreq(64)[:, None]
    across = torch.fft.rfftfreq(64)
    falling = 1 / (down.square() + across.square() + 1e-4).sqrt()
    return torch.fft.irfft2(torch.fft.rfft2(noise) * falling, s=(64, 64))[..., 16:48, 16:48]


def test_the_filters_are_orthonormal_and_start_with_the_mean():
    filter_FP = CosinePatches(96).filters.flatten(1)
    torch.testing.assert_close(filter_FP @ filter_FP.T, torch.eye(48), atol=1e-6, rtol=0)
    torch.testing.assert_close(filter_FP[0], torch.full((48,), 48**-0.5))


def test_fewer_channels_are_the_first_ones():
    assert CosinePatches(10).filters.equal(CosinePatches(96).filters[:5])


def test_patches_of_photographs_are_nearly_whitened():
    """Each coefficient has variance 1, and they are much less correlated than pixels."""
    images_NCHW = photographs(200)
    patches_NPL = nn.functional.unfold(images_NCHW, 4, stride=2, padding=1)
    stem = CosinePatches(64)
    h_NCHW = stem(images_NCHW)[:, :32]

    def strongest_tie(rows_CN: torch.Tensor) -> float:
        return (torch.corrcoef(rows_CN) - torch.eye(len(rows_CN))).abs().max().item()

    coefficients_CN = h_NCHW.transpose(0, 1).flatten(1)
    variance_C = coefficients_CN.var(1, correction=0)
    torch.testing.assert_close(variance_C, torch.ones(32), atol=0.02, rtol=0)
    assert strongest_tie(patches_NPL.transpose(0, 1).flatten(1)) > 0.9
    assert strongest_tie(coefficients_CN) < 0.5


def test_the_second_half_is_the_negative_of_the_first():
    first, second = CosinePatches(8)(photographs(2)).chunk(2, dim=1)
    assert second.equal(-first)


def test_nothing_is_learned_and_only_statistics_are_stored():
    stem = CosinePatches(8)
    assert list(stem.parameters()) == []
    assert set(stem.state_dict()) == {
        "norm.running_mean",
        "norm.running_var",
        "norm.num_batches_tracked",
    }


@pytest.mark.parametrize("channels", [0, 7, 98])
def test_a_width_that_the_filters_do_not_fill_is_refused(channels):
    with pytest.raises(ValueError, match=f"an even number of channels up to 96, got .*{channels}"):
        CosinePatches(channels)
