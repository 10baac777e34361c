"""What holds for every contrastive loss; see conftest.py for how one more is added.

N: rows; D: embedding dimensions.
"""

from __future__ import annotations

import inspect
import itertools
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import tcl_train.losses
from tcl_train.losses import TCL, PairLoss
from tcl_train.losses.pair_loss import dense_pairs, normalize_rows

many_blocks_too = pytest.mark.usefixtures("engine")
# Time varies on a busy machine, and the same examples must be tried everywhere.
few = settings(max_examples=30)


def rows(n, dimensions, seed):
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(n, dimensions, generator=draw, dtype=torch.float64)


def test_every_contrastive_loss_of_the_package_is_tested_here(kinds):
    exported = {
        name
        for name in tcl_train.losses.__all__
        if inspect.isclass(kind := getattr(tcl_train.losses, name))
        and issubclass(kind, PairLoss)
        and kind is not PairLoss
    }
    assert exported == kinds


# ------------------------------------------------------------------ the oracle


@many_blocks_too
def test_float64_agrees_with_the_equations(every_setting, any_batch):
    z_ND, y_N = any_batch
    for setting in every_setting:
        value = setting.loss()(z_ND, y_N)
        assert value.dtype == torch.float64
        expected = pytest.approx(setting.expected(z_ND, y_N), rel=1e-10, abs=1e-10)
        assert value.item() == expected, setting


@many_blocks_too
def test_float32_agrees_with_the_equations(every_setting, batches):
    for setting, (z_ND, y_N) in itertools.product(every_setting, batches):
        value = setting.loss()(z_ND.float(), y_N)
        assert value.dtype == torch.float32
        expected = pytest.approx(setting.expected(z_ND, y_N), rel=1e-5, abs=setting.slack)
        assert value.item() == expected, setting


@many_blocks_too
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_precision_rows_are_computed_in_float32(mild, mixed_batch, dtype):
    """Right for the rows as rounded: nothing is lost beyond the input's own rounding."""
    z_ND, y_N = mixed_batch[0].to(dtype), mixed_batch[1]
    value = mild.loss()(z_ND, y_N)
    assert value.dtype == torch.float32
    assert value.item() == pytest.approx(mild.expected(z_ND, y_N), rel=1e-5, abs=1e-6)


def test_bfloat16_rows_stay_near_the_unrounded_equations(mild, batches):
    for z_ND, y_N in batches:
        expected = pytest.approx(mild.expected(z_ND, y_N), rel=2e-2, abs=2e-2)
        assert mild.loss()(z_ND.bfloat16(), y_N).item() == expected


@few
@given(
    data=st.data(),
    labels=st.lists(st.integers(-2, 4), min_size=2, max_size=20),
    dimensions=st.integers(2, 9),  # on a line, rounding decides which negatives are the hardest
    seed=st.integers(0, 2**32 - 1),
)
def test_any_batch_agrees_with_the_equations(every_setting, data, labels, dimensions, seed):
    setting = data.draw(st.sampled_from(every_setting))
    z_ND, y_N = rows(len(labels), dimensions, seed), torch.tensor(labels)
    value = setting.loss()(z_ND, y_N).item()
    assert value == pytest.approx(setting.expected(z_ND, y_N), rel=1e-10, abs=1e-10)


def test_the_dense_form_is_the_same_equation(every_setting, batches):
    """`anchor_losses` is what people read, and what the gradient response differentiates."""
    for setting, (z_ND, y_N) in itertools.product(every_setting, batches):
        loss = setting.loss()
        sim_NM, positive_NM, negative_NM = dense_pairs(loss.rows(z_ND), y_N)
        has_N = positive_NM.any(1)
        loss_N = loss.anchor_losses(sim_NM, positive_NM, negative_NM)
        value = loss_N[has_N].mean() if has_N.any() else torch.zeros((), dtype=torch.float64)
        torch.testing.assert_close(value, loss(z_ND, y_N), rtol=1e-10, atol=1e-10)


