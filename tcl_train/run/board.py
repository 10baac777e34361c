"""A run in TensorBoard: grouped curves, histograms, pictures, a row of the HParams tab, texts.

metrics.jsonl keeps the flat names of the scalars; here each gets a group.
"""

from __future__ import annotations

import logging
import math
import threading
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from torch import Tensor

from tcl_train.runtime.files import write_atomically

log = logging.getLogger(__name__)

EVAL = "eval/"  # what the names of the evaluation's scalars begin with
# The first group with a pattern that fits a scalar's name; a name with a group keeps it.
GROUPS = {
    "grad": ("grad*",),
    "speed": ("*_per_second", "*_percent", "*_seconds"),
    "geometry": (
        *("*similarity*", "alignment", "uniformity", "tolerance", "rankme"),
        *("*spread", "*_dimensions", "*_information"),
    ),
    "train": ("*",),
}
# Several curves in one chart, in the tab Custom Scalars.
CHARTS = {
    "loss": ("train/loss", "train/chance_level"),
    "mean similarity of pairs": ("geometry/positive_similarity", "geometry/negative_similarity"),
    "mean gradient": ("grad/gradient_from_positives", "grad/gradient_from_negatives"),
    "accuracy": ("monitor/knn_top1", "eval/knn_top1", "eval/top1", "eval/val_top1"),
}
# Final numbers that compare runs: metrics of the HParams tab, and a level line each.
FINAL = {
    "top1": "linear probe, percent of the test split",
    "knn_top1": "kNN, percent of the test split",
    "val_top1": "linear probe, percent of the images that validation= keeps out",
}
SESSION = "events.out.tfevents.0000000000.hparams"  # sorts before the files of the curves


def tag(name: str) -> str:
    """`grad/gradient_from_positives` for a scalar named gradient_from_positives."""
    if "/" in name:
        return name
    group = next(g for g, patterns in GROUPS.items() if any(fnmatch(name, p) for p in patterns))
    return f"{group}/{name}"


class Board:
    """Writes a run's folder for TensorBoard; nothing without a folder, or, with a warning, where
    TensorBoard cannot encode its name.

    Args:
        folder: of the run.
        first_step: of a resumed run: points after it are taken out.
        hyperparameters: the run's row in the HParams tab.

    is_new: this version has written nothing there before.
    """

    def __init__(
        self,
        folder: Path | None,
        *,
        first_step: int = 0,
        hyperparameters: Mapping[str, Any] | None = None,
    ) -> None:
        self._folder, self._first_step, self._writer = str(folder), first_step, None
        self._hook_before = threading.excepthook
        self.is_new = folder is not None and not (folder / SESSION).exists()
        if folder is None or not _encodable(self._folder):
            return
        # What an earlier version wrote, under other names, is left out and drawn anew.
        purge_step = 0 if self.is_new else first_step + 1
        has_events = folder.is_dir() and any(folder.iterdir())
        threading.excepthook = self._without_traceback
        with self._naming_the_folder():
            _write_session(folder, hyperparameters or {})
            self._writer = _summary_writer(self._folder, purge_step if has_events else None)
            if self.is_new:
                self._writer.add_custom_scalars(
                    {"run": {title: ["Multiline", list(tags)] for title, tags in CHARTS.items()}}
                )

    @property
    def writes(self) -> bool:
        return self._writer is not None

    def scalars(self, step: int, scalars: Mapping[str, float]) -> None:
        """A point a curve. Left out are the evaluation's numbers, for which there is `finish`, and
        what is not finite, of which a chart would be empty."""
        with self._writing() as writer:
            for name, value in scalars.items() if writer else ():
                if not name.startswith(EVAL) and math.isfinite(value):
                    writer.add_scalar(tag(name), value, step)

    def picture(self, step: int, name: str, image_CHW: Tensor) -> None:
        """A uint8 picture."""
        with self._writing() as writer:
            if writer:
                writer.add_image(name, image_CHW, step)

    def histogram(
        self, step: int, name: str, counts_K: Sequence[float], *, low: float, high: float
    ) -> None:
        """Counts of K bins of equal width between two values; nothing where all are 0."""
        k, total = len(counts_K), sum(counts_K)
        width = (high - low) / k
        middle_K = [low + (i + 0.5) * width for i in range(k)]
        with self._writing() as writer:
            if writer and total:
                writer.add_histogram_raw(
                    name,
                    min=low,
                    max=high,
                    num=total,
                    sum=sum(c * m for c, m in zip(counts_K, middle_K, strict=True)),
                    sum_squares=sum(c * m * m for c, m in zip(counts_K, middle_K, strict=True)),
                    bucket_limits=[low + (i + 1) * width for i in range(k)],
                    bucket_counts=list(counts_K),
                    global_step=step,
                )

    def text(self, step: int, name: str, markdown: str) -> None:
        with self._writing() as writer:
            if writer:
                writer.add_text(name, _in_utf8(markdown), step)

    def finish(self, step: int, measures: Mapping[str, Any], *, extended: bool) -> None:
        """The numbers of :data:`FINAL` as metrics of the run, and the run as finished.

        A single point would be an empty chart, so that each is a line over the run; over its last
        part where it was extended, since the part before has a line already.
        """
        start = self._first_step + 1 if extended else 0
        with self._writing() as writer:
            for name, meaning in FINAL.items() if writer else ():
                if measures.get(name) is not None:
                    level = _described(EVAL + name, measures[name], meaning)
                    for at in (start, step):
                        writer.file_writer.add_summary(level, at)
            if writer:
                writer.file_writer.add_summary(_session_end(), step)
                writer.flush()

    def close(self) -> None:
        with suppress(OSError):  # of a full disk, which was said when it was written to
            if self._writer:
                self._writer.close()
        threading.excepthook = self._hook_before

    def __enter__(self) -> Board:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @contextmanager
    def _writing(self) -> Iterator[Any]:
        with self._naming_the_folder():
            yield self._writer

    @contextmanager
    def _naming_the_folder(self) -> Iterator[None]:
        """TensorBoard's errors name no file."""
        try:
            yield
        except OSError as error:
            strerror = error.strerror or str(error)
            raise OSError(error.errno, strerror, error.filename or self._folder) from error

    def _without_traceback(self, given: threading.ExceptHookArgs) -> None:
        """TensorBoard writes in a thread, whose error the next `scalars` raises."""
        if given.thread is None or not type(given.thread).__module__.startswith("tensorboard."):
            self._hook_before(given)


