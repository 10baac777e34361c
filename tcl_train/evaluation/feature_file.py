"""Features of many images as files: FILE.npy with FILE.csv for the images' names, or FILE.parquet
with both; and beside them FILE.json, which says what they are.

N: images; B: of them at a time; D: features.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from tcl_train.errors import RequestError, printable
from tcl_train.runtime.files import write_atomically, write_json

NPY, PARQUET = ".npy", ".parquet"
NAME = "file"  # the column of the images' names
LITTLE_FLOAT32 = "<f4"
ROWS_OF_A_GROUP = 1024  # of .parquet


class FeatureWriter(Protocol):
    """Takes rows as they come, so that memory does not grow with their number."""

    def add(self, names: Sequence[str], x_BD: np.ndarray) -> None: ...

    def close(self) -> None: ...


class StoredFeatures(NamedTuple):
    """x_ND: float32, which may lie on the disk. names: relative to the folder `about["images"]`."""

    x_ND: np.ndarray
    names: list[str]
    about: dict[str, Any]


def files_of(path: Path) -> dict[str, Path]:
    """All files that belong to the one of this name, itself among them. Raises RequestError for an
    ending that is not known, or whose library is not installed."""
    if path.suffix not in (NPY, PARQUET):
        raise RequestError(f"out={printable(path)}: must end in {NPY} or {PARQUET}")
    found = {"features": path, "about": path.with_suffix(".json")}
    if path.suffix == PARQUET:
        _require_pyarrow()
    else:
        found["names"] = path.with_suffix(".csv")
    return {**found, "unreadable": path.with_name(f"{path.stem}-unreadable.csv")}


def open_writer(path: Path, kind: str, dim: int) -> FeatureWriter:
    """kind: the ending, NPY or PARQUET."""
    return _Parquet(path, dim) if kind == PARQUET else _Npy(path, dim)


def write_rows(path: Path, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """A CSV file; names that are not UTF-8 keep their bytes."""

    def write(temporary: Path) -> None:
        with temporary.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(columns)
            writer.writerows(rows)

    write_atomically(path, write)


def write_about(path: Path, names: Sequence[str], about: dict[str, Any]) -> None:
    """What stands beside the features: names, and what they are."""
    files = files_of(path)
    if "names" in files:
        write_rows(files["names"], [NAME], [[name] for name in names])
    write_json(files["about"], about)


def read_features(path: Path) -> StoredFeatures:
    """What tcl-embed has written.

    Raises:
        RequestError: there is no such file, or what belongs to it is not there or not whole.
    """
    given = f"features={printable(path)}"
    if path.suffix not in (NPY, PARQUET):
        raise RequestError(f"{given}: give encoder, projector, or a FILE.npy or FILE.parquet")
    if not path.is_file():
        raise RequestError(f"{given}: there is no such file; write it by tcl-embed run= images=")
    files = files_of(path)
    try:
        about = json.loads(files["about"].read_text(encoding="utf-8"))
        x_ND, names = _read_parquet(path) if path.suffix == PARQUET else _read_npy(files)
    except FileNotFoundError as error:
        raise RequestError(f"{given}: {error.filename} is missing beside it") from error
    except Exception as error:  # of the readers, many kinds
        first = (str(error).splitlines() or [""])[0]
        raise RequestError(f"{given}: not whole ({type(error).__name__}: {first})") from error
    if x_ND.ndim != 2 or len(x_ND) != len(names) or "images" not in about:
        raise RequestError(
            f"{given}: not written by tcl-embed, or not together with what lies beside it "
            f"({len(x_ND)} rows, {len(names)} names)"
        )
    return StoredFeatures(x_ND, names, about)


# ------------------------------------------------------------------ .npy and .csv


class _Npy:
    """numpy's format. The number of rows, which stands at its beginning, is written at last."""

    def __init__(self, path: Path, dim: int) -> None:
        self._file = path.open("wb")
        self._count, self._dim = 0, dim
        self._write_header()
        self._begin = self._file.tell()

    def _write_header(self) -> None:
        shape = (self._count, self._dim)
        header = {"descr": LITTLE_FLOAT32, "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(self._file, header)

    def add(self, names: Sequence[str], x_BD: np.ndarray) -> None:
        self._file.write(np.ascontiguousarray(x_BD, LITTLE_FLOAT32).data)
        self._count += len(names)

    def close(self) -> None:
        self._file.seek(0)
        self._write_header()
        assert self._file.tell() == self._begin  # numpy leaves room for larger numbers
        self._file.close()


def _read_npy(files: dict[str, Path]) -> tuple[np.ndarray, list[str]]:
    x_ND = np.load(files["features"], mmap_mode="r", allow_pickle=False)
    with files["names"].open(newline="", encoding="utf-8", errors="surrogateescape") as file:
        (column, *_), *rows = csv.reader(file)
    if column != NAME:
        raise ValueError(f"the first column of {files['names'].name} is {column}")
    return x_ND, [row[0] for row in rows]


# ------------------------------------------------------------------ .parquet


def _require_pyarrow() -> Any:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise RequestError(
            "pyarrow, which writes .parquet, is not installed; pip install 'tcl-train[parquet]', "
            "or give out=FILE.npy"
        ) from None
    return pyarrow


class _Parquet:
    """Row groups of ROWS_OF_A_GROUP or slightly more for any batch size: with many small groups the
    file would be large and slow to read."""

    def __init__(self, path: Path, dim: int) -> None:
        self._arrow = _require_pyarrow()
        self._dim = dim
        row = self._arrow.list_(self._arrow.float32(), dim)
        self._schema = self._arrow.schema([(NAME, self._arrow.string()), ("features", row)])
        self._writer = self._arrow.parquet.ParquetWriter(path, self._schema)
        self._names: list[str] = []
        self._parts: list[np.ndarray] = []

    def add(self, names: Sequence[str], x_BD: np.ndarray) -> None:
        self._names += names
        self._parts.append(x_BD)
        if len(self._names) >= ROWS_OF_A_GROUP:
            self._write_group()

    def _write_group(self) -> None:
        x_BD = np.concatenate(self._parts)
        flat = self._arrow.array(np.ascontiguousarray(x_BD, LITTLE_FLOAT32).ravel())
        rows = self._arrow.FixedSizeListArray.from_arrays(flat, self._dim)
        utf8 = [
            name.encode(errors="surrogateescape").decode(errors="replace") for name in self._names
        ]
        table = self._arrow.table({NAME: utf8, "features": rows}, schema=self._schema)
        self._writer.write_table(table)
        self._names, self._parts = [], []

    def close(self) -> None:
        if self._names:
            self._write_group()
        self._writer.close()


def _read_parquet(path: Path) -> tuple[np.ndarray, list[str]]:
    table = _require_pyarrow().parquet.read_table(path)
    rows = table["features"].combine_chunks()
    x_ND = rows.flatten().to_numpy().reshape(len(table), rows.type.list_size)
    return x_ND, table[NAME].to_pylist()
