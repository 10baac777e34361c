"""The named data sets, from small files laid out as torchvision leaves them.

N: images; C: channels; H, W: rows and columns.
"""

from __future__ import annotations

import gzip
import hashlib
import http.client
import io
import pickle
import socket
import struct
import tarfile
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest
import scipy.io
import torch
from hydra.utils import get_method
from omegaconf import OmegaConf
from torchvision import datasets

from tcl_train.cli.choices import config_dir
from tcl_train.data.dataset import DataSet, ReadOptions
from tcl_train.errors import RequestError

Options = Callable[..., ReadOptions]
NO_NETWORK = "there is no network in the tests"


@dataclass
class Written:
    """What was written: images (N, C, H, W) and labels of each split, and the class names."""

    images: dict[str, np.ndarray]
    labels: dict[str, list[int]]
    classes: list[str]


def noise(count: int, channels: int, side: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (count, channels, side, side), dtype=np.uint8)


def md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()


def pinned(folder: Path, files: list[list[str]]) -> list[list[str]]:
    """torchvision's list of files with the checksums of those that we wrote."""
    return [[name, md5(folder / name)] for name, _ in files]


# ------------------------------------------------------------------ writing each set


def write_cifar(
    root: Path, patch: pytest.MonkeyPatch, kind: Any, key: str, classes: list[str]
) -> Written:
    """Pickled dictionaries: rows of 3,072 bytes, the red plane first, each plane row by row."""
    folder = root / kind.base_folder
    folder.mkdir(parents=True)

    def dump(name: str, content: dict[str, Any]) -> None:
        with (folder / name).open("wb") as file:
            pickle.dump(content, file, protocol=2)

    written = Written({}, {}, classes)
    for split, files in (("train", kind.train_list), ("test", kind.test_list)):
        images_NCHW = noise(4 * len(files), 3, 32, seed=len(split))
        labels = [(3 * i + 1) % len(classes) for i in range(len(images_NCHW))]
        for i, (name, _) in enumerate(files):
            rows = slice(4 * i, 4 * i + 4)
            dump(name, {"data": images_NCHW[rows].reshape(4, 3072), key: labels[rows]})
        written.images[split], written.labels[split] = images_NCHW, labels
    dump(kind.meta["filename"], {kind.meta["key"]: classes})

    patch.setattr(kind, "train_list", pinned(folder, kind.train_list))
    patch.setattr(kind, "test_list", pinned(folder, kind.test_list))
    patch.setattr(kind, "meta", {**kind.meta, "md5": md5(folder / kind.meta["filename"])})
    return written


def write_cifar10(root: Path, patch: pytest.MonkeyPatch) -> Written:
    classes = [
        "airplane",
        "automobile",
        "bird",
        "cat",
        "deer",
        "dog",
        "frog",
        "horse",
        "ship",
        "truck",
    ]
    return write_cifar(root, patch, datasets.CIFAR10, "labels", classes)


def write_cifar100(root: Path, patch: pytest.MonkeyPatch) -> Written:
    classes = [f"fine{i:02}" for i in range(100)]
    return write_cifar(root, patch, datasets.CIFAR100, "fine_labels", classes)


def idx(array: np.ndarray) -> bytes:
    """LeCun's IDX format, of bytes: a magic number, the extents, the values; big-endian."""
    header = bytes([0, 0, 8, array.ndim])
    return header + struct.pack(f">{array.ndim}i", *array.shape) + array.tobytes()


def write_mnist_like(root: Path, patch: pytest.MonkeyPatch, kind: Any) -> Written:
    """IDX files, compressed as they are downloaded."""
    folder = root / kind.__name__ / "raw"
    folder.mkdir(parents=True)
    written = Written({}, {}, list(kind.classes))
    for split, prefix in (("train", "train"), ("test", "t10k")):
        images_NCHW = noise(12 if split == "train" else 5, 1, 28, seed=len(split))
        labels = [(7 * i + 2) % 10 for i in range(len(images_NCHW))]
        images = gzip.compress(idx(images_NCHW[:, 0]))
        (folder / f"{prefix}-images-idx3-ubyte.gz").write_bytes(images)
        packed = gzip.compress(idx(np.array(labels, np.uint8)))
        (folder / f"{prefix}-labels-idx1-ubyte.gz").write_bytes(packed)
        written.images[split], written.labels[split] = images_NCHW, labels
    patch.setattr(kind, "resources", pinned(folder, kind.resources))
    return written


