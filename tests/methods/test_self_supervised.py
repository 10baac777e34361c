"""What holds for every self-supervised method that defines its own loss.

B: images; V: views; N = V x B rows; D: embedding dimensions.
"""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tcl_train.losses import SupCon
from tcl_train.methods.barlow_twins import BarlowTwins
from tcl_train.methods.byol import BYOL
from tcl_train.methods.diagnostics import find_collapse
from tcl_train.methods.dino import DINO
from tcl_train.methods.mocov2 import MoCoV2
from tcl_train.methods.nnclr import NNCLR
from tcl_train.methods.self_supervised import mean_over_pairs, unit_rows
from tcl_train.methods.simsiam import SimSiam
from tcl_train.methods.swav import SwAV
from tcl_train.methods.vicreg import VICReg
from tcl_train.models import linear, none

LABELS_B = torch.arange(8)
METHODS = {
    BarlowTwins: {},
    BYOL: {"predictor_hidden_dim": 4},
    DINO: {"prototypes": 6},
    MoCoV2: {"queue": 20},
    NNCLR: {"queue": 20, "predictor_hidden_dim": 4},
    SimSiam: {"predictor_hidden_dim": 4},
    SwAV: {"prototypes": 6, "queue": 20},
    VICReg: {},
}
each_method = pytest.mark.parametrize("kind", METHODS, ids=lambda kind: kind.__name__)


@pytest.fixture
def method(tiny_method):
    return lambda kind, **keys: tiny_method(kind, **METHODS[kind], **keys)


# ------------------------------------------------------------------ views


@each_method
@pytest.mark.parametrize(("large", "small"), [(2, 0), (3, 0), (2, 4)])
def test_any_views_give_a_loss_that_trains_everything(kind, large, small, method, views):
    m = method(kind, norm=True).train()
    groups = [views(large), *([views(small, size=2)] if small else [])]
    step = m(groups, LABELS_B, 0.5)
    step.loss.backward()
    assert step.loss.isfinite()
    assert step.rows_ND.shape == ((large + small) * 8, 5)
    assert step.labels_N.tolist() == list(range(8)) * (large + small)
    for name, p in m.named_parameters():
        assert (p.grad is not None) == p.requires_grad, name
        assert p.requires_grad != name.startswith("teacher"), name
    assert any(p.grad.abs().sum() > 0 for p in m.encoder.parameters())


@each_method
def test_views_in_another_order_have_the_same_loss(kind, method, views):
    m = method(kind).double()
    x = views(2).double()
    swapped = torch.cat([*reversed(x.split(8))])
    torch.testing.assert_close(m([x], LABELS_B).loss, m([swapped], LABELS_B).loss)


@each_method
def test_images_in_another_order_have_the_same_loss(kind, method, views):
    m = method(kind).double()
    x = views(2).double()
    turned = torch.cat([part.flip(0) for part in x.split(8)])
    torch.testing.assert_close(m([x], LABELS_B).loss, m([turned], LABELS_B).loss)


@each_method
def test_views_of_the_same_image_belong_together(kind, method, views):
    """The loss of views that belong together is smaller once it has been minimised."""
    m = method(kind, norm=True).double()
    x = views(1).double()
    optimizer = torch.optim.Adam([p for p in m.parameters() if p.requires_grad], lr=0.01)
    for _ in range(30):
        optimizer.zero_grad()
        m([x.repeat(2, 1, 1, 1)], LABELS_B).loss.backward()
        optimizer.step()
    together = m([x.repeat(2, 1, 1, 1)], LABELS_B).loss
    apart = m([torch.cat([x, x.roll(1, 0)])], LABELS_B).loss
    assert together < apart


@each_method
def test_labels_are_not_read(kind, method, views):
    m = method(kind)
    losses = [m([views(2)], labels_B).loss for labels_B in (LABELS_B, LABELS_B % 2)]
    assert torch.equal(*losses)
    assert not kind.reads_labels


# ------------------------------------------------------------------ numbers


@each_method
def test_float64_stays_and_agrees_with_float32(kind, method, views):
    one, other = method(kind), method(kind).double()
    other.load_state_dict(one.state_dict())
    values = one([views(2)], LABELS_B).loss, other([views(2).double()], LABELS_B).loss
    assert [v.dtype for v in values] == [torch.float32, torch.float64]
    torch.testing.assert_close(values[0].double(), values[1], rtol=1e-4, atol=1e-4)


@each_method
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_precision_rows_have_a_loss_in_float32(kind, dtype, method, views):
    """It is the loss of the rounded rows, also where autocast is on."""
    m = method(kind)
    rounded = {name: x.detach().to(dtype) for name, x in m.embed([views(2)]).items()}
    with torch.autocast("cpu", dtype=dtype):
        loss = m.compute_loss(rounded, LABELS_B, 0.5).loss
    exact = m.compute_loss({name: x.float() for name, x in rounded.items()}, LABELS_B, 0.5).loss
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, exact, rtol=1e-5, atol=1e-5)


