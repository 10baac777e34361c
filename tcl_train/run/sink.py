"""Where a run's numbers go: TensorBoard and metrics.jsonl."""

from __future__ import annotations

import json
import logging
import math
import threading
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from types import TracebackType
from typing import Any

from torch import Tensor

from tcl_train.run.directory import RunDir
from tcl_train.runtime.files import write_text

log = logging.getLogger(__name__)

EVAL = "eval/"  # what the names of the evaluation's scalars begin with


class Sink:
    """Writes scalars by step. What a resumed run would write again is taken out first: the steps
    after its checkpoint, and an evaluation, since a run that is resumed has not finished it.
    (TensorBoard can only take out whole steps; there the same point is drawn twice.)

    is_new: nothing was written to TensorBoard before, by an earlier part of the run.
    """

    def __init__(self, run_dir: RunDir, *, first_step: int = 0) -> None:
        self.is_new = not run_dir.tensorboard.exists()
        purge_step = None if self.is_new else first_step + 1
        self._folder = str(run_dir.tensorboard)
        self._hook_before = threading.excepthook
        threading.excepthook = self._without_traceback
        with self._naming_the_folder():
            self._writer = _summary_writer(self._folder, purge_step)
        if run_dir.metrics.exists():
            text = run_dir.metrics.read_text(encoding="utf-8", errors="replace")
            kept = [line for line in text.splitlines(keepends=True) if _stays(line, first_step)]
            write_text(run_dir.metrics, "".join(kept))
        self._metrics = run_dir.metrics.open("a", encoding="utf-8")

    def write(self, step: int, epoch: int, scalars: Mapping[str, float]) -> None:
        """One line of metrics.jsonl (what is not finite becomes null) and a point a curve. In
        TensorBoard the curves of training stand side by side below `train`."""
        record = {"step": step, "epoch": epoch}
        record |= {k: v if math.isfinite(v) else None for k, v in scalars.items()}  # type: ignore[misc]
        try:
            self._metrics.write(json.dumps(record) + "\n")
            self._metrics.flush()
        except OSError as error:
            raise OSError(error.errno, error.strerror, self._metrics.name) from error
        with self._naming_the_folder():
            for name, value in scalars.items() if self._writer else ():
                self._writer.add_scalar(name if "/" in name else f"train/{name}", value, step)

    def picture(self, step: int, name: str, image_CHW: Tensor) -> None:
        """A uint8 picture in TensorBoard."""
        with self._naming_the_folder():
            if self._writer:
                self._writer.add_image(name, image_CHW, step)

    def close(self) -> None:
        for file in (self._metrics, self._writer):
            with suppress(OSError):  # of a full disk, which was said when it was written to
                if file:
                    file.close()
        threading.excepthook = self._hook_before

    @contextmanager
    def _naming_the_folder(self) -> Iterator[None]:
        """TensorBoard's errors name no file."""
        try:
            yield
        except OSError as error:
            strerror = error.strerror or str(error)
            raise OSError(error.errno, strerror, error.filename or self._folder) from error

    def _without_traceback(self, given: threading.ExceptHookArgs) -> None:
        """TensorBoard writes in a thread, whose error the next `write` raises."""
        if given.thread is None or not type(given.thread).__module__.startswith("tensorboard."):
            self._hook_before(given)

    def __enter__(self) -> Sink:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class UnwrittenSink(Sink):
    """For a process that has another one write the numbers."""

    def __init__(self) -> None:
        self.is_new = False

    def write(self, step: int, epoch: int, scalars: Mapping[str, float]) -> None:
        pass

    def picture(self, step: int, name: str, image_CHW: Tensor) -> None:
        pass

    def close(self) -> None:
        pass


def _summary_writer(folder: str, purge_step: int | None) -> Any:
    """None, with a warning, for a folder whose name TensorBoard cannot encode."""
    try:
        folder.encode("utf-8")
    except UnicodeEncodeError:
        log.warning(
            "%s: nothing is written for TensorBoard, which needs a folder named in UTF-8; "
            "metrics.jsonl has the same numbers",
            folder,
        )
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TensorBoard's own, about its dependencies
        from torch.utils.tensorboard import SummaryWriter

        return SummaryWriter(folder, purge_step=purge_step)


def _stays(line: str, first_step: int) -> bool:
    try:
        record = json.loads(line)
        return record["step"] <= first_step and not any(key.startswith(EVAL) for key in record)
    except (json.JSONDecodeError, KeyError, TypeError):
        return False  # half a line, from a run that was killed
