"""The network that follows, and how slowly."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import nn

from tcl_train.methods.progress import along_cosine
from tcl_train.methods.teacher import Teacher, check_momentum


def student():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2, bias=False))


def moved(net):
    """The same network after something has been learned and seen."""
    with torch.no_grad():
        for p in net.parameters():
            p += 1
    net.train()(torch.randn(16, 3, generator=torch.Generator().manual_seed(3)))
    return net


def x(n=8):
    return torch.randn(n, 3, generator=torch.Generator().manual_seed(1))


# ------------------------------------------------------------------ momentum


def test_momentum_goes_from_the_first_to_the_last_along_half_a_cosine():
    values = [along_cosine(0.9, 1.0, p) for p in (0.0, 0.5, 1.0)]
    assert values == pytest.approx([0.9, 0.95, 1.0])
    steps = [along_cosine(0.9, 1.0, i / 10) for i in range(11)]
    assert steps == sorted(steps)
    rises = [b - a for a, b in pairwise(steps)]
    assert max(rises) == pytest.approx(rises[4])
    assert along_cosine(0.99, 0.99, 0.3) == 0.99


def test_momentum_is_that_of_byol():
    """1 - (1 - tau) (cos(pi k / K) + 1) / 2, as lightly has it."""
    theirs = pytest.importorskip("lightly.utils.scheduler").cosine_schedule
    for step in range(11):
        expected = theirs(step, 11, 0.99, 1.0)  # reaches the end with the last step, number 10
        assert along_cosine(0.99, 1.0, step / 10) == pytest.approx(expected)


@pytest.mark.parametrize(("first", "last", "name"), [(-0.1, 1, "momentum"), (0, 1.1, "_end")])
def test_a_momentum_outside_0_to_1_is_refused_by_name(first, last, name):
    with pytest.raises(ValueError, match=name):
        check_momentum(first, last)


# ------------------------------------------------------------------ following


@pytest.mark.parametrize("own_statistics", [True, False])
def test_weights_follow_and_statistics_only_where_they_are_not_its_own(own_statistics):
    net = student()
    teacher = Teacher(net, own_statistics=own_statistics)
    before = {name: value.clone() for name, value in teacher.network.state_dict().items()}
    teacher.follow(moved(net), 0.75)
    weights = {name for name, _ in net.named_parameters()}
    for name, value in teacher.network.state_dict().items():
        target = net.state_dict()[name]
        if name in weights or not own_statistics:
            if value.is_floating_point():
                target = 0.75 * before[name] + 0.25 * target
            torch.testing.assert_close(value, target)
        else:
            assert torch.equal(value, before[name]), name


@pytest.mark.parametrize(("momentum", "equals"), [(0.0, "student"), (1.0, "before")])
def test_at_the_ends_it_is_the_student_or_stays(momentum, equals):
    net = student()
    teacher = Teacher(net)
    expected = {"before": student(), "student": moved(net)}[equals]
    teacher.follow(net, momentum)
    for p, value in zip(teacher.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(p, value)


def test_it_does_not_share_memory_with_the_student():
    net = student()
    teacher = Teacher(net)
    moved(net)
    for p, value in zip(teacher.parameters(), student().parameters(), strict=True):
        assert torch.equal(p, value)


def test_there_is_no_gradient():
    net = student()
    teacher = Teacher(net)
    assert not any(p.requires_grad for p in teacher.parameters())
    assert all(p.requires_grad for p in net.parameters())
    assert not teacher(x().requires_grad_()).requires_grad


# ------------------------------------------------------------------ modes


@pytest.mark.parametrize("own_statistics", [True, False])
def test_training_takes_the_batch_s_statistics_only_where_they_are_its_own(own_statistics):
    net = moved(student())
    teacher = Teacher(net, own_statistics=own_statistics).train()
    assert teacher.training
    before = teacher.network[1].running_mean.clone()
    y_ND = teacher(x())
    expected = net.train(own_statistics)(x())
    torch.testing.assert_close(y_ND, expected)
    assert torch.equal(teacher.network[1].running_mean, before) != own_statistics


@pytest.mark.parametrize("own_statistics", [True, False])
def test_evaluation_takes_running_statistics(own_statistics):
    net = moved(student())
    teacher = Teacher(net, own_statistics=own_statistics).train().eval()
    assert not teacher.training
    torch.testing.assert_close(teacher(x()), net.eval()(x()))


def test_the_modes_of_a_whole_method_reach_it():
    outer = nn.ModuleDict({"a": Teacher(student()), "b": Teacher(student(), own_statistics=False)})
    assert [part.network.training for part in outer.train().values()] == [True, False]
    assert [part.network.training for part in outer.eval().values()] == [False, False]
