"""Features of files come in order, however many threads compute them."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from tcl_train.commands import file_features
from tcl_train.commands.file_features import feature_batches, suitable_batch
from tcl_train.data import stream
from tcl_train.data.decode import UnreadableImage, decode
from tcl_train.data.folder import LARGEST_IMAGE_SIZE, stored_size
from tcl_train.data.normalize import Normalize
from tcl_train.restore import Embedder
from tcl_train.runtime.device import Runtime

COUNT, SIDE, DIM = 37, 6, 5


def embedder_of(side: int = SIDE, precision: str = "fp32") -> Embedder:
    torch.manual_seed(0)
    return Embedder(
        module=nn.Sequential(nn.Flatten(), nn.Linear(3 * side * side, DIM)),
        dim=DIM,
        normalize=Normalize(size=side, mean=(0.5,) * 3, std=(0.25,) * 3),
        runtime=Runtime(device="cpu", precision=precision),
        step=0,
    )


@pytest.fixture
def batches(tmp_path: Path) -> list[list[str]]:
    rng = np.random.default_rng(0)
    paths = [str(tmp_path / f"{i:02}.png") for i in range(COUNT)]
    for path in paths:
        Image.fromarray(rng.integers(0, 256, (SIDE, SIDE, 3), np.uint8)).save(path)
    return [paths[start : start + 5] for start in range(0, COUNT, 5)]


def by_hand(embedder: Embedder, paths: list[str]) -> Tensor:
    images_N3SS = torch.stack([torch.from_numpy(decode(path, SIDE)) for path in paths])
    with torch.no_grad():
        return embedder.module(embedder.normalize(images_N3SS))


@pytest.fixture(params=[True, False], ids=["as on a CPU", "as for a GPU"])
def both_ways(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file_features, "_computes_in_threads", lambda _: request.param)


@pytest.mark.usefixtures("both_ways")
@pytest.mark.parametrize("workers", [None, 1, 3])
def test_every_file_has_its_features(batches: list[list[str]], workers: int | None) -> None:
    embedder = embedder_of()
    embedder.module.train()
    with feature_batches(embedder, batches, workers=workers, skip=False) as found:
        for paths, (x_BD, places_B) in zip(batches, found, strict=True):
            assert places_B == list(range(len(paths)))
            assert not x_BD.requires_grad
            assert torch.allclose(x_BD, by_hand(embedder, paths), atol=1e-6)
    assert embedder.module.training


@pytest.mark.usefixtures("both_ways")
def test_files_that_cannot_be_read_are_left_out_or_raised(batches: list[list[str]]) -> None:
    for path in [batches[0][2], *batches[1]]:
        Path(path).write_bytes(b"no image")
    embedder = embedder_of()
    with feature_batches(embedder, batches[:3], workers=2, skip=True) as found:
        shapes_and_places = [(tuple(x_BD.shape), places_B) for x_BD, places_B in found]
    whole = ((5, DIM), [0, 1, 2, 3, 4])
    assert shapes_and_places == [((4, DIM), [0, 1, 3, 4]), ((0, DIM), []), whole]
    with (
        feature_batches(embedder, batches, workers=2, skip=False) as found,
        pytest.raises(UnreadableImage, match=r"02.png: not an image"),
    ):
        next(found)


def test_threads_compute_in_the_runs_precision_and_leave_nothing_behind(
    batches: list[list[str]],
) -> None:
    seen: set[tuple[int, torch.dtype]] = set()
    embedder = embedder_of(precision="bf16")
    embedder.module.register_forward_hook(
        lambda _module, _inputs, output: seen.add((torch.get_num_threads(), output.dtype))
    )
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    try:
        with feature_batches(embedder, batches, workers=2, skip=False) as found:
            assert next(found).x_BD.dtype == torch.float32  # and the others are not asked for
        assert seen == {(2, torch.bfloat16)}
        threads_of_a_new_one: list[int] = []
        new = threading.Thread(target=lambda: threads_of_a_new_one.append(torch.get_num_threads()))
        new.start()
        new.join()
        assert [torch.get_num_threads(), *threads_of_a_new_one] == [4, 4]
        assert torch.is_grad_enabled()
        assert not torch.is_autocast_enabled("cpu")
    finally:
        torch.set_num_threads(before)


@pytest.mark.usefixtures("both_ways")
def test_an_error_of_the_caller_is_heard(batches: list[list[str]]) -> None:
    """Decoders are silent, and what ends the block is said on standard error."""
    before = os.fstat(2)

    def fail_in_the_middle() -> None:
        with feature_batches(embedder_of(), batches, workers=2, skip=False) as found:
            next(found)
            assert os.fstat(2) != before
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt) as kept:
        fail_in_the_middle()
    assert kept  # with its traceback, which holds what the block has left
    assert os.fstat(2) == before


@pytest.mark.usefixtures("both_ways")
def test_few_batches_are_ahead_of_the_one_that_is_asked_for(
    batches: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: set[str] = set()

    def watched(path: str, size: int) -> np.ndarray:
        begun.add(path)
        return decode(path, size)

    monkeypatch.setattr(stream, "decode", watched)
    with feature_batches(embedder_of(), batches, workers=2, skip=False) as found:
        next(found)
        time.sleep(0.1)  # for more, if there were more
        assert len(begun) <= 15


def test_large_images_are_decoded_with_the_margin_of_evaluation(tmp_path: Path) -> None:
    side = LARGEST_IMAGE_SIZE
    path = tmp_path / "a.png"
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (300, 300, 3), np.uint8)).save(path)
    embedder = embedder_of(side)
    with feature_batches(embedder, [[str(path)]], workers=1, skip=False) as found:
        x_BD = next(found).x_BD
    images_1SS = torch.from_numpy(decode(path, stored_size(side)))[None]
    with torch.no_grad():
        by_hand = embedder.module(embedder.normalize(images_1SS))
    assert torch.allclose(x_BD, by_hand, atol=1e-4)


def test_a_batch_is_smaller_where_images_are_large() -> None:
    assert suitable_batch(embedder_of(32)) == 32
    assert suitable_batch(embedder_of(224)) == 10
    assert suitable_batch(embedder_of(1000)) == 1
