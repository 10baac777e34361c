from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from tcl_train.errors import TrainingError
from tcl_train.evaluation.features import MirrorMean, accuracy, apply_frozen, extract, frozen


def test_features_come_in_the_order_of_the_images(data, augment, encoder, runtime) -> None:
    features = extract(encoder, data.test, augment.normalize, runtime)
    images_NCHW = data.test.images.images_NCHW
    with torch.no_grad():
        alone_D = encoder.eval()(augment.normalize(images_NCHW[41:42]))[0]
    torch.testing.assert_close(features.x_ND[41], alone_D)
    assert torch.equal(features.y_N, data.test.labels_N)


def test_extraction_leaves_parameters_buffers_and_modes_as_they_are(
    data, augment, encoder, runtime
) -> None:
    encoder.train()
    encoder[0].eval()  # a part that is already frozen must stay so
    before = copy.deepcopy(encoder.state_dict())
    extract(encoder, data.train, augment.normalize, runtime)
    assert all(torch.equal(before[k], v) for k, v in encoder.state_dict().items())
    assert encoder.training
    assert not encoder[0].training


def test_the_mode_is_restored_after_an_error() -> None:
    module = nn.BatchNorm1d(2)
    try:
        with frozen(module):
            assert not module.training
            raise KeyError
    except KeyError:
        pass
    assert module.training
    assert torch.is_grad_enabled()


def test_another_function_of_the_module_can_be_applied(data, augment, encoder, runtime) -> None:
    doubled = apply_frozen(encoder, data.test, augment.normalize, runtime, lambda x: 2 * encoder(x))
    once = apply_frozen(encoder, data.test, augment.normalize, runtime)
    torch.testing.assert_close(doubled, 2 * once)


def test_accuracy_counts_labels_among_the_best_scores() -> None:
    score_NK = torch.tensor([[3.0, 2.0, 1.0], [3.0, 2.0, 1.0], [3.0, 2.0, 1.0], [1.0, 2.0, 3.0]])
    y_N = torch.tensor([0, 1, 2, 2])
    assert accuracy(score_NK, y_N) == 50
    assert accuracy(score_NK, y_N, top=2) == 75
    assert accuracy(score_NK, y_N, top=5) == 100  # fewer classes than five


def test_mirror_means_do_not_know_left_from_right(encoder) -> None:
    x_NCHW = torch.randn(4, 3, 6, 6, generator=torch.Generator().manual_seed(0))
    encoder.eval()
    mirrored = MirrorMean(encoder)
    with torch.no_grad():
        means_ND = mirrored(x_NCHW)
        torch.testing.assert_close(mirrored(x_NCHW.flip(3)), means_ND)
        torch.testing.assert_close(2 * means_ND, encoder(x_NCHW) + encoder(x_NCHW.flip(3)))
        assert not torch.allclose(means_ND, encoder(x_NCHW), rtol=0.01)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_scores_that_are_not_finite_have_no_accuracy(bad: float) -> None:
    """A probe that has diverged would get what chance gives, and nobody would know why."""
    score_NK = torch.zeros(4, 3)
    score_NK[2, 1] = bad
    with pytest.raises(TrainingError, match="the probe has diverged"):
        accuracy(score_NK, torch.zeros(4, dtype=torch.int64))


def test_features_that_are_not_finite_are_refused_before_a_probe_sees_them(
    data, augment, runtime, encoder
):
    next(encoder.parameters()).data.fill_(float("inf"))
    with pytest.raises(TrainingError, match="features of the encoder are not finite"):
        extract(encoder, data.test, augment.normalize, runtime)
