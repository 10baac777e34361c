"""What the benchmark scripts share: a table that says where it comes from."""

from __future__ import annotations

import csv
import platform
import sys
from collections.abc import Iterable
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch

from tcl_train import __version__
from tcl_train.runtime.code_version import git_commit
from tcl_train.runtime.device import device_name


def provenance(device: torch.device, command: str) -> dict[str, str]:
    """Machine, versions, commit and command."""
    return {
        "command": command,
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d"),
        "device": device_name(device),
        "cpu": _cpu_model(),
        "threads": str(torch.get_num_threads()),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "tcl_train": __version__,
        "commit": git_commit() or "none",
    }


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), "")


class Table:
    """Rows of figures, kept in a CSV file whose first lines, beginning with #, say where they come
    from. Each row is stored and shown as soon as it is measured, so that a benchmark that is cut
    off leaves what it has."""

    def __init__(self, path: Path, device: torch.device) -> None:
        self.path = path
        self.rows: list[dict[str, Any]] = []
        self._source = provenance(device, "python " + " ".join(sys.argv))

    def add(self, row: dict[str, Any]) -> None:
        """A row with the keys of the first."""
        self.rows.append(row)
        self._show()
        self._store()

    def _show(self) -> None:
        """The last row, below the names of the columns where it is the first."""
        widths = [max(len(column), 10) for column in self.rows[0]]
        lines: list[Iterable[object]] = [self.rows[-1].values()]
        if len(self.rows) == 1:
            lines.insert(0, self.rows[0].keys())
        for line in lines:
            texts = (_text(value).rjust(width) for value, width in zip(line, widths, strict=True))
            print("  ".join(texts), flush=True)

    def _store(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("w", newline="", encoding="utf-8") as file:
            for key, value in self._source.items():
                file.write(f"# {key}: {value}\n")
            writer = csv.DictWriter(file, list(self.rows[0]), lineterminator="\n")
            writer.writeheader()
            for row in self.rows:
                writer.writerow({key: _text(value) for key, value in row.items()})


def _text(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
