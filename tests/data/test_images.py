"""Images in memory or streamed by workers.

B, N: images; C: channels; H, W: rows and columns.
"""

from __future__ import annotations

import gc
import multiprocessing
import os
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch._subclasses import FakeTensorMode

from tcl_train.data.images import ArrayImages, FileImages
from tcl_train.errors import RequestError

CPU = torch.device("cpu")


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def chw(pixels_HWC: np.ndarray) -> np.ndarray:
    return pixels_HWC.transpose(2, 0, 1)


# ------------------------------------------------------------------ sets of images


@pytest.fixture
def files(tmp_path: Path) -> tuple[list[Path], np.ndarray]:
    """Nine files and their pixels (9, 3, 5, 5)."""
    pixels_NHWC = [noise(5, 5, seed) for seed in range(9)]
    paths = [tmp_path / f"{i}.png" for i in range(9)]
    for path, pixels_HWC in zip(paths, pixels_NHWC, strict=True):
        Image.fromarray(pixels_HWC).save(path)
    return paths, np.stack([chw(pixels_HWC) for pixels_HWC in pixels_NHWC])


INDEX_BATCHES = [torch.tensor([4, 0, 8, 4]), torch.tensor([1, 2, 3]), torch.tensor([7])]


@pytest.mark.parametrize("workers", [0, 2])
def test_streamed_images_come_in_the_order_of_the_indices(
    files: tuple[list[Path], np.ndarray], workers: int
) -> None:
    paths, images_NCHW = files
    images = FileImages(paths, 5, workers)
    assert len(images) == 9
    batches = list(images.batches(INDEX_BATCHES, CPU))
    assert len(batches) == 3
    for index_B, images_BCHW in zip(INDEX_BATCHES, batches, strict=True):
        assert images_BCHW.dtype == torch.uint8
        np.testing.assert_array_equal(images_BCHW, images_NCHW[index_B.numpy()])


@pytest.mark.parametrize("workers", [0, 2])
def test_an_unreadable_file_stops_the_stream_with_its_name_alone(
    files: tuple[list[Path], np.ndarray], workers: int
) -> None:
    paths, _ = files
    paths[2].write_bytes(paths[2].read_bytes()[:60])
    stream = FileImages(paths, 5, workers).batches(INDEX_BATCHES, CPU)
    assert next(stream).shape == (4, 3, 5, 5)  # the first batch does not hold the file
    with pytest.raises(RequestError) as raised:
        next(stream)
    assert str(raised.value).startswith(f"{paths[2]}: cut off")
    assert "\n" not in str(raised.value)  # no traceback of a worker


def worker_pids() -> set[int]:
    return {process.pid for process in multiprocessing.active_children() if process.pid}


def assert_these(
    batches: Iterable[torch.Tensor], images_NCHW: np.ndarray, *, of: Sequence[torch.Tensor]
) -> None:
    for index_B, images_BCHW in zip(of, batches, strict=True):
        assert np.array_equal(images_BCHW, images_NCHW[index_B.numpy()])


def test_workers_are_kept_from_one_epoch_to_the_next(
    files: tuple[list[Path], np.ndarray],
) -> None:
    paths, images_NCHW = files
    before = worker_pids()
    images = FileImages(paths, 5, workers=2)
    list(images.batches(INDEX_BATCHES, CPU))
    kept = worker_pids() - before
    assert len(kept) == 2
    assert_these(images.batches(INDEX_BATCHES, CPU), images_NCHW, of=INDEX_BATCHES)
    assert worker_pids() - before == kept
    del images
    gc.collect()
    assert all_end(list(kept))


def test_an_epoch_that_is_left_takes_its_workers_along(
    files: tuple[list[Path], np.ndarray],
) -> None:
    paths, images_NCHW = files
    before = worker_pids()
    images = FileImages(paths, 5, workers=2)
    left = images.batches(INDEX_BATCHES, CPU)
    next(left)
    of_the_first = worker_pids() - before
    left.close()
    assert all_end(list(of_the_first))
    assert_these(images.batches(INDEX_BATCHES, CPU), images_NCHW, of=INDEX_BATCHES)


def test_two_epochs_at_once_do_not_disturb_each_other(
    files: tuple[list[Path], np.ndarray],
) -> None:
    paths, images_NCHW = files
    images = FileImages(paths, 5, workers=2)
    both = (images.batches(INDEX_BATCHES, CPU) for _ in range(2))
    in_turn = [image for pair in zip(*both, strict=True) for image in pair]
    twice = [index_B for index_B in INDEX_BATCHES for _ in range(2)]
    assert_these(in_turn, images_NCHW, of=twice)


def test_workers_are_no_copies_of_this_process_and_outlive_a_signal_to_all(
    files: tuple[list[Path], np.ndarray],
) -> None:
    """A process with threads must not be forked, and Ctrl-C reaches the workers, too, while the
    trainer still finishes its step; so does a scheduler's SIGTERM."""
    before = set(multiprocessing.active_children())
    stream = FileImages(files[0], 5, 1).batches(INDEX_BATCHES * 4, CPU)
    next(stream)
    (worker,) = set(multiprocessing.active_children()) - before
    assert type(worker).__name__ != "ForkProcess"
    for name in ("INT", "TERM", "HUP", "USR1"):  # from another process, as a scheduler does
        subprocess.run(["sh", "-c", f"kill -{name} {worker.pid}"], check=True)
    assert len(list(stream)) == 11