@each_method
def test_a_row_of_zeros_has_a_gradient_that_half_precision_can_hold(kind, method, views):
    m = method(kind)
    leaves = {name: x.detach().clone() for name, x in m.embed([views(2)]).items()}
    for leaf in leaves.values():
        leaf[3] = 0
        leaf.requires_grad_()
    m.compute_loss(leaves, LABELS_B, 0.5).loss.backward()
    gradients = [leaf.grad for leaf in leaves.values() if leaf.grad is not None]
    assert gradients
    for gradient in gradients:
        assert gradient.abs().max() < 100


@each_method
def test_equal_rows_have_a_finite_loss_and_gradient(kind, method, views):
    m = method(kind)
    leaves = {name: torch.ones_like(x) for name, x in m.embed([views(2)]).items()}
    for leaf in leaves.values():
        leaf.requires_grad_()
    loss = m.compute_loss(leaves, LABELS_B, 0.5).loss
    loss.backward()
    assert loss.isfinite()
    for leaf in leaves.values():
        assert leaf.grad is None or leaf.grad.isfinite().all()


# ------------------------------------------------------------------ collapse


def scalars_of(m, step):
    return {"loss": step.loss.item(), **{k: v.item() for k, v in m.diagnostics(step).items()}}


@each_method
def test_constant_projections_are_found(kind, method, views):
    m = method(kind)
    with torch.no_grad():
        m.projector[-1].weight.zero_()
        m.projector[-1].bias.fill_(1)
    found = find_collapse(scalars_of(m, m([views(2)], LABELS_B)), "do this")
    assert found.is_certain
    assert "do this" in found.words


@each_method
def test_projections_along_one_direction_are_found(kind, method, views):
    m = method(kind)
    with torch.no_grad():
        m.projector[-1].weight.copy_(m.projector[-1].weight[0].repeat(5, 1))
        m.projector[-1].bias.zero_()
        m.projector[-1].bias[0] = 0.5
    assert find_collapse(scalars_of(m, m([views(2)], LABELS_B)), "") is not None


@pytest.mark.parametrize("kind", [SwAV, DINO], ids=lambda kind: kind.__name__)
def test_prototypes_that_do_not_tell_rows_apart_are_found(kind, method, views):
    """The projections are spread; the prototypes are all the same."""
    m = method(kind)
    with torch.no_grad():
        for name, p in m.named_parameters():
            if "prototypes" in name:
                p.copy_(p[0].repeat(6, 1))
    scalars = scalars_of(m, m([views(2)], LABELS_B))
    assert scalars["embedding_spread"] > 0.1
    assert "assigned to the prototypes alike" in find_collapse(scalars, "").words


@each_method
def test_a_random_network_has_not_collapsed(kind, method, views):
    m = method(kind, norm=True).train()
    found = find_collapse(scalars_of(m, m([views(2)], LABELS_B)), "")
    assert found is None or not found.is_certain


# ------------------------------------------------------------------ parts


@each_method
def test_what_changes_is_stored(kind, method, views):
    """After other steps, a method with the state of another goes on as that one does."""
    one, other = method(kind, norm=True), method(kind, norm=True)
    for m, seed in ((one, 1), (other, 2), (other, 3)):
        m.train()([views(2, seed=seed)], LABELS_B, 0.5)
        m.after_update(0.5)
    other.load_state_dict(one.state_dict())
    losses = [m([views(2, seed=4)], LABELS_B, 0.6).loss for m in (one, other)]
    assert torch.equal(*losses)


@each_method
def test_the_groups_of_parameters_are_all_that_are_trained(kind, method):
    m = method(kind)
    grouped = [id(p) for group in m.parameter_groups() for p in group.parameters]
    assert sorted(grouped) == sorted(id(p) for p in m.parameters() if p.requires_grad)


@each_method
@pytest.mark.parametrize(("make", "dim"), [(none, 6), (linear, 128)], ids=["none", "linear"])
def test_any_projector_will_do(kind, make, dim, method, views):
    step = method(kind, projector=make(6))([views(2)], LABELS_B)
    assert step.rows_ND.shape == (16, dim)


@each_method
def test_a_loss_that_was_chosen_is_refused(kind):
    with pytest.raises(ValueError, match=rf"{kind.__name__} defines its own loss; leave out loss="):
        kind(encoder=nn.Identity(), projector=nn.Identity(), loss=SupCon(), num_classes=2)


# ------------------------------------------------------------------ pairs


def test_pairs_are_all_of_different_views_and_the_first_of_few():
    one, other = torch.arange(3.0)[:, None, None], 10 * torch.arange(2.0)[:, None, None]
    seen = []
    mean_over_pairs(lambda a, b: seen.append((a.item(), b.item())) or a.sum(), one, other)
    assert seen == [(0, 10), (1, 0), (2, 0), (2, 10)]


def test_unit_rows_are_those_of_any_shape():
    rows_VBD = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(unit_rows(rows_VBD).norm(dim=-1), torch.ones(2, 3))
    assert torch.equal(unit_rows(torch.zeros(2, 3, 4)), torch.zeros(2, 3, 4))
