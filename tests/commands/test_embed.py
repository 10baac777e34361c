"""tcl-embed: features of a folder, the nearest images, and near-duplicates."""

from __future__ import annotations

import csv
import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tcl_train import load_encoder
from tcl_train.cli.main import main_embed
from tcl_train.data.decode import decode

COUNT = 23


@pytest.fixture
def tcl_embed(command: Callable[..., Any]) -> Callable[..., Any]:
    return partial(command, main=main_embed)


@pytest.fixture
def embed_refused(refused: Callable[..., str]) -> Callable[..., str]:
    return partial(refused, main=main_embed)


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Grey images of several kinds and sizes, one of them twice, below two folders."""
    root = tmp_path / "pictures"
    rng = np.random.default_rng(0)
    for i in range(COUNT - 1):
        folder = root / ("a" if i % 2 else "b/ü")
        folder.mkdir(parents=True, exist_ok=True)
        side = (8, 20)[i % 2]
        image = Image.fromarray(rng.integers(0, 256, (side, side + i % 3), np.uint8))
        kind = ("L", "RGB", "CMYK")[i % 3]
        image.convert(kind).save(folder / f"{i:02}.{'tif' if kind == 'CMYK' else 'png'}")
    shutil.copy(root / "a" / "01.png", root / "again.png")
    return root


@pytest.fixture
def stored(finished: Any, pictures: Path, tcl_embed: Any, tmp_path: Path) -> Path:
    """The features of these pictures."""
    path = tmp_path / "stored.npy"
    words = f"run={finished.run_dir}", f"images={pictures}", f"out={path}", "batch_size=5"
    outcome = tcl_embed(*words)
    assert (outcome.status, outcome.err) == (0, "")
    return path


def names_of(path: Path) -> list[str]:
    with path.with_suffix(".csv").open(newline="", encoding="utf-8") as file:
        return [row["file"] for row in csv.DictReader(file)]


def features_by_hand(run: Path, paths: list[Path]) -> np.ndarray:
    encoder = load_encoder(run)
    images_N3SS = torch.stack([torch.from_numpy(decode(path, 8)) for path in paths]) / 255
    images_N3SS = images_N3SS[:, :1].expand(-1, 3, -1, -1)
    with torch.no_grad():
        return encoder((images_N3SS - encoder.mean[0]) / encoder.std[0]).numpy()


def close(one: np.ndarray, other: np.ndarray) -> bool:
    return np.allclose(one, other, rtol=1e-3, atol=0.02)  # grey is rounded to 8 bits


def test_every_image_has_its_features_and_its_name(
    stored: Path, finished: Any, pictures: Path
) -> None:
    names = names_of(stored)
    assert names == sorted(names)
    assert len(names) == COUNT
    paths = [pictures / name for name in names]
    assert all(path.is_file() for path in paths)
    x_ND = np.load(stored)
    assert x_ND.dtype == np.float32
    assert close(x_ND, features_by_hand(finished.run_dir.path, paths))
    about = json.loads(stored.with_suffix(".json").read_text())
    assert (about["images"], about["dim"], about["count"]) == (str(pictures), 16, COUNT)
    assert about["layer"] == "encoder"
    assert not stored.with_name("stored-unreadable.csv").exists()


def test_the_number_computed_at_a_time_makes_no_difference(
    stored: Path, finished: Any, pictures: Path, tcl_embed: Any, tmp_path: Path
) -> None:
    words = f"run={finished.run_dir}", f"images={pictures}", "workers=1"
    assert tcl_embed(*words, f"out={tmp_path / 'all.parquet'}").status == 0
    import pyarrow.parquet

    table = pyarrow.parquet.read_table(tmp_path / "all.parquet")
    assert table["file"].to_pylist() == names_of(stored)
    x_ND = np.array(table["features"].to_pylist(), np.float32)
    assert np.allclose(x_ND, np.load(stored), atol=1e-5)


def test_the_projectors_output_can_be_had(
    finished: Any, pictures: Path, tcl_embed: Any, tmp_path: Path
) -> None:
    words = f"run={finished.run_dir}", f"images={pictures}", f"out={tmp_path / 'p.npy'}"
    assert tcl_embed(*words, "features=projector").status == 0
    assert np.load(tmp_path / "p.npy").shape == (COUNT, 128)


def test_without_out_it_lies_in_the_run(
    finished: Any, pictures: Path, tcl_embed: Any, tmp_path: Path
) -> None:
    run = shutil.copytree(finished.run_dir.path, tmp_path / "run")
    assert tcl_embed(f"run={run}", f"images={pictures}").status == 0
    assert np.load(run / "embeddings" / "pictures.npy").shape == (COUNT, 16)


# ------------------------------------------------------------------ damaged images


@pytest.fixture
def damaged(pictures: Path) -> Path:
    whole = (pictures / "a" / "01.png").read_bytes()
    (pictures / "a" / "cut.png").write_bytes(whole[:60])
    (pictures / "zzz.jpg").write_bytes(b"not at all")
    return pictures


def test_images_that_cannot_be_read_are_skipped_and_listed(
    damaged: Path, stored: Path, tcl_embed: Any, finished: Any
) -> None:
    assert len(names_of(stored)) == len(np.load(stored)) == COUNT
    with stored.with_name("stored-unreadable.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["file"] for row in rows] == ["a/cut.png", "zzz.jpg"]
    assert "not an image" in rows[1]["reason"]
    words = f"run={finished.run_dir}", f"images={damaged}", f"out={stored}", "overwrite=true"
    outcome = tcl_embed(*words)
    assert outcome.err == ""
    assert "2 of 25 images cannot be read: a/cut.png, zzz.jpg" in outcome.out
    assert "2 unreadable images in" in outcome.last_line


def test_or_they_stop_it_and_nothing_is_written(
    damaged: Path, finished: Any, embed_refused: Any, tmp_path: Path
) -> None:
    words = f"run={finished.run_dir}", f"images={damaged}", f"out={tmp_path / 'x.npy'}"
    line = embed_refused(*words, "on_damaged=stop")
    assert "a/cut.png" in line
    assert "by on_damaged=skip" in line


def test_a_folder_of_nothing_but_damaged_images_is_refused(
    finished: Any, embed_refused: Any, tmp_path: Path
) -> None:
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "1.png").write_bytes(b"")
    words = f"run={finished.run_dir}", f"images={tmp_path / 'bad'}", f"out={tmp_path / 'x.npy'}"
    assert "none of the 1 images can be read" in embed_refused(*words, status=1)


# ------------------------------------------------------------------ searching


def test_the_nearest_images_are_said_and_drawn(
    stored: Path, pictures: Path, tcl_embed: Any
) -> None:
    outcome = tcl_embed(f"features={stored}", f"query={pictures / 'again.png'}", "top=4")
    assert (outcome.status, outcome.err) == (0, "")
    first, *rest, last = outcome.out.splitlines()
    assert first.split() == ["1.", "1.0000", str(pictures / "a" / "01.png")]
    assert len(rest) == 3
    assert "stored-nearest-again.png" in last
    with Image.open(stored.with_name("stored-nearest-again.png")) as sheet:
        assert sheet.width > 4 * 160
        assert len(sheet.convert("L").getcolors() or ()) > 50
    assert tcl_embed(f"features={stored}", f"query={pictures / 'again.png'}").status == 0
    assert stored.with_name("stored-nearest-again-2.png").exists()


def test_the_query_may_lie_elsewhere(
    stored: Path, pictures: Path, tcl_embed: Any, tmp_path: Path
) -> None:
    other = shutil.copy(pictures / "a" / "03.png", tmp_path / "other.png")
    (pictures / "a" / "07.png").unlink()  # it can still be found, but not drawn
    outcome = tcl_embed(f"features={stored}", f"query={other}", "top=100")
    assert (outcome.status, outcome.err) == (0, "")
    lines = [line for line in outcome.out.splitlines() if str(pictures) in line]
    assert lines[0].split() == ["1.", "1.0000", str(pictures / "a" / "03.png")]
    assert len(lines) == COUNT


def test_near_duplicates_are_listed(stored: Path, tcl_embed: Any) -> None:
    outcome = tcl_embed(f"features={stored}", "duplicates=true", "threshold=0.999999")
    assert (outcome.status, outcome.err) == (0, "")
    with stored.with_name("stored-duplicates.csv").open(newline="") as file:
        (row, *_) = csv.DictReader(file)
    assert (row["first"], row["second"]) == ("a/01.png", "again.png")
    assert float(row["similarity"]) == pytest.approx(1)


def test_both_can_follow_the_embedding(
    finished: Any, pictures: Path, tcl_embed: Any, tmp_path: Path
) -> None:
    words = f"run={finished.run_dir}", f"images={pictures}", f"out={tmp_path / 'x.npy'}"
    assert tcl_embed(*words, "duplicates=true", f"query={pictures / 'again.png'}").status == 0
    there = {path.name for path in tmp_path.glob("x*")}
    assert there == {"x.npy", "x.csv", "x.json", "x-duplicates.csv", "x-nearest-again.png"}


# ------------------------------------------------------------------ what is refused


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["images=IMAGES"], ["run is not set", "run=DIR images=FOLDER"]),
        (["run=RUN"], ["images is not set"]),
        (["run=RUN", "images="], ["images=: nothing is given"]),
        (["run=RUN", "images=IMAGES", "query=no.png"], ["query=no.png: there is no such file"]),
        (["run=RUN", "images=nowhere"], ["images=nowhere: there is no such folder"]),
        (["run=nowhere", "images=IMAGES"], ["nowhere: contains no run"]),
        (["run=RUN", "images=RUN/checkpoints"], ["no images"]),
        (["run=RUN", "images=IMAGES", "out=x.txt"], ["out=x.txt", ".npy or .parquet"]),
        (["run=RUN", "images=IMAGES", "out=no/x.npy"], ["out=no/x.npy: there is no folder no"]),
        (["run=RUN", "images=IMAGES", "top=3"], ["top=3", "query=IMAGE"]),
        (["run=RUN", "images=IMAGES", "threshold=0.9"], ["threshold=0.9", "duplicates=true"]),
        (["run=RUN", "images=IMAGES", "batch_size=0"], ["batch_size=0", ">= 1"]),
        (["run=RUN", "images=IMAGES", "batchsize=3"], ["did you mean batch_size?"]),
        (["features=FILE"], ["query=IMAGE or duplicates=true"]),
        (["features=nowhere.npy", "duplicates=true"], ["there is no such file"]),
        (["features=head", "duplicates=true"], ["encoder, projector, or a FILE.npy"]),
        (["features=FILE", "images=IMAGES", "duplicates=true"], ["images has no meaning"]),
        (["features=FILE", "query=nothing.png"], ["query=nothing.png: there is no such file"]),
        (["features=FILE", "query=FILE"], ["stored.npy: not an image"]),
        (["features=FILE", "duplicates=true", "threshold=2"], ["threshold=2", "<= 1"]),
    ],
    ids=lambda value: " ".join(value) if "=" in value[0] else "",
)
def test_a_bad_request_is_refused_in_one_line(
    words: list[str],
    named: list[str],
    finished: Any,
    pictures: Path,
    stored: Path,
    embed_refused: Any,
) -> None:
    places = {"RUN": finished.run_dir.path, "IMAGES": pictures, "FILE": stored}
    for name, place in places.items():
        words = [word.replace(f"={name}", f"={place}") for word in words]
    line = embed_refused(*words)
    assert not [part for part in named if part not in line], line


def test_nothing_is_written_over(
    stored: Path, finished: Any, pictures: Path, embed_refused: Any
) -> None:
    line = embed_refused(f"run={finished.run_dir}", f"images={pictures}", f"out={stored}")
    assert "is already there; give another file, or add overwrite=true" in line


def test_help_says_what_it_does(tcl_embed: Any) -> None:
    for words in ([], ["--help"]):
        outcome = tcl_embed(*words)
        assert outcome.status == 0
        assert "tcl-embed run=DIR images=FOLDER" in outcome.out


# ------------------------------------------------------------------ several processes


@pytest.mark.slow
@pytest.mark.parametrize("batch_size", [3, 4, 100])
def test_two_processes_write_what_one_does(
    batch_size: int, damaged: Path, stored: Path, finished: Any, tmp_path: Path
) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    out = tmp_path / "two.npy"
    words = f"run={finished.run_dir}", f"images={damaged}", f"out={out}", f"batch_size={batch_size}"
    common = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    common |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    call = "import sys; from tcl_train.cli.main import main_embed; sys.exit(main_embed())"
    started = [
        subprocess.Popen(
            [sys.executable, "-c", call, *words],
            env={**os.environ, **common, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    outputs = [process.communicate(timeout=120) for process in started]
    assert [process.returncode for process in started] == [0, 0], outputs
    assert names_of(out) == names_of(stored)
    assert np.allclose(np.load(out), np.load(stored), atol=1e-5)
    assert out.with_name("two-unreadable.csv").exists()