@many_blocks_too
def test_gradients_agree_with_finite_differences(every_setting, mixed_batch):
    z_ND, y_N = mixed_batch
    z_ND = z_ND.clone().requires_grad_()
    for setting in every_setting:
        loss = setting.loss()
        # The third derivative grows as 1/tau cubed.
        eps = 1e-6 if setting.hyper.get("tau", 1.0) >= 0.1 else 1e-8
        assert torch.autograd.gradcheck(
            lambda z, loss=loss: loss(z, y_N), z_ND, eps=eps, atol=1e-4, rtol=1e-4, fast_mode=True
        ), setting


def test_every_entry_of_the_gradient_agrees_with_finite_differences(mild, mixed_batch):
    """The test above looks in one random direction; this one at each entry."""
    z_ND, y_N = mixed_batch[0][:7, :4].clone().requires_grad_(), mixed_batch[1][:7]
    assert torch.autograd.gradcheck(lambda z: mild.loss()(z, y_N), z_ND, atol=1e-7)


@many_blocks_too
def test_float32_gradients_agree_with_float64(every_setting, mixed_batch, value_and_gradient):
    """At a small temperature float32 takes another way, since e^{1/tau} is beyond it. Among rows
    nearly at right angles the terms without a temperature weigh, too."""
    z_ND, y_N = mixed_batch
    wide_ND = torch.eye(10, dtype=torch.float64) + 0.05 * rows(10, 10, 0)
    for setting, rows_ND in itertools.product(every_setting, (z_ND, wide_ND)):
        _, gradient_ND = value_and_gradient(setting.loss(), rows_ND, y_N)
        _, narrow_ND = value_and_gradient(setting.loss(), rows_ND.float(), y_N)
        error = (narrow_ND - gradient_ND).abs().max()
        assert error <= 1e-4 * gradient_ND.abs().max(), setting


def test_the_gradient_is_scaled_by_what_comes_after(mild, mixed_batch, value_and_gradient):
    """A gradient in closed form has to pass on the one that it is given."""
    z_ND, y_N = mixed_batch
    _, gradient_ND = value_and_gradient(mild.loss(), z_ND, y_N)
    _, scaled_ND = value_and_gradient(lambda z, y: -3 * mild.loss()(z, y), z_ND, y_N)
    torch.testing.assert_close(scaled_ND, -3 * gradient_ND, rtol=1e-12, atol=1e-14)


# ------------------------------------------------------------------ what must not matter


def test_the_order_of_rows_does_not_matter(every_setting, mixed_batch, value_and_gradient):
    z_ND, y_N = mixed_batch
    order_N = torch.randperm(len(y_N), generator=torch.Generator().manual_seed(0))
    for setting in every_setting:
        value, gradient_ND = value_and_gradient(setting.loss(), z_ND, y_N)
        other, other_ND = value_and_gradient(setting.loss(), z_ND[order_N], y_N[order_N])
        torch.testing.assert_close(other, value, rtol=1e-11, atol=1e-11)
        torch.testing.assert_close(other_ND, gradient_ND[order_N], rtol=1e-9, atol=1e-11)


def test_the_names_of_labels_do_not_matter(every_setting, mixed_batch):
    z_ND, y_N = mixed_batch
    names = torch.tensor([-3, 2**62, 0, -(2**62), 41, 40])
    for setting in every_setting:
        value = setting.loss()(z_ND, names[y_N])
        torch.testing.assert_close(value, setting.loss()(z_ND, y_N), rtol=1e-11, atol=1e-11)


def test_narrow_integer_labels_count_the_same(mild, mixed_batch):
    z_ND, y_N = mixed_batch
    value = mild.loss()(z_ND, y_N)
    for dtype in (torch.int32, torch.int16, torch.uint8):
        assert torch.equal(mild.loss()(z_ND, y_N.to(dtype)), value)


def test_the_lengths_of_rows_do_not_matter_where_rows_are_normalised(
    every_setting, mixed_batch, value_and_gradient
):
    z_ND, y_N = mixed_batch
    scale_N1 = torch.logspace(-3, 3, len(y_N), dtype=torch.float64)[:, None]
    for setting in every_setting:
        value, gradient_ND = value_and_gradient(setting.loss(), z_ND, y_N)
        scaled, scaled_ND = value_and_gradient(setting.loss(), scale_N1 * z_ND, y_N)
        if setting.kind.unit_rows:
            torch.testing.assert_close(scaled, value, rtol=1e-11, atol=1e-11)
            torch.testing.assert_close(scaled_ND * scale_N1, gradient_ND, rtol=1e-8, atol=1e-10)
        else:
            assert not torch.allclose(scaled, value)