STREAM_AND_WAIT = """
import multiprocessing, sys, time
import torch
from tcl_train.data.images import FileImages

if __name__ == "__main__":
    paths = sys.argv[1:]
    indices = [torch.tensor([0])] * 1000
    stream = FileImages(paths, 5, 2).batches(indices, torch.device("cpu"))
    next(stream)
    from multiprocessing import forkserver
    pids = [child.pid for child in multiprocessing.active_children()]
    print(*pids, forkserver._forkserver._forkserver_pid, flush=True)
    time.sleep(60)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="there is no fork server")
def test_workers_end_with_a_trainer_that_is_killed(
    files: tuple[list[Path], np.ndarray], tmp_path: Path
) -> None:
    script = tmp_path / "stream.py"
    script.write_text(STREAM_AND_WAIT)
    trainer = subprocess.Popen(
        [sys.executable, str(script), *map(str, files[0])], stdout=subprocess.PIPE, text=True
    )
    assert trainer.stdout is not None
    pids = [int(word) for word in trainer.stdout.readline().split()]
    assert len(pids) == 3
    trainer.kill()
    trainer.communicate()
    assert all_end(pids)


STREAM_AND_LEAVE = STREAM_AND_WAIT.replace("time.sleep(60)", "")


def test_a_trainer_that_leaves_in_the_middle_ends(
    files: tuple[list[Path], np.ndarray], tmp_path: Path
) -> None:
    """At its end Python asks what still runs to terminate, and waits for it."""
    script = tmp_path / "leave.py"
    script.write_text(STREAM_AND_LEAVE)
    done = subprocess.run(
        [sys.executable, str(script), *map(str, files[0])],
        stdout=subprocess.PIPE,
        timeout=180,  # a busy machine takes half a minute
        check=True,
    )
    assert all_end([int(word) for word in done.stdout.split()])


def all_end(pids: list[int]) -> bool:
    """Within half a minute."""
    until = time.monotonic() + 30
    while any(map(is_running, pids)) and time.monotonic() < until:
        time.sleep(0.05)
    return not any(map(is_running, pids))


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    stat = Path(f"/proc/{pid}/stat")  # an ended process may wait there for its parent
    return not stat.exists() or stat.read_text().rsplit(")", 1)[1].split()[0] != "Z"


def test_streaming_leaves_the_global_random_state_alone(
    files: tuple[list[Path], np.ndarray],
) -> None:
    before = torch.random.get_rng_state()
    list(FileImages(files[0], 5, 0).batches(INDEX_BATCHES, CPU))
    assert torch.equal(torch.random.get_rng_state(), before)


def test_no_batches_need_no_workers(files: tuple[list[Path], np.ndarray]) -> None:
    assert list(FileImages(files[0], 5, 2).batches([], CPU)) == []


def test_images_in_memory_come_in_the_order_of_the_indices() -> None:
    images_NCHW = torch.arange(9 * 2 * 2, dtype=torch.uint8).view(9, 1, 2, 2)
    images = ArrayImages(images_NCHW)
    assert len(images) == 9
    for index_B, images_BCHW in zip(INDEX_BATCHES, images.batches(INDEX_BATCHES, CPU), strict=True):
        assert torch.equal(images_BCHW, images_NCHW[index_B])


@pytest.mark.parametrize(
    "wrong", [torch.zeros(2, 3, 4, 4), torch.zeros(2, 4, 4, dtype=torch.uint8)]
)
def test_an_array_of_another_type_or_shape_is_refused(wrong: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="uint8 of shape"):
        ArrayImages(wrong)


# ------------------------------------------------------------------ images and a GPU's memory


def test_images_that_would_fill_a_gpu_stay_with_the_host(
    monkeypatch: pytest.MonkeyPatch, fake_cuda: None
) -> None:
    images_NCHW = torch.zeros(8, 3, 10, 10, dtype=torch.uint8)
    for free, home in ((2 * images_NCHW.nbytes, "cuda"), (2 * images_NCHW.nbytes - 1, "cpu")):
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _, free=free: (free, 10**9))
        monkeypatch.setattr(torch.Tensor, "pin_memory", lambda x: x)  # which wants a driver
        with FakeTensorMode(allow_non_fake_inputs=True):
            images = ArrayImages(torch.empty(8, 3, 10, 10, dtype=torch.uint8))
            index_B = torch.zeros(4, dtype=torch.int64)
            (images_BCHW,) = images.batches([index_B], torch.device("cuda"))
        assert images_BCHW.device.type == "cuda"
        assert images.images_NCHW.device.type == home


def test_the_digest_names_pixels_and_shape() -> None:
    images_NCHW = torch.arange(48, dtype=torch.uint8).view(4, 3, 2, 2)
    digest = ArrayImages(images_NCHW).digest()
    assert digest.startswith("pixels:")
    assert ArrayImages(images_NCHW.clone()).digest() == digest
    for other_NCHW in (images_NCHW + 1, images_NCHW.flip(0), images_NCHW.view(4, 3, 4, 1)):
        assert ArrayImages(other_NCHW).digest() != digest