def write_mnist(root: Path, patch: pytest.MonkeyPatch) -> Written:
    return write_mnist_like(root, patch, datasets.MNIST)


def write_fashion_mnist(root: Path, patch: pytest.MonkeyPatch) -> Written:
    return write_mnist_like(root, patch, datasets.FashionMNIST)


def write_svhn(root: Path, patch: pytest.MonkeyPatch) -> Written:
    """MATLAB files: X (32, 32, 3, N) and y (N, 1), where the digit 0 has the label 10."""
    root.mkdir(parents=True)
    written = Written({}, {}, list("0123456789"))
    entries = dict(datasets.SVHN.split_list)
    for split in ("train", "test"):
        images_NCHW = noise(12 if split == "train" else 5, 3, 32, seed=len(split))
        digits = [i % 10 for i in range(len(images_NCHW))]
        url, name, _ = entries[split]
        y_N1 = np.array([digit or 10 for digit in digits], np.uint8)[:, None]
        scipy.io.savemat(root / name, {"X": images_NCHW.transpose(2, 3, 1, 0), "y": y_N1})
        entries[split] = [url, name, md5(root / name)]
        written.images[split], written.labels[split] = images_NCHW, digits
    patch.setattr(datasets.SVHN, "split_list", entries)
    return written


def write_stl10(root: Path, patch: pytest.MonkeyPatch) -> Written:
    """Bytes: images plane by plane and column by column; labels from 1 on."""
    folder = root / "stl10_binary"
    folder.mkdir(parents=True)
    classes = ["airplane", "bird", "car", *(f"animal{i}" for i in range(5)), "ship", "truck"]
    (folder / "class_names.txt").write_text("\n".join(classes) + "\n")
    written = Written({}, {}, classes)
    for split, count in (("train", 6), ("test", 3), ("unlabeled", 4)):
        images_NCHW = noise(count, 3, 96, seed=len(split))
        (folder / f"{split}_X.bin").write_bytes(images_NCHW.transpose(0, 1, 3, 2).tobytes())
        written.images[split] = images_NCHW
        if split != "unlabeled":
            labels = [(3 * i + 9) % 10 for i in range(count)]
            (folder / f"{split}_y.bin").write_bytes(bytes(label + 1 for label in labels))
            written.labels[split] = labels
    patch.setattr(datasets.STL10, "train_list", pinned(folder, datasets.STL10.train_list))
    patch.setattr(datasets.STL10, "test_list", pinned(folder, datasets.STL10.test_list))
    return written


WRITERS: dict[str, Callable[[Path, pytest.MonkeyPatch], Written]] = {
    "cifar10": write_cifar10,
    "cifar100": write_cifar100,
    "mnist": write_mnist,
    "fashion_mnist": write_fashion_mnist,
    "svhn": write_svhn,
    "stl10": write_stl10,
}
every_set = pytest.mark.parametrize("name", WRITERS)


# ------------------------------------------------------------------ reading by the real YAML


@pytest.fixture
def root_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """Where the YAML of a set says that its files are."""
    monkeypatch.setenv("TCL_TRAIN_DATA", str(tmp_path / "data"))
    return lambda name: tmp_path / "data" / name


@cache
def yaml_of(name: str) -> Any:
    return OmegaConf.load(config_dir() / "dataset" / f"{name}.yaml")


def keys_of(name: str) -> dict[str, Any]:
    """Resolved each time, since the root depends on the environment."""
    keys = OmegaConf.to_container(yaml_of(name), resolve=True)
    del keys["defaults"]
    return keys