@many_blocks_too
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_autocast_changes_neither_value_nor_gradient(
    every_setting, mixed_batch, value_and_gradient, dtype
):
    z_ND, y_N = mixed_batch[0].float(), mixed_batch[1]
    for setting in every_setting:
        value, gradient_ND = value_and_gradient(setting.loss(), z_ND, y_N)
        cast_ND = z_ND.clone().requires_grad_()
        with torch.autocast("cpu", dtype=dtype):
            cast = setting.loss()(cast_ND, y_N)
        cast.backward()
        assert torch.equal(cast, value), setting
        assert torch.equal(cast_ND.grad, gradient_ND), setting


@many_blocks_too
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")  # the compiler's
def test_compiled_training_gives_the_same_gradients(one_of_each, mixed_batch):
    """A graph break is fine, another result is not."""
    z_ND, y_N = mixed_batch
    for setting in one_of_each:
        head, loss = torch.nn.Linear(8, 5).double(), setting.loss()

        def step(z_ND, y_N, head=head, loss=loss):
            return loss(head(z_ND), y_N)

        torch.compiler.reset()
        compiled = torch.compile(step, backend="aot_eager")
        values = [run(z_ND, y_N) for run in (step, compiled)]
        gradients = [torch.autograd.grad(value, head.weight)[0] for value in values]
        torch.testing.assert_close(values[1], values[0], rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-10, atol=1e-12)


def test_rows_of_unit_length_are_not_written_into_once_they_are_made():
    """torch 2.11's compiler gives such a result of an autograd function no gradient."""
    assert normalize_rows(torch.randn(4, 3).requires_grad_())._version == 0


def test_nothing_is_kept_between_calls(mild, mixed_batch):
    z_ND, y_N = mixed_batch
    loss = mild.loss()
    first = loss(z_ND, y_N)
    loss(z_ND[:4], y_N[:4])
    assert torch.equal(loss(z_ND, y_N), first)
    assert not loss.state_dict()
    assert not list(loss.parameters())


def test_the_inputs_are_left_alone(mild, mixed_batch, value_and_gradient):
    """The engine works in place, on memory of its own."""
    z_ND, y_N = (x.clone() for x in mixed_batch)
    loss = mild.loss()
    loss(z_ND.requires_grad_(), y_N).backward()
    assert torch.equal(z_ND, mixed_batch[0])
    assert torch.equal(y_N, mixed_batch[1])


