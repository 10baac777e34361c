"""Where a run's numbers go: the progress bar, TensorBoard, metrics.jsonl, and the log."""

from __future__ import annotations

import json
import logging
import math
import sys
import warnings
from collections.abc import Mapping
from logging.handlers import MemoryHandler
from types import TracebackType
from typing import Any

from torch import Tensor
from tqdm import tqdm

from tcl_train.run.directory import RunDir

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
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # TensorBoard's own, about its dependencies
            from torch.utils.tensorboard import SummaryWriter

            self._writer = SummaryWriter(
                str(run_dir.tensorboard),
                purge_step=None if self.is_new else first_step + 1,
            )
        if run_dir.metrics.exists():
            lines = run_dir.metrics.read_text().splitlines(keepends=True)
            kept = [line for line in lines if _stays(line, first_step)]
            run_dir.metrics.write_text("".join(kept))
        self._metrics = run_dir.metrics.open("a", encoding="utf-8")

    def write(self, step: int, epoch: int, scalars: Mapping[str, float]) -> None:
        """One line of metrics.jsonl (what is not finite becomes null) and a point a curve. In
        TensorBoard the curves of training stand side by side below `train`."""
        record = {"step": step, "epoch": epoch}
        record |= {k: v if math.isfinite(v) else None for k, v in scalars.items()}  # type: ignore[misc]
        self._metrics.write(json.dumps(record) + "\n")
        self._metrics.flush()
        for name, value in scalars.items():
            self._writer.add_scalar(name if "/" in name else f"train/{name}", value, step)

    def picture(self, step: int, name: str, image_CHW: Tensor) -> None:
        """A uint8 picture in TensorBoard."""
        self._writer.add_image(name, image_CHW, step)

    def close(self) -> None:
        self._metrics.close()
        self._writer.close()

    def __enter__(self) -> Sink:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _stays(line: str, first_step: int) -> bool:
    try:
        record = json.loads(line)
        return record["step"] <= first_step and not any(key.startswith(EVAL) for key in record)
    except (json.JSONDecodeError, KeyError, TypeError):
        return False  # half a line, from a run that was killed


def progress_bar(*, total: int, done: int, unit: str = "step") -> Any:
    """A tqdm bar with the time left; silent where the output is not a terminal."""
    return tqdm(
        total=total,
        initial=done,
        unit=unit,
        disable=not sys.stderr.isatty(),
        dynamic_ncols=True,
        leave=False,
    )


class _AboveProgressBar(logging.StreamHandler):
    """Prints to standard output without tearing a progress bar."""

    def emit(self, record: logging.LogRecord) -> None:
        tqdm.write(self.format(record), file=sys.stdout)
        sys.stdout.flush()


def log_to_terminal() -> None:
    """Messages of this package go to standard output, as they are."""
    package = logging.getLogger("tcl_train")
    package.setLevel(logging.INFO)
    package.propagate = False
    if not any(isinstance(handler, _AboveProgressBar) for handler in package.handlers):
        package.addHandler(_AboveProgressBar())


def hold_messages() -> MemoryHandler:
    """Keeps messages for the train.log of a run that has no directory yet."""
    handler = MemoryHandler(capacity=10_000, flushLevel=logging.CRITICAL + 1, flushOnClose=False)
    logging.getLogger("tcl_train").addHandler(handler)
    return handler


def log_to_file(run_dir: RunDir, held: MemoryHandler | None = None) -> logging.FileHandler:
    """Messages, those held among them, also go to the run's train.log, with the time."""
    handler = logging.FileHandler(run_dir.log, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
    package = logging.getLogger("tcl_train")
    if held is not None:
        package.removeHandler(held)
        held.setTarget(handler)
        held.flush()
    package.addHandler(handler)
    return handler