def read(name: str, options: ReadOptions, **changes: Any) -> DataSet:
    keys = {**keys_of(name), **changes}
    return get_method(keys.pop("_target_"))(**keys, options=options)


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every connection fails at once, as on a machine without a network."""

    def fail(*_: object, **__: object) -> NoReturn:
        raise OSError(NO_NETWORK)

    monkeypatch.setattr(socket.socket, "connect", fail)
    monkeypatch.setattr(socket, "create_connection", fail)
    monkeypatch.setattr(socket, "getaddrinfo", fail)


@pytest.fixture(autouse=True)
def restored_timeout() -> Iterator[None]:
    """The data layer sets the process's default timeout for a while; it must put it back."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(75)
    yield
    after = socket.getdefaulttimeout()
    socket.setdefaulttimeout(before)
    assert after == 75


def test_every_yaml_of_a_named_set_is_tested_here() -> None:
    named = {
        path.stem
        for path in (config_dir() / "dataset").glob("*.yaml")
        if keys_of(path.stem)["_target_"].startswith("tcl_train.data.named.")
    }
    assert named == set(WRITERS)


@every_set
def test_torchvisions_files_are_read(
    name: str,
    root_of: Callable[[str], Path],
    read_options: Options,
    all_images: Callable[..., torch.Tensor],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    written = WRITERS[name](root_of(name), monkeypatch)
    data = read(name, read_options())
    assert list(data.classes) == written.classes
    for split in ("train", "test"):
        images_NCHW = all_images(getattr(data, split).images)
        assert images_NCHW.dtype == torch.uint8
        np.testing.assert_array_equal(images_NCHW, written.images[split])
        labels_N = getattr(data, split).labels_N
        assert labels_N.dtype == torch.int64
        assert labels_N.tolist() == written.labels[split]
    assert data.pretrain is data.train


@every_set
def test_the_yaml_fits_the_images(
    name: str,
    root_of: Callable[[str], Path],
    read_options: Options,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _, channels, height, width = WRITERS[name](root_of(name), monkeypatch).images["train"].shape
    keys, data = keys_of(name), read(name, read_options())
    assert data.image_size == height == width
    assert list(data.mean) == keys["mean"]
    assert list(data.std) == keys["std"]
    assert len(data.mean) == len(data.std) == channels
    assert all(0 < value < 1 for value in (*data.mean, *data.std))


@every_set
def test_without_supervision_pretraining_may_see_more(
    name: str,
    root_of: Callable[[str], Path],
    read_options: Options,
    all_images: Callable[..., torch.Tensor],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    written = WRITERS[name](root_of(name), monkeypatch)
    data = read(name, read_options(supervised=False))
    expected_NCHW = written.images["train"]
    if name == "stl10":
        expected_NCHW = np.concatenate([expected_NCHW, written.images["unlabeled"]])
        assert data.pretrain.labels_N is None
    np.testing.assert_array_equal(all_images(data.pretrain.images), expected_NCHW)
    assert data.train.labels_N.tolist() == written.labels["train"]
    assert data.test.labels_N.tolist() == written.labels["test"]


@pytest.mark.parametrize("supervised", [True, False])
@pytest.mark.parametrize("unlabelled", [True, False])
def test_the_unlabelled_images_of_stl10_are_seen_as_wished(
    supervised: bool,
    unlabelled: bool,
    root_of: Callable[[str], Path],
    read_options: Options,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    written = write_stl10(root_of("stl10"), monkeypatch)
    data = read("stl10", read_options(supervised=supervised), unlabelled=unlabelled)
    labels = [*written.labels["train"], *([-1] * 4 if unlabelled else [])]
    assert len(data.pretrain) == len(labels)
    if supervised:
        assert data.pretrain.labels_N.tolist() == labels
    assert data.train.labels_N.tolist() == written.labels["train"]


def test_a_downloaded_archive_is_unpacked(
    tmp_path: Path,
    root_of: Callable[[str], Path],
    read_options: Options,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As after a download that was interrupted before unpacking."""
    written = write_cifar10(tmp_path / "made", monkeypatch)
    archive = root_of("cifar10") / "cifar-10-python.tar.gz"
    archive.parent.mkdir(parents=True)
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(tmp_path / "made" / "cifar-10-batches-py", "cifar-10-batches-py")
    monkeypatch.setattr(datasets.CIFAR10, "tgz_md5", md5(archive))
    assert read("cifar10", read_options()).train.labels_N.tolist() == written.labels["train"]


def test_a_root_may_be_below_the_home_folder(
    tmp_path: Path, read_options: Options, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = write_svhn(tmp_path / "svhn", monkeypatch)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert (
        read("svhn", read_options(), root="~/svhn").test.labels_N.tolist()
        == (written.labels["test"])
    )


def test_image_folders_may_be_below_the_home_folder(
    tmp_path: Path,
    read_options: Options,
    save_folders: Callable[..., object],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    save_folders(tmp_path / "own", {"train": {"a": 2, "b": 1}, "test": {"a": 1}})
    monkeypatch.setenv("HOME", str(tmp_path))
    assert read("svhn", read_options(), root="~/own").classes == ("a", "b")


@every_set
def test_image_folders_are_preferred(
    name: str,
    root_of: Callable[[str], Path],
    read_options: Options,
    save_folders: Callable[..., dict[str, np.ndarray]],
    all_images: Callable[..., torch.Tensor],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    WRITERS[name](root_of(name), monkeypatch)
    size = keys_of(name)["image_size"]
    pixels = save_folders(
        root_of(name), {"train": {"a": 2, "b": 1}, "val": {"a": 1, "b": 1}}, side=size
    )
    for supervised in (True, False):
        data = read(name, read_options(supervised=supervised))
        assert data.classes == ("a", "b")
        assert data.train.labels_N.tolist() == [0, 0, 1]
        np.testing.assert_array_equal(all_images(data.pretrain.images), pixels["train"])
        np.testing.assert_array_equal(all_images(data.test.images), pixels["val"])
        assert list(data.mean) == keys_of(name)["mean"]


# ------------------------------------------------------------------ without files


@every_set
@pytest.mark.parametrize("supervised", [True, False])
@pytest.mark.timeout(30)  # a user hears within seconds
def test_without_files_and_network_the_folder_is_named(
    name: str, root_of: Callable[[str], Path], read_options: Options, supervised: bool
) -> None:
    with pytest.raises(RequestError, match="could not be downloaded") as raised:
        read(name, read_options(supervised=supervised))
    message = str(raised.value)
    assert f"dataset.root={root_of(name)}" in message
    assert "put torchvision's files there, or train/CLASS/ and test/CLASS/" in message
    assert "\n" not in message


@every_set
def test_without_files_and_network_the_reason_is_given(
    name: str,
    root_of: Callable[[str], Path],
    read_options: Options,
) -> None:
    with pytest.raises(RequestError, match=NO_NETWORK):
        read(name, read_options())


@every_set
def test_without_files_and_network_no_empty_folders_are_left(
    name: str, tmp_path: Path, root_of: Callable[[str], Path], read_options: Options
) -> None:
    with pytest.raises(RequestError):
        read(name, read_options())
    assert list(tmp_path.iterdir()) == []
    kept = root_of(name) / "kept"
    kept.mkdir(parents=True)  # what was there before stays
    with pytest.raises(RequestError):
        read(name, read_options())
    assert list(root_of(name).iterdir()) == [kept]


def test_a_relative_root_is_named_in_full_too(
    tmp_path: Path, read_options: Options, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RequestError, match="could not be downloaded") as raised:
        read("svhn", read_options(), root="svhn")
    assert str(tmp_path / "svhn") in str(raised.value)


# What urllib raises; not all of it is wrapped in URLError, an OSError.
FAILURES: dict[str, Callable[[], Exception]] = {
    "unreachable": lambda: urllib.error.URLError("unreachable"),
    "busy": lambda: urllib.error.HTTPError(
        "http://example.org", 503, "busy", http.client.HTTPMessage(), io.BytesIO()
    ),
    "silent": lambda: TimeoutError("timed out"),
    "reset": lambda: ConnectionResetError("reset"),
    "rubbish": lambda: http.client.BadStatusLine("rubbish"),
    "cut short": lambda: http.client.IncompleteRead(b"half"),
}


@pytest.mark.parametrize("name", ["cifar10", "mnist", "svhn"])
@pytest.mark.parametrize("failure", FAILURES)
def test_a_download_that_fails_on_the_way_names_the_folder(
    name: str,
    failure: str,
    root_of: Callable[[str], Path],
    read_options: Options,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    timeouts = []

    def fail(*_: object, **__: object) -> NoReturn:
        timeouts.append(socket.getdefaulttimeout())
        raise FAILURES[failure]()

    monkeypatch.setattr(urllib.request, "urlopen", fail)
    with pytest.raises(RequestError) as raised:
        read(name, read_options())
    assert f"dataset.root={root_of(name)}" in str(raised.value)
    assert timeouts
    assert all(timeout <= 10 for timeout in timeouts)  # a silent server is not waited for longer


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("cifar10", "cifar-10-batches-py/data_batch_3"),
        ("cifar100", "cifar-100-python/meta"),
        ("svhn", "test_32x32.mat"),
        ("stl10", "stl10_binary/train_X.bin"),
        ("mnist", "MNIST/raw/t10k-images-idx3-ubyte.gz"),
    ],
)
def test_a_damaged_file_is_not_read(
    name: str,
    file: str,
    root_of: Callable[[str], Path],
    read_options: Options,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """torchvision would download it again, and cannot."""
    WRITERS[name](root_of(name), monkeypatch)
    path = root_of(name) / file
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    with pytest.raises(RequestError) as raised:
        read(name, read_options())
    assert f"dataset.root={root_of(name)}" in str(raised.value)


def test_a_truncated_unpacked_file_is_named_too(
    root_of: Callable[[str], Path], read_options: Options, monkeypatch: pytest.MonkeyPatch
) -> None:
    """torchvision checks the archives of MNIST, not the files that come out of them."""
    write_mnist(root_of("mnist"), monkeypatch)
    read("mnist", read_options())
    path = root_of("mnist") / "MNIST" / "raw" / "train-images-idx3-ubyte"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(RequestError) as raised:
        read("mnist", read_options())
    assert f"dataset.root={root_of('mnist')}" in str(raised.value)


def test_stl10_without_its_class_names_is_a_request_error(
    root_of: Callable[[str], Path], read_options: Options, monkeypatch: pytest.MonkeyPatch
) -> None:
    """torchvision does not check that file and then leaves its attribute `classes` unset."""
    write_stl10(root_of("stl10"), monkeypatch)
    (root_of("stl10") / "stl10_binary" / "class_names.txt").unlink()
    with pytest.raises(RequestError) as raised:
        read("stl10", read_options())
    assert f"dataset.root={root_of('stl10')}" in str(raised.value)


def test_a_file_in_place_of_the_root_is_named(
    root_of: Callable[[str], Path], read_options: Options
) -> None:
    root_of("svhn").parent.mkdir()
    root_of("svhn").write_text("in the way")
    with pytest.raises(RequestError) as raised:
        read("svhn", read_options())
    assert f"dataset.root={root_of('svhn')}" in str(raised.value)


# ------------------------------------------------------------------ another size


@pytest.mark.parametrize("image_size", [0, -1, 7.5, "large"])
def test_an_image_size_out_of_range_is_named(
    image_size: Any,
    root_of: Callable[[str], Path],
    read_options: Options,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    write_mnist(root_of("mnist"), monkeypatch)
    with pytest.raises((ValueError, TypeError, RequestError), match="image_size"):
        read("mnist", read_options(), image_size=image_size)


def test_images_smaller_than_the_image_size_are_scaled_or_refused(
    root_of: Callable[[str], Path],
    read_options: Options,
    all_images: Callable[..., torch.Tensor],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Never cut to whatever is there: an encoder would be trained on one size and tested on
    another."""
    write_mnist(root_of("mnist"), monkeypatch)
    try:
        data = read("mnist", read_options(), image_size=32)
    except (ValueError, RequestError) as error:
        said = str(error)
    else:
        said = "image_size"
        assert all_images(data.test.images).shape[2] >= 32
    assert "image_size" in said
