from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from tcl_train.evaluation.features import accuracy
from tcl_train.evaluation.probe import ProbeInput
from tcl_train.evaluation.sgd import SGDProbe


@pytest.fixture
def top1(data) -> Callable[[SGDProbe, ProbeInput], float]:
    """Of a probe on the test split."""
    return lambda probe, given: accuracy(probe(given).scores(given, data.test), data.test.labels_N)


def test_it_learns_and_leaves_the_encoder_bit_identical(given, encoder, top1) -> None:
    encoder.train()
    before = copy.deepcopy(encoder.state_dict())
    assert top1(SGDProbe(epochs=10), given) > 60
    assert all(torch.equal(before[k], v) for k, v in encoder.state_dict().items())
    assert all(p.grad is None for p in encoder.parameters())


def test_it_is_a_function_of_the_seed(given, data) -> None:
    def scores(seed: int) -> torch.Tensor:
        seeded = replace(given, seed=seed)
        return SGDProbe(epochs=1)(seeded).scores(seeded, data.test)

    torch.manual_seed(5)
    once = scores(1)
    torch.manual_seed(6)  # the global state must not matter
    assert torch.equal(scores(1), once)
    assert not torch.equal(scores(2), once)


def test_a_batch_larger_than_the_data_set_is_cut(given) -> None:
    result = SGDProbe(epochs=1, batch_size=10_000)(given)
    assert "batches of 240" in result.protocol["optimiser"]


@pytest.mark.parametrize("keys", [{"epochs": 0}, {"lr": 0}, {"momentum": 1}, {"batch_size": 0}])
def test_wrong_values_are_named(keys) -> None:
    with pytest.raises(ValueError, match=next(iter(keys))):
        SGDProbe(**keys)
