"""What the benchmark scripts share: a table that says where it comes from."""

from __future__ import annotations

import csv
import platform
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


def print_table(rows: list[dict[str, Any]]) -> None:
    """Aligned columns."""
    columns = list(rows[0])
    texts = [[_text(row[column]) for column in columns] for row in rows]
    widths = [max(map(len, [c, *(t[i] for t in texts)])) for i, c in enumerate(columns)]
    for line in (columns, *texts):
        print("  ".join(text.rjust(width) for text, width in zip(line, widths, strict=True)))


def store(path: Path, rows: list[dict[str, Any]], source: dict[str, str]) -> None:
    """A CSV whose first lines, beginning with #, say where it comes from."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        for key, value in source.items():
            file.write(f"# {key}: {value}\n")
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows({key: _text(value) for key, value in row.items()} for row in rows)
    print(f"stored in {path}")


def _text(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
