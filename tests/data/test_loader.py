"""The order of an epoch, batches, and labels.

B, N: images; C: channels; H, W: rows and columns.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import DictConfig

from tcl_train.building.run import build_run
from tcl_train.data.dataset import NO_LABEL, Split
from tcl_train.data.images import ArrayImages
from tcl_train.data.loader import Batch, Loader, prefetch
from tcl_train.errors import RequestError

CPU = torch.device("cpu")
steady = settings(max_examples=40)


def numbered(count: int, labels_N: Any = None) -> Split:
    """Images that hold their own number in their two channels, low byte first."""
    number_N = torch.arange(count)
    images_NCHW = torch.stack([number_N % 256, number_N // 256], 1).to(torch.uint8)
    return Split(ArrayImages(images_NCHW.view(count, 2, 1, 1)), labels_N)


def loader(split: Split, **changes: Any) -> Loader:
    usual = {"batch_size": 4, "supervised": False, "seed": 1, "device": CPU}
    return Loader(split, **{**usual, **changes})


def numbers(batch: Batch) -> list[int]:
    low_B, high_B = batch.images[0][:, :, 0, 0].long().unbind(1)
    return (low_B + 256 * high_B).tolist()


def order(loader: Loader, epoch: int, first_batch: int = 0) -> list[list[int]]:
    return [numbers(batch) for batch in loader.epoch(epoch, first_batch)]


def flat(batches: list[list[int]]) -> list[int]:
    return [number for batch in batches for number in batch]


class Unreadable:
    """Stands for labels that nobody may look at."""

    def _fail(self, *_: object) -> Any:
        raise AssertionError("a label was read")

    __getattr__ = __getitem__ = __len__ = __iter__ = _fail


cases = st.integers(1, 300).flatmap(
    lambda count: st.tuples(st.just(count), st.integers(1, count), st.integers(0, 2**40))
)


@steady
@given(case=cases, epoch=st.integers(0, 10**6))
def test_an_epoch_is_whole_batches_without_repetition(
    case: tuple[int, int, int], epoch: int
) -> None:
    count, batch_size, seed = case
    batches = loader(numbered(count), batch_size=batch_size, seed=seed)
    found = order(batches, epoch)
    assert len(found) == batches.steps_per_epoch == count // batch_size
    assert {len(batch) for batch in found} == {batch_size}
    seen = flat(found)
    assert len(set(seen)) == len(seen)
    assert set(seen) <= set(range(count))


@steady
@given(case=cases, epoch=st.integers(0, 10**6))
def test_the_order_is_a_function_of_seed_and_epoch(case: tuple[int, int, int], epoch: int) -> None:
    count, batch_size, seed = case
    one = loader(numbered(count), batch_size=batch_size, seed=seed)
    order(one, epoch + 1)  # what was asked before does not matter
    torch.manual_seed(epoch)  # nor does the global random state
    before = torch.random.get_rng_state()
    found = order(one, epoch)
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.manual_seed(epoch + 1)
    assert order(loader(numbered(count), batch_size=batch_size, seed=seed), epoch) == found


@steady
@given(case=cases, epoch=st.integers(0, 100), data=st.data())
def test_an_epoch_from_a_batch_on_is_the_tail_of_the_epoch(
    case: tuple[int, int, int], epoch: int, data: st.DataObject
) -> None:
    count, batch_size, seed = case
    batches = loader(numbered(count), batch_size=batch_size, seed=seed)
    first = data.draw(st.integers(0, batches.steps_per_epoch))
    assert order(batches, epoch, first) == order(batches, epoch)[first:]


def test_seeds_and_epochs_give_different_orders() -> None:
    split = numbered(64)
    found = [order(loader(split, seed=seed), epoch) for seed in range(5) for epoch in range(5)]
    assert len({str(one) for one in found}) == 25
    assert str(order(loader(split, batch_size=64), 0)) != str([list(range(64))])


def test_the_batch_size_does_not_change_the_order() -> None:
    whole = order(loader(numbered(24), batch_size=24), 3)[0]
    assert flat(order(loader(numbered(24), batch_size=5), 3)) == whole[:20]


def test_what_is_left_over_is_another_part_each_epoch() -> None:
    batches = loader(numbered(11), batch_size=4)
    left = [set(range(11)) - set(flat(order(batches, epoch))) for epoch in range(40)]
    assert {len(part) for part in left} == {3}
    assert set.union(*left) == set(range(11))


def test_every_image_comes_equally_often_at_every_place() -> None:
    """Chi-squared over places and images; its 99.9 % quantile with 15 degrees is 37.7."""
    count, epochs = 16, 800
    batches = loader(numbered(count), batch_size=count)
    place_NN = torch.zeros(count, count)
    for epoch in range(epochs):
        place_NN[order(batches, epoch)[0], torch.arange(count)] += 1
    expected = epochs / count
    chi_squared_N = ((place_NN - expected).square() / expected).sum(1)
    assert chi_squared_N.max() < 45  # the largest of 16


def test_images_and_labels_stay_together() -> None:
    labels_N = torch.arange(300) * 7 % 10
    for batch in loader(numbered(300, labels_N), supervised=True, batch_size=32).epoch(2):
        assert batch.labels_B.dtype == torch.int64
        assert batch.labels_B.tolist() == [number * 7 % 10 for number in numbers(batch)]


LABELS = {
    "none": lambda: None,
    "unreadable": Unreadable,
    "one class": lambda: torch.zeros(20, dtype=torch.int64),
}


@pytest.mark.parametrize("labels", LABELS)
def test_without_supervision_every_image_has_its_own_value_and_no_label_is_read(
    labels: str,
) -> None:
    batches = loader(numbered(20, LABELS[labels]()), supervised=False)
    values: dict[int, int] = {}
    for epoch in range(6):
        for batch in batches.epoch(epoch):
            assert batch.labels_B.dtype == torch.int64
            for number, value in zip(numbers(batch), batch.labels_B.tolist(), strict=True):
                assert values.setdefault(number, value) == value  # the same one each epoch
    assert len(set(values.values())) == 20


def test_supervision_needs_labels() -> None:
    with pytest.raises(RequestError, match=r"supervised=true needs labels.*supervised=false"):
        loader(numbered(20), supervised=True)


def test_a_batch_larger_than_the_data_set_names_both_numbers() -> None:
    with pytest.raises(RequestError, match=r"batch_size=21 .* 20 images; give at most 20"):
        loader(numbered(20), batch_size=21)
    assert loader(numbered(20), batch_size=20).steps_per_epoch == 1


# ------------------------------------------------------------------ one batch ahead, on CUDA


class Streams:
    """torch.cuda's streams, noting what is asked of them."""

    device = torch.device("cuda")

    def __init__(self, said: list[str]) -> None:
        self.said = said

    def current_stream(self, device: torch.device) -> Streams:
        return self

    @contextmanager
    def stream(self, stream: Streams) -> Iterator[None]:
        self.said.append("side")
        yield
        self.said.append("main")

    def wait_stream(self, stream: Streams) -> None:
        self.said.append("wait")