def _in_utf8(text: str) -> str:
    """With ? for what is none, as parts of a file's name may be."""
    return text.encode("utf-8", "replace").decode("utf-8")


def _encodable(folder: str) -> bool:
    try:
        folder.encode("utf-8")
    except UnicodeEncodeError:
        log.warning(
            "%s: nothing is written for TensorBoard, which needs a folder named in UTF-8; "
            "metrics.jsonl has the same numbers",
            folder,
        )
        return False
    return True


def _summary_writer(folder: str, purge_step: int | None) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TensorBoard's own, about its dependencies
        from torch.utils.tensorboard import SummaryWriter

        return SummaryWriter(folder, purge_step=purge_step)


def _described(name: str, value: float, meaning: str) -> Any:
    """A scalar that TensorBoard explains beside its chart."""
    from torch.utils.tensorboard.summary import scalar

    summary = scalar(name, value, new_style=True)
    summary.value[
        0
    ].metadata.summary_description = (
        f"{meaning}. One number of the trained encoder, drawn over the run to compare runs."
    )
    return summary


def _session_end() -> Any:
    from torch.utils.tensorboard.summary import hparams

    return hparams({}, {})[2]


def _write_session(folder: Path, hyperparameters: Mapping[str, Any]) -> None:
    """The run's row of the HParams tab. The file is replaced when a run is resumed, since a run
    that is trained for more epochs has others. There is no list of columns: TensorBoard collects
    them from all runs, with those that differ first."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.summary.writer.record_writer import RecordWriter
        from torch.utils.tensorboard.summary import hparams
    now = time.time()
    values = {k: _in_utf8(v) if isinstance(v, str) else v for k, v in hyperparameters.items()}
    row = hparams(values, {})[1]
    events = (
        Event(wall_time=now, file_version="brain.Event:2"),
        Event(wall_time=now, step=0, summary=row),
    )

    def write(path: Path) -> None:
        with path.open("wb") as file:
            records = RecordWriter(file)
            for event in events:
                records.write(event.SerializeToString())

    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / SESSION, write)
