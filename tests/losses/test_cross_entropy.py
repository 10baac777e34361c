"""Cross-entropy over classes.

N: rows; K: classes.
"""

from __future__ import annotations

import math

import pytest
import torch

from tcl_train.losses import CrossEntropy, cross_entropy_loss


def logits(n=9, classes=4):
    draw = torch.Generator().manual_seed(0)
    y_N = torch.randint(0, classes, (n,), generator=draw)
    return 3 * torch.randn(n, classes, generator=draw, dtype=torch.float64), y_N


def double_loop(logit_NK, y_N, smoothing):
    """-sum_k q_ik log( e^{o_ik} / sum_c e^{o_ic} ), meaned over i."""
    total = 0.0
    for row, label in zip(logit_NK.double().tolist(), y_N.tolist(), strict=True):
        everyone = sum(math.exp(o) for o in row)
        for k, o in enumerate(row):
            q = (1 - smoothing) * (k == label) + smoothing / len(row)
            total -= q * math.log(math.exp(o) / everyone)
    return total / len(y_N)


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.9])
@pytest.mark.parametrize(
    ("dtype", "rel"),
    [(torch.float64, 1e-10), (torch.float32, 1e-5), (torch.bfloat16, 1e-5), (torch.float16, 1e-5)],
    ids=str,
)
def test_the_value_is_that_of_the_equation(smoothing, dtype, rel):
    logit_NK, y_N = logits()
    logit_NK = logit_NK.to(dtype)
    value = CrossEntropy(label_smoothing=smoothing)(logit_NK, y_N)
    assert value.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert value.item() == pytest.approx(double_loop(logit_NK, y_N, smoothing), rel=rel)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_gradients_agree_with_finite_differences(smoothing):
    logit_NK, y_N = logits()
    loss = CrossEntropy(label_smoothing=smoothing)
    assert torch.autograd.gradcheck(lambda o: loss(o, y_N), logit_NK.requires_grad_())


def test_the_module_calls_the_pure_function():
    logit_NK, y_N = logits()
    value = cross_entropy_loss(logit_NK, y_N, label_smoothing=0.2)
    assert torch.equal(CrossEntropy(label_smoothing=0.2)(logit_NK, y_N), value)


def test_there_is_no_smoothing_unless_asked_for():
    assert CrossEntropy().label_smoothing == 0


def test_one_row_is_enough():
    value = CrossEntropy()(torch.zeros(1, 8), torch.tensor([3]))
    assert value.item() == pytest.approx(math.log(8))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize("size", [0.0, 3e4])
def test_extreme_scores_give_neither_nan_nor_infinity(dtype, size):
    logit_NK = (size * torch.eye(3)).to(dtype).requires_grad_()
    value = CrossEntropy()(logit_NK, torch.tensor([0, 2, 1]))
    value.backward()
    assert value.isfinite()
    assert logit_NK.grad.isfinite().all()


def test_nan_comes_out_as_nan():
    logit_NK, y_N = logits()
    logit_NK[2, 1] = float("nan")
    assert CrossEntropy()(logit_NK, y_N).isnan()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_autocast_does_not_change_the_value(dtype):
    logit_NK, y_N = logits()
    value = CrossEntropy()(logit_NK.float(), y_N)
    with torch.autocast("cpu", dtype=dtype):
        assert torch.equal(CrossEntropy()(logit_NK.float(), y_N), value)


@pytest.mark.parametrize("dtype", [torch.int32, torch.int16, torch.uint8], ids=str)
def test_narrow_integer_labels_count_the_same(dtype):
    """The checks let them pass, as for the contrastive losses."""
    logit_NK, y_N = logits()
    assert torch.equal(CrossEntropy()(logit_NK, y_N.to(dtype)), CrossEntropy()(logit_NK, y_N))


@pytest.mark.parametrize("label", [-100, -1, 4])
def test_a_label_outside_the_classes_is_never_passed_over(label):
    """-100 is torch's own sign for a row to leave out, which nobody asked for here."""
    logit_NK, y_N = logits()
    y_N[3] = label
    with pytest.raises((ValueError, IndexError), match=str(label)):
        CrossEntropy()(logit_NK, y_N)


@pytest.mark.parametrize("smoothing", [-0.1, 1, 1.5, math.nan])
def test_smoothing_out_of_range_is_refused(smoothing):
    with pytest.raises(
        ValueError, match=rf"label_smoothing must be .* >= 0 and < 1, got {smoothing}"
    ):
        CrossEntropy(label_smoothing=smoothing)


@pytest.mark.parametrize("smoothing", ["0.1", None, False])
def test_smoothing_that_is_no_number_is_refused(smoothing):
    with pytest.raises(TypeError, match=rf"label_smoothing must be .*, got {smoothing!r}"):
        CrossEntropy(label_smoothing=smoothing)


@pytest.mark.parametrize(
    ("logit_NK", "y_N", "error", "words"),
    [
        (torch.ones(4), torch.zeros(4).long(), ValueError, ["(N, D)", "(4,)"]),
        (torch.ones(4, 2).long(), torch.zeros(4).long(), TypeError, ["torch.int64"]),
        (torch.ones(4, 2), torch.zeros(3).long(), ValueError, ["y", "(4,)", "(3,)"]),
        (torch.ones(4, 2), torch.zeros(4, 2), ValueError, ["y", "(4,)", "(4, 2)"]),
        (torch.ones(4, 2), torch.zeros(4), TypeError, ["y", "torch.float32"]),
        (torch.ones(0, 2), torch.zeros(0).long(), ValueError, ["at least 1", "got 0"]),
    ],
    ids=[
        "a vector",
        "integer scores",
        "too few labels",
        "labels as probabilities",
        "float labels",
        "no row",
    ],
)
def test_wrong_inputs_are_refused_by_name(logit_NK, y_N, error, words):
    with pytest.raises(error) as caught:
        CrossEntropy()(logit_NK, y_N)
    for word in words:
        assert word in str(caught.value)
