"""What is written batch by batch is read again, with its names."""

from __future__ import annotations

import builtins
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tcl_train.errors import RequestError
from tcl_train.evaluation.feature_file import files_of, open_writer, read_features, write_about

NAMES = ["a/ü 1.png", 'b,"c".png', "d\n.png", "e.png"]
X = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)


def write(path: Path, counts: list[int]) -> None:
    writer, start = open_writer(path, path.suffix, 3), 0
    for count in counts:
        writer.add(NAMES[start : start + count], X[start : start + count])
        start += count
    writer.close()
    write_about(path, NAMES[:start], {"images": "/somewhere"})


@pytest.mark.parametrize("counts", [[4], [1, 3], [2, 0, 2], []])
@pytest.mark.parametrize("ending", ["npy", "parquet"])
def test_it_is_read_as_it_was_written(ending: str, counts: list[int], tmp_path: Path) -> None:
    path = tmp_path / f"it.{ending}"
    write(path, counts)
    x_ND, names, about = read_features(path)
    assert np.array_equal(x_ND, X[: sum(counts)])
    assert x_ND.shape[1] == 3
    assert names == NAMES[: sum(counts)]
    assert about == {"images": "/somewhere"}
    there = {file.name for file in tmp_path.iterdir()}
    assert there <= {file.name for file in files_of(path).values()}


def test_numpy_reads_it(tmp_path: Path) -> None:
    write(tmp_path / "it.npy", [4])
    assert np.array_equal(np.load(tmp_path / "it.npy"), X)


def test_names_that_are_not_utf8_come_back(tmp_path: Path) -> None:
    odd = b"\xff.png".decode(errors="surrogateescape")
    writer = open_writer(tmp_path / "it.npy", ".npy", 3)
    writer.add([odd], X[:1])
    writer.close()
    write_about(tmp_path / "it.npy", [odd], {"images": ""})
    assert read_features(tmp_path / "it.npy").names == [odd]


def damage_nothing(path: Path) -> None:
    path.unlink()


def other_names(path: Path) -> None:
    path.with_suffix(".csv").write_text("file\none.png\n")


DAMAGE = {
    "there is no such file": damage_nothing,
    "it.csv is missing": lambda path: path.with_suffix(".csv").unlink(),
    "it.json is missing": lambda path: path.with_suffix(".json").unlink(),
    "not whole": lambda path: path.write_bytes(path.read_bytes()[:140]),
    "4 rows, 1 names": other_names,
    "first column": lambda path: path.with_suffix(".csv").write_text("row\n1\n"),
}


@pytest.mark.parametrize("said", DAMAGE)
def test_what_is_not_whole_is_refused(said: str, tmp_path: Path) -> None:
    path = tmp_path / "it.npy"
    write(path, [4])
    DAMAGE[said](path)
    with pytest.raises(RequestError, match=said):
        read_features(path)


@pytest.mark.parametrize("rows", [0, 1, 2500])
def test_parquet_has_large_groups_of_rows_whatever_the_batches(tmp_path: Path, rows: int) -> None:
    import pyarrow.parquet

    x_ND = np.arange(rows * 3, dtype=np.float32).reshape(rows, 3)
    names = [f"{i}.png" for i in range(rows)]
    writer = open_writer(tmp_path / "it.parquet", ".parquet", 3)
    for start in range(0, rows, 10):
        writer.add(names[start : start + 10], x_ND[start : start + 10])
    writer.close()
    file = pyarrow.parquet.ParquetFile(tmp_path / "it.parquet")
    assert file.metadata.num_row_groups == -(-rows // 1030)  # the first multiple of 10 from 1,024
    table = file.read()
    assert table["file"].to_pylist() == names
    assert table["features"].to_pylist() == x_ND.tolist()


def test_parquet_needs_pyarrow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *args: Any, **keys: Any) -> Any:
        if name == "pyarrow":
            raise ImportError(name)
        return real(name, *args, **keys)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(RequestError, match=r"pip install 'tcl-train\[parquet\]'"):
        files_of(tmp_path / "it.parquet")
