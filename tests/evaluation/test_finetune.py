"""Fine-tuning trains a copy of the encoder."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch

from tcl_train.evaluation.features import accuracy
from tcl_train.evaluation.finetune import FineTuneProbe

SHORT = {"epochs": 4, "min_steps": 0, "batch_size": 32}


def test_it_learns_and_leaves_the_given_encoder_bit_identical(given, encoder, data) -> None:
    encoder.train()
    before = copy.deepcopy(encoder.state_dict())
    classifier = FineTuneProbe(**SHORT)(given)
    score_NK = classifier.scores(given, data.test, x_ND=torch.zeros(90, 8))
    assert accuracy(score_NK, data.test.labels_N) > 60
    assert all(torch.equal(before[k], v) for k, v in encoder.state_dict().items())
    assert all(p.grad is None for p in encoder.parameters())
    assert encoder.training


def test_the_copy_has_changed_and_is_frozen(given, encoder) -> None:
    for parameter in encoder.parameters():
        parameter.requires_grad_(False)  # as some that come from elsewhere
    tuned = FineTuneProbe(**SHORT)(given).encoder
    assert not torch.equal(tuned[0].weight, encoder[0].weight)
    assert not torch.equal(tuned[1].running_mean, encoder[1].running_mean)
    assert not any(part.training for part in tuned.modules())
    assert not any(p.requires_grad for p in tuned.parameters())


def test_it_is_a_function_of_the_seed(given, data) -> None:
    def scores(seed: int) -> torch.Tensor:
        seeded = replace(given, seed=seed)
        return FineTuneProbe(**{**SHORT, "epochs": 1})(seeded).scores(seeded, data.test)

    once = scores(1)
    assert torch.equal(scores(1), once)
    assert not torch.equal(scores(2), once)


def test_few_images_are_seen_in_more_epochs(given, data) -> None:
    few = torch.arange(12)
    small = replace(given, train_split=data.train.chosen(few))
    protocol = FineTuneProbe(epochs=1, min_steps=5)(small).protocol
    assert "5 epochs of batches of 12" in protocol["optimiser"]


@pytest.mark.parametrize(
    "keys", [{"epochs": 0}, {"lr": 0}, {"classifier_lr": 0}, {"batch_size": 1}, {"min_steps": -1}]
)
def test_wrong_values_are_named(keys) -> None:
    with pytest.raises(ValueError, match=next(iter(keys))):
        FineTuneProbe(**keys)