class Noting:
    """A tensor of which only the stream matters."""

    def __init__(self, said: list[str]) -> None:
        self.said = said

    def record_stream(self, stream: Streams) -> None:
        self.said.append("record")


def test_on_cuda_each_batch_is_made_on_a_side_stream_and_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    said: list[str] = []
    streams = Streams(said)
    for name in ("current_stream", "stream"):
        monkeypatch.setattr(torch.cuda, name, getattr(streams, name))

    def batches() -> Iterator[Any]:
        for number in range(2):
            said.append(f"make {number}")
            yield Batch([Noting(said)], Noting(said))  # type: ignore[arg-type]

    for _ in prefetch(batches(), streams):  # type: ignore[arg-type]
        said.append("train")
    one = ["main", "wait", "record", "record", "train", "side"]
    assert said == ["side", "make 0", *one, "make 1", *one, "main"]


def test_elsewhere_batches_come_as_they_are() -> None:
    given = [Batch([torch.zeros(1)], torch.zeros(1)) for _ in range(3)]
    assert list(prefetch(iter(given), None)) == given


@pytest.mark.parametrize(("device", "made"), [("cuda", 1), ("cpu", 0)])
def test_all_epochs_of_a_loader_share_a_stream(
    monkeypatch: pytest.MonkeyPatch, device: str, made: int
) -> None:
    streams: list[torch.device] = []
    monkeypatch.setattr(torch.cuda, "Stream", lambda of: streams.append(of) or of)
    split = Split(ArrayImages(torch.zeros(8, 1, 1, 1, dtype=torch.uint8)), torch.arange(8))
    of_device = Loader(split, batch_size=2, supervised=True, seed=0, device=torch.device(device))
    for epoch in range(3):
        of_device.epoch(epoch)
    assert len(streams) == made


def test_images_without_a_label_are_groups_of_their_own() -> None:
    labels_N = torch.tensor([0, 1, NO_LABEL, 1, NO_LABEL, 0, 2, NO_LABEL])
    images_NCHW = torch.zeros(8, 1, 1, 1, dtype=torch.uint8)
    batches = loader(Split(ArrayImages(images_NCHW), labels_N), supervised=True).labels_N
    assert batches.tolist() == [0, 1, 5, 1, 7, 0, 2, 10]
    assert len(set(batches[labels_N == NO_LABEL].tolist())) == 3


def test_a_share_of_the_labels_is_evenly_from_each_class(
    compose_tiny: Callable[..., DictConfig],
) -> None:
    run = build_run(compose_tiny("labelled=0.1", "loss=supcon"))
    labels_N = run.data.pretrain.labels_N
    assert labels_N is not None
    counts_K = labels_N[labels_N != NO_LABEL].bincount()
    assert counts_K.sum() == round(0.1 * len(labels_N))
    assert counts_K.min() >= 13
    assert run.data.train is not None
    assert (run.data.train.labels_N != NO_LABEL).all()  # type: ignore[union-attr]
    again = build_run(compose_tiny("labelled=0.1", "loss=supcon")).data.pretrain.labels_N
    assert torch.equal(labels_N, again)  # type: ignore[arg-type]
    step = run.trainer.train_step(next(run.trainer.loader.epoch(0)))
    assert step.loss.isfinite()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("supervised=false", "loss=supcon"), "labelled=0.5: with supervised=false no label"),
        (("loss=ce", "method=cross_entropy"), "labelled=0.5: method=cross_entropy needs a label"),
        (("data.sampler=classes",), "data.sampler=classes needs a label for each image"),
    ],
)
def test_few_labels_where_all_are_needed_are_refused(
    words: tuple[str, ...], said: str, compose_tiny: Callable[..., DictConfig]
) -> None:
    with pytest.raises(RequestError, match=said):
        build_run(compose_tiny("labelled=0.5", *words))
