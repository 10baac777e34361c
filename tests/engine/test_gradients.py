"""A step's gradients: what chunks change, and what they do not.

Several processes are in test_processes.py.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from omegaconf import DictConfig
from torch import nn

from tcl_train.building.run import build_run
from tcl_train.data.dataset import DataSet
from tcl_train.engine.fit import Trainer
from tcl_train.engine.gradients import statistics_unchanged
from tcl_train.methods.method import StepOutput

BATCH = 32

# ------------------------------------------------------------------ chunks


@pytest.fixture
def one_step(
    compose_tiny: Callable[..., DictConfig], few_digits: DataSet
) -> Callable[..., tuple[Trainer, StepOutput]]:
    """A trainer after one step in float64, and the step."""

    def run(*words: str, change: Callable[[nn.Module], Any] = lambda _: None) -> Any:
        trainer = build_run(compose_tiny(f"batch_size={BATCH}", *words), data=few_digits).trainer
        trainer.method.train()
        trainer.method.double()
        for part in trainer.method.modules():
            if isinstance(part, type(trainer.method.encoder)):  # a teacher's, too
                part.register_forward_pre_hook(lambda _, given: (given[0].double(),))
        change(trainer.method)
        return trainer, trainer.train_step(next(iter(trainer.loader.epoch(0))))

    return run


def gradients(trainer: Trainer) -> dict[str, torch.Tensor]:
    found = {}
    for name, p in trainer.method.named_parameters():
        assert (p.grad is not None) == p.requires_grad, name
        if p.grad is not None:
            found[name] = p.grad
    return found


def freeze_statistics(method: nn.Module) -> None:
    for part in method.modules():
        if isinstance(part, nn.BatchNorm1d | nn.BatchNorm2d):
            part.eval()


@pytest.mark.parametrize("chunk", [1, 5, 8, 31])
@pytest.mark.parametrize(
    ("words", "change"),
    [
        (("encoder.norm=group",), lambda _: None),
        (("encoder.norm=group", "method=class_rows", "views=1"), lambda _: None),
        (("encoder.norm=group", "loss=ce"), lambda _: None),
        ((), freeze_statistics),
    ],
    ids=["group norm", "class rows", "cross-entropy", "frozen statistics"],
)
def test_chunks_have_the_gradients_of_the_whole_batch(
    words: tuple[str, ...],
    change: Callable[[nn.Module], Any],
    chunk: int,
    one_step: Callable[..., tuple[Trainer, StepOutput]],
) -> None:
    whole, output = one_step(*words, change=change)
    chunked, in_chunks = one_step(*words, f"chunk_size={chunk}", change=change)
    torch.testing.assert_close(in_chunks.loss, output.loss, rtol=1e-12, atol=0)
    torch.testing.assert_close(in_chunks.rows_ND, output.rows_ND)
    expected = gradients(whole)
    for name, gradient in gradients(chunked).items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("chunk", [5])
@pytest.mark.parametrize("further", [(), ("multicrop=small", "multicrop.small.count=2")], ids=len)
def test_chunks_have_the_gradients_of_the_whole_batch_with_every_recipe(
    recipe_words: list[str],
    further: tuple[str, ...],
    chunk: int,
    one_step: Callable[..., tuple[Trainer, StepOutput]],
) -> None:
    words = (*recipe_words, *further)
    whole, output = one_step(*words, change=freeze_statistics)
    chunked, in_chunks = one_step(*words, f"chunk_size={chunk}", change=freeze_statistics)
    torch.testing.assert_close(in_chunks.loss, output.loss, rtol=1e-12, atol=0)
    torch.testing.assert_close(in_chunks.rows_ND, output.rows_ND)
    expected = gradients(whole)
    assert any(gradient.abs().max() > 1e-6 for gradient in expected.values())
    for name, gradient in gradients(chunked).items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-8, atol=1e-11)
    for name, value in whole.method.state_dict().items():  # the queue and the centre, too
        torch.testing.assert_close(chunked.method.state_dict()[name], value, msg=name)


@pytest.mark.parametrize("chunk", [BATCH, 1000])
def test_a_chunk_of_the_whole_batch_is_no_chunk(
    chunk: int, one_step: Callable[..., tuple[Trainer, StepOutput]]
) -> None:
    whole, one = one_step()[0], one_step(f"chunk_size={chunk}")[0]
    for name, value in whole.method.state_dict().items():
        assert torch.equal(one.method.state_dict()[name], value), name


def test_batch_norm_takes_its_statistics_of_each_chunk_and_remembers_them_once(
    one_step: Callable[..., tuple[Trainer, StepOutput]],
) -> None:
    trainer, _ = one_step("chunk_size=8")
    norm = trainer.method.encoder.bn1
    assert norm.num_batches_tracked == BATCH / 8


def test_layers_that_draw_draw_the_same_in_both_passes(
    one_step: Callable[..., tuple[Trainer, StepOutput]],
) -> None:
    """Or the gradient would be that of other embeddings."""
    seen: list[torch.Tensor] = []

    def with_dropout(method: Any) -> None:
        method.projector = nn.Sequential(nn.Dropout(0.5), method.projector)
        method.projector[0].register_forward_hook(lambda *given: seen.append(given[2].detach()))

    one_step("chunk_size=16", "encoder.norm=group", change=with_dropout)
    assert len(seen) == 4
    assert torch.equal(seen[0], seen[2])
    assert torch.equal(seen[1], seen[3])
    assert not torch.equal(seen[0] == 0, seen[1] == 0)


def test_statistics_are_remembered_again_afterwards() -> None:
    norm = nn.BatchNorm1d(2)
    x_ND = torch.randn(4, 2, generator=torch.Generator().manual_seed(0))
    with statistics_unchanged(norm):
        y_ND = norm(x_ND)
    assert norm.num_batches_tracked == 0
    assert torch.equal(norm.running_mean, torch.zeros(2))
    torch.testing.assert_close(y_ND.mean(0), torch.zeros(2), atol=1e-6, rtol=0)
    norm(x_ND)
    assert norm.num_batches_tracked == 1
