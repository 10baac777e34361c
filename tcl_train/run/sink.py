"""Where a run's numbers go: metrics.jsonl, and the run's board in TensorBoard."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from contextlib import suppress
from types import TracebackType
from typing import Any, NamedTuple

from tcl_train.run.board import EVAL, Board
from tcl_train.run.directory import RunDir
from tcl_train.runtime.files import write_text


class Sink:
    """Writes scalars by step. What a resumed run would write again is taken out first: the steps
    after its checkpoint, and an evaluation, since a run that is resumed has not finished it.

    Args:
        run_dir: of the run.
        first_step: of the checkpoint that the run is resumed from.
        hyperparameters: the run's row in TensorBoard's HParams tab.
    """

    def __init__(
        self,
        run_dir: RunDir,
        *,
        first_step: int = 0,
        hyperparameters: Mapping[str, Any] | None = None,
    ) -> None:
        kept = _kept(run_dir, first_step)
        self.board = Board(
            run_dir.tensorboard, first_step=first_step, hyperparameters=hyperparameters
        )
        if self.board.is_new:
            for line in kept:
                self.board.scalars(line.step, line.scalars)
        self._metrics = run_dir.metrics.open("a", encoding="utf-8")

    def write(self, step: int, epoch: int, scalars: Mapping[str, float]) -> None:
        """One line of metrics.jsonl (what is not finite becomes null) and a point a curve."""
        record = {"step": step, "epoch": epoch}
        record |= {k: v if math.isfinite(v) else None for k, v in scalars.items()}  # type: ignore[misc]
        try:
            self._metrics.write(json.dumps(record) + "\n")
            self._metrics.flush()
        except OSError as error:
            raise OSError(error.errno, error.strerror, self._metrics.name) from error
        self.board.scalars(step, scalars)

    def close(self) -> None:
        with suppress(OSError):  # of a full disk, which was said when it was written to
            self._metrics.close()
        self.board.close()

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
        self.board = Board(None)

    def write(self, step: int, epoch: int, scalars: Mapping[str, float]) -> None:
        pass

    def close(self) -> None:
        pass


class _Line(NamedTuple):
    step: int
    scalars: dict[str, float]  # without those that were not finite

    @property
    def evaluates(self) -> bool:
        return any(name.startswith(EVAL) for name in self.scalars)


def _read(text: str) -> _Line | None:
    """None for half a line, from a run that was killed."""
    try:
        record = json.loads(text)
        numbers = {k: v for k, v in record.items() if k not in ("step", "epoch") and v is not None}
        return _Line(int(record["step"]), numbers)
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


def _kept(run_dir: RunDir, first_step: int) -> list[_Line]:
    """Takes out of metrics.jsonl what will be written again; gives what stays."""
    if not run_dir.metrics.exists():
        return []
    text = run_dir.metrics.read_text(encoding="utf-8", errors="replace")
    lines = [(raw, line) for raw in text.splitlines(keepends=True) if (line := _read(raw))]
    kept = [(raw, line) for raw, line in lines if line.step <= first_step and not line.evaluates]
    write_text(run_dir.metrics, "".join(raw for raw, _ in kept))
    return [line for _, line in kept]
