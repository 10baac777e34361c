from __future__ import annotations

import copy

import pytest
import torch

from tcl_train.evaluation.features import extract
from tcl_train.evaluation.probe import ProbeInput
from tcl_train.evaluation.sgd import SGDProbe


@pytest.fixture
def given(data, augment, encoder, runtime) -> ProbeInput:
    return ProbeInput(
        encoder=encoder,
        train=extract(encoder, data.train, augment.normalize, runtime),
        test=extract(encoder, data.test, augment.normalize, runtime),
        train_split=data.train,
        num_classes=3,
        augment=augment,
        runtime=runtime,
        seed=1,
        batch_size=32,
    )


def test_it_learns_and_leaves_the_encoder_bit_identical(given, encoder) -> None:
    encoder.train()
    before = copy.deepcopy(encoder.state_dict())
    result = SGDProbe(epochs=10)(given)
    assert result.top1 > 60
    assert all(torch.equal(before[k], v) for k, v in encoder.state_dict().items())
    assert all(p.grad is None for p in encoder.parameters())


def test_it_is_a_function_of_the_seed(given) -> None:
    probe = SGDProbe(epochs=1)
    torch.manual_seed(5)
    once = probe(given)
    torch.manual_seed(6)  # the global state must not matter
    assert probe(given) == once
    other = [probe(ProbeInput(**{**vars(given), "seed": s})).top1 for s in range(2, 8)]
    assert len({once.top1, *other}) > 1


def test_a_batch_larger_than_the_data_set_is_cut(given) -> None:
    result = SGDProbe(epochs=1, batch_size=10_000)(given)
    assert "batches of 240" in result.protocol["optimiser"]


@pytest.mark.parametrize("keys", [{"epochs": 0}, {"lr": 0}, {"momentum": 1}, {"batch_size": 0}])
def test_wrong_values_are_named(keys) -> None:
    with pytest.raises(ValueError, match=next(iter(keys))):
        SGDProbe(**keys)