def test_rows_in_any_memory_layout_will_do(mild, mixed_batch, value_and_gradient):
    z_ND, y_N = mixed_batch
    strided_ND = z_ND.T.contiguous().T
    assert not strided_ND.is_contiguous()
    value, gradient_ND = value_and_gradient(mild.loss(), z_ND, y_N)
    other, other_ND = value_and_gradient(mild.loss(), strided_ND, y_N)
    torch.testing.assert_close(other, value, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(other_ND, gradient_ND, rtol=1e-10, atol=1e-12)


# ------------------------------------------------------------------ degenerate batches

E_8 = torch.tensor([1.0, -2, 0.5, 3, 0, 1, 1, -1])
SIGNS_61 = torch.tensor([1.0, -1, 1, -1, 1, -1])[:, None]
PAIRS_6 = torch.tensor([0, 0, 1, 1, 2, 2])

DTYPES = [torch.float16, torch.bfloat16, torch.float32]

DEGENERATE = {
    "identical rows": (E_8.repeat(6, 1), PAIRS_6),
    "positives opposite": (SIGNS_61 * E_8, PAIRS_6),
    "negatives identical, positives opposite": (
        SIGNS_61 * E_8,
        torch.tensor([0, 0, 1, 2, 3, 4]),
    ),
    "positives identical, negatives opposite": (
        SIGNS_61 * E_8,
        torch.tensor([0, 1, 0, 1, 0, 1]),
    ),
    "opposite rows of one class": (SIGNS_61 * E_8, torch.zeros(6, dtype=torch.int64)),
    "identical rows, no positives": (E_8.repeat(6, 1), torch.arange(6)),
    "nearly identical rows": (E_8 + 1e-3 * rows(6, 8, 2), PAIRS_6),
    "one dimension": (rows(6, 1, 3), PAIRS_6),
    "tiny rows": (1e-3 * rows(6, 8, 4), PAIRS_6),
    "huge rows": (1e3 * rows(6, 8, 4), PAIRS_6),
    "a row of zeros": (rows(6, 8, 5) * torch.tensor([1, 1, 0, 1, 1, 1.0])[:, None], PAIRS_6),
    "rows of zeros": (torch.zeros(6, 8), PAIRS_6),
}


@many_blocks_too
@pytest.mark.parametrize(("z_ND", "y_N"), DEGENERATE.values(), ids=DEGENERATE)
def test_no_degenerate_batch_gives_nan_or_infinity(every_setting, value_and_gradient, z_ND, y_N):
    for setting, dtype in itertools.product(every_setting, DTYPES):
        value, gradient_ND = value_and_gradient(setting.loss(), z_ND.to(dtype), y_N)
        assert value.isfinite(), setting
        assert gradient_ND.isfinite().all(), setting
        assert gradient_ND.dtype == dtype


@many_blocks_too
def test_a_batch_without_positives_is_zero_with_zero_gradient(every_setting, value_and_gradient):
    for setting, dtype in itertools.product(every_setting, DTYPES):
        z_ND = rows(5, 4, 0).to(dtype)
        value, gradient_ND = value_and_gradient(setting.loss(), z_ND, torch.arange(5))
        assert value == 0, setting
        assert torch.count_nonzero(gradient_ND) == 0, setting


def test_an_anchor_without_positives_is_left_out_of_the_mean(mild):
    """Two anchors at right angles, and a stranger as far from one as from the other. Counted as
    zero, the stranger would take a third off."""
    z_ND = torch.tensor([[1.0, 0], [0, 1], [0.6, 0.6]], dtype=torch.float64)
    s = 0.6 if not mild.kind.unit_rows else 0.5**0.5
    expected = mild.anchor_loss([0.0], [s], **mild.hyper)
    assert expected != 0
    value = mild.loss()(z_ND, torch.tensor([0, 0, 1])).item()
    assert value == pytest.approx(expected, rel=1e-12)


@many_blocks_too
@pytest.mark.parametrize("row", [0, 3], ids=["with a positive", "without a positive"])
def test_nan_in_a_row_comes_out_as_nan(every_setting, row):
    """A loss that hid it would let the run go on."""
    z_ND = rows(5, 4, 0).float()
    z_ND[row, 1] = float("nan")
    for setting in every_setting:
        assert setting.loss()(z_ND, torch.tensor([0, 0, 0, 1, 2])).isnan(), setting


def test_nan_comes_out_of_a_batch_without_positives_too(every_setting):
    z_ND = rows(6, 4, 3)
    z_ND[2, 1] = float("nan")
    for setting in every_setting:
        assert setting.loss()(z_ND, torch.arange(6)).isnan(), setting


@many_blocks_too
@pytest.mark.parametrize("row", [0, 3], ids=["with a positive", "without a positive"])
def test_infinity_in_a_row_never_comes_out_as_a_number_and_its_gradient(
    every_setting, value_and_gradient, row
):
    z_ND = rows(5, 4, 0).float()
    z_ND[row, 1] = float("inf")
    for setting in every_setting:
        value, gradient_ND = value_and_gradient(setting.loss(), z_ND, torch.tensor([0, 0, 0, 1, 2]))
        assert not (value.isfinite() and gradient_ND.isfinite().all()), setting


TAU_EXTREMES = (1e-6, 1e-3, 1 / 60, 1 / 59, 1e3, 1e6)


@many_blocks_too
@pytest.mark.parametrize("weight", [1e-6, 1e6, 1e30], ids=str)
def test_no_accepted_value_gives_nan_or_infinity(one_of_each, value_and_gradient, weight):
    for setting, tau in itertools.product(one_of_each, TAU_EXTREMES):
        loss = setting.extreme(tau, min(weight, 1e6) if "lam" in setting.hyper else weight)
        for z_ND in (rows(8, 4, 0).float(), torch.ones(8, 4)):
            value, gradient_ND = value_and_gradient(loss, z_ND, torch.arange(8) // 2)
            assert value.isfinite(), loss
            assert gradient_ND.isfinite().all(), loss


@many_blocks_too
@pytest.mark.parametrize("weight", [1e-6, 1e30], ids=str)
@pytest.mark.parametrize("tau", [0.02, 1 / 59])
def test_extreme_weights_agree_with_the_equations(one_of_each, tau, weight):
    """In the oracle's float64 nothing overflows."""
    (tcl,) = (setting for setting in one_of_each if setting.kind is TCL)
    setting = replace(tcl, hyper={"tau": tau, "k1": weight, "k2": 1 / weight})
    z_ND, y_N = rows(9, 4, 1), torch.arange(9) // 3
    value = setting.loss()(z_ND.float(), y_N)
    assert value.item() == pytest.approx(setting.expected(z_ND, y_N), rel=1e-5)


@many_blocks_too
@pytest.mark.parametrize("length", [1e-9, 1e10, 1e20, 1e30, 1e37], ids=str)
def test_rows_of_any_length_have_their_true_gradient(one_of_each, value_and_gradient, length):
    """Normalised rows: the gradient is that of unit rows over the length."""
    z_ND, y_N = rows(8, 4, 0), torch.arange(8) // 2
    for setting in one_of_each:
        scaled_ND = (z_ND * length).float()
        value, gradient_ND = value_and_gradient(setting.loss(), scaled_ND, y_N)
        assert value.isfinite()
        assert gradient_ND.isfinite().all()
        if setting.kind.unit_rows:
            expected, expected_ND = value_and_gradient(setting.loss(), z_ND, y_N)
            assert value.item() == pytest.approx(expected.item(), rel=1e-4, abs=1e-4)
            found_ND = gradient_ND.double() * length
            assert (found_ND - expected_ND).norm() <= 2e-3 * expected_ND.norm() + 1e-30


def test_a_second_derivative_is_refused_and_not_wrong(one_of_each, mixed_batch):
    """As for a penalty on gradients, with respect to the rows or to weights before them."""
    z_ND, y_N = mixed_batch
    for setting in one_of_each:
        weight = torch.ones(z_ND.shape[1], dtype=z_ND.dtype, requires_grad=True)
        rows_ND = z_ND.clone().requires_grad_()
        value = setting.loss()(rows_ND * weight, y_N)
        slopes = torch.autograd.grad(value, (rows_ND, weight), create_graph=True)
        for slope in slopes:
            for variable in (rows_ND, weight):
                with pytest.raises(RuntimeError, match="no second derivative"):
                    torch.autograd.grad(slope.square().sum(), variable, retain_graph=True)


def test_with_a_graph_of_the_gradient_the_gradient_itself_is_right(one_of_each, mixed_batch):
    z_ND, y_N = mixed_batch
    for setting in one_of_each:
        slopes = []
        for create_graph in (False, True):
            rows_ND = z_ND.clone().requires_grad_()
            value = setting.loss()(rows_ND, y_N)
            slopes.append(torch.autograd.grad(value, rows_ND, create_graph=create_graph)[0])
        assert torch.equal(slopes[0], slopes[1].detach())


def test_transforms_of_torch_func_are_refused_in_plain_words(one_of_each, mixed_batch):
    z_ND, y_N = mixed_batch
    for setting in one_of_each:
        with pytest.raises(RuntimeError, match=r"transforms of torch\.func"):
            torch.func.grad(setting.loss())(z_ND, y_N)


# ------------------------------------------------------------------ what is refused


@pytest.mark.parametrize(
    ("z_ND", "y_N", "error", "words"),
    [
        (torch.ones(4), torch.zeros(4).long(), ValueError, ["z", "(N, D)", "(4,)"]),
        (torch.ones(4, 2, 2), torch.zeros(4).long(), ValueError, ["z", "(N, D)", "(4, 2, 2)"]),
        (torch.ones(4, 2).long(), torch.zeros(4).long(), TypeError, ["z", "torch.int64"]),
        (
            torch.ones(4, 2, dtype=torch.complex64),
            torch.zeros(4).long(),
            TypeError,
            ["z", "torch.complex64"],
        ),
        (torch.ones(4, 2), torch.zeros(3).long(), ValueError, ["y", "(4,)", "(3,)"]),
        (torch.ones(4, 2), torch.zeros(4, 1).long(), ValueError, ["y", "(4,)", "(4, 1)"]),
        (torch.ones(4, 2), torch.zeros(4), TypeError, ["y", "int64", "torch.float32"]),
        (torch.ones(4, 2), torch.zeros(4).bool(), TypeError, ["y", "int64", "torch.bool"]),
        (torch.ones(1, 2), torch.zeros(1).long(), ValueError, ["z", "at least 2", "got 1"]),
        (torch.ones(0, 2), torch.zeros(0).long(), ValueError, ["z", "at least 2", "got 0"]),
    ],
    ids=[
        "a vector",
        "three dimensions",
        "integer rows",
        "complex rows",
        "too few labels",
        "a matrix of labels",
        "float labels",
        "boolean labels",
        "one row",
        "no row",
    ],
)
def test_wrong_inputs_are_refused_by_name(one_of_each, z_ND, y_N, error, words):
    for setting in one_of_each:
        with pytest.raises(error) as caught:
            setting.loss()(z_ND, y_N)
        for word in words:
            assert word in str(caught.value)


NAN, INFINITY = float("nan"), float("inf")
REFUSED = {
    "tau": [0, 0.0, -0.1, 1e-300, 1e-7, 1e7, NAN, INFINITY],
    "k1": [-1, -1e-9, 1e39, 1e31, NAN, INFINITY],
    "k2": [
        0,
        0.0,
        -1,
        1e-31,
        1e31,
        NAN,
        INFINITY,
    ],  # 0 would leave nothing to sum where there are no positives
    "form": ["both", "OUT", "", None, 1, ["out"]],
    "lam": [0, -1, 1e7, NAN, INFINITY],
    "alpha": [0, 1, -0.1, 1.5, NAN],
    "margin": [-0.1, 4.1, NAN],
}


def test_hyper_parameters_out_of_range_are_refused_by_name(every_setting):
    kind, hyper = every_setting[0].kind, every_setting[0].hyper
    for name in hyper:
        for value in REFUSED[name]:
            with pytest.raises(ValueError, match=f"^{name} must be .*, got ") as caught:
                kind(**{**hyper, name: value})
            shown = repr(value) if name == "form" else str(value)
            assert str(caught.value).endswith(f"got {shown}")


def test_hyper_parameters_of_the_wrong_type_are_refused_by_name(every_setting):
    kind, hyper = every_setting[0].kind, every_setting[0].hyper
    for name in set(hyper) - {"form"}:
        for value in ("0.1", True, [0.5]):
            with pytest.raises(TypeError, match=f"^{name} must be .*, got ") as caught:
                kind(**{**hyper, name: value})
            assert str(caught.value).endswith(f"got {value!r}")


def test_the_module_shows_its_hyper_parameters(every_setting):
    for setting in every_setting:
        shown = repr(setting.loss())
        assert shown.startswith(f"{setting.kind.__name__}(")
        for name, value in setting.hyper.items():
            text = f"{value:g}" if isinstance(value, float) else repr(value)
            assert f"{name}={text}" in shown


def test_the_module_calls_the_pure_function_beside_it(every_setting, mixed_batch):
    z_ND, y_N = mixed_batch
    functions = {
        name.replace("_", ""): getattr(tcl_train.losses, name)
        for name in tcl_train.losses.__all__
        if name.endswith("_loss")
    }
    for setting in every_setting:
        function = functions[f"{setting.kind.__name__.lower()}loss"]
        assert function.__module__ == setting.kind.__module__
        assert torch.equal(setting.loss()(z_ND, y_N), function(z_ND, y_N, **setting.hyper))
