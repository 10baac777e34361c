"""What all tests share: a tiny run, ways to start it, and a machine that is always the same.

A tiny run is a thin ResNet-8 on the digits for an epoch of five steps; it takes about a second.
"""

from __future__ import annotations

import copy
import dataclasses
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import hypothesis
import numpy as np
import pytest
import torch
from omegaconf import DictConfig, OmegaConf
from PIL import Image
from torch import Tensor
from torch._subclasses import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from tcl_train.data.dataset import DataSet, Split
from tcl_train.data.images import ArrayImages
from tcl_train.run.directory import RunDir

TINY = {
    "dataset": "digits",
    "encoder": "resnet8",
    "encoder.width": "4",
    "epochs": "1",
    "batch_size": "256",
    "log_every": "1",
    "device": "cpu",
    "precision": "fp32",
    "random_encoder_baseline": "false",
    "probe.l2": "[1e-3]",
}

TORCH_VERSION = tuple(int(part) for part in torch.__version__.split(".")[:2])
FAKE_CUDA_WITHOUT_A_DRIVER = (2, 11)  # seen there; where it began is not known

# Property tests draw the same examples each time, so that a change is to blame where one fails.
# scripts/fuzz.sh draws new ones.
hypothesis.settings.register_profile("steady", deadline=None, derandomize=True, database=None)
hypothesis.settings.register_profile("fuzz", deadline=None, derandomize=False, database=None)
hypothesis.settings.load_profile("steady")


# ------------------------------------------------------------------ the machine


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> Iterator[None]:
    """Sums in another order are other sums, and two test workers share two cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session", autouse=True)
def _signals_as_in_a_terminal() -> Iterator[None]:
    """A shell's background jobs ignore SIGINT and nohup's SIGHUP, and what is ignored at the start
    stays so in child processes."""
    usual = {signal.SIGINT: signal.default_int_handler, signal.SIGHUP: signal.SIG_DFL}
    before = {signum: signal.signal(signum, handler) for signum, handler in usual.items()}
    yield
    for signum, handler in before.items():
        signal.signal(signum, handler)


@pytest.fixture(scope="session", autouse=True)
def _cache_of_its_own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Decoded images go to a temporary folder, not to the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.delenv("HYDRA_FULL_ERROR", raising=False)
        patch.delenv("TCL_TRAIN_DATA", raising=False)
        yield


@pytest.fixture(scope="session", autouse=True)
def _composed_once() -> Iterator[None]:
    """Hydra takes longer to compose a config than a tiny run takes to train, and the tests ask for
    the same ones again and again. Each gets a copy."""
    from tcl_train.cli import compose, explain

    with pytest.MonkeyPatch.context() as patch:
        by_hydra = _remembered(compose.compose)
        patch.setattr(compose, "compose", by_hydra)
        patch.setattr(explain, "compose", by_hydra)
        patch.setattr(compose, "compose_run", _remembered(compose.compose_run))
        yield


def _remembered(function: Callable[..., Any]) -> Callable[..., Any]:
    known: dict[Any, Any] = {}

    def call(*args: Any, **keys: Any) -> Any:
        key = (repr(args), repr(keys), os.environ.get("TCL_TRAIN_DATA"))
        if key not in known:
            known[key] = function(*args, **keys)
        return copy.deepcopy(known[key])

    return call


@pytest.fixture(autouse=True)
def _package_log_as_it_was() -> Iterator[None]:
    """The commands set up the package's log; the next test should not find it so."""
    package = logging.getLogger("tcl_train")
    handlers, level, propagate = list(package.handlers), package.level, package.propagate
    yield
    package.handlers[:] = handlers
    package.setLevel(level)
    package.propagate = propagate


# ------------------------------------------------------------------ tiny runs in this process


def _tiny_words(*words: str) -> list[str]:
    given = {word.split("=")[0].lstrip("+~") for word in words}
    kept = [
        f"{key}={value}"
        for key, value in TINY.items()
        if key not in given and key.split(".")[0] not in given  # another choice has other keys
    ]
    return [*kept, *words]


def _compose_tiny(*words: str) -> DictConfig:
    from tcl_train.cli.compose import compose_run

    return compose_run(_tiny_words(*words)).config


def _train_tiny(run_dir: RunDir | Path, *words: str) -> dict[str, Any]:
    from tcl_train.commands.train import train

    return train(_compose_tiny(*words), RunDir(str(run_dir)), resume=False)


@pytest.fixture(scope="session")
def tiny_words() -> Callable[..., list[str]]:
    """`tiny_words("epochs=2")`: the words of a tiny run, with these put in or in place of it."""
    return _tiny_words


@pytest.fixture(scope="session")
def compose_tiny() -> Callable[..., DictConfig]:
    """`compose_tiny("epochs=2")`: the config of a tiny run."""
    return _compose_tiny


@pytest.fixture(scope="session")
def train_tiny() -> Callable[..., dict[str, Any]]:
    """`train_tiny(directory, "epochs=2")`: a tiny run in this process; its result."""
    return _train_tiny


# Sizes of self-supervised methods and their projectors in a tiny run, which has a few steps only:
# neither warmed up nor frozen.
SMALL_METHOD = {
    "predictor_hidden_dim": 8,
    "prototypes": 12,
    "queue": 48,
    "queue_from": 0,
    "frozen_until": 0,
    "momentum": 0.9,
}
SMALL_PROJECTOR = {"hidden_dim": 16, "out_dim": 8}


def _recipes() -> dict[str, list[str]]:
    """By the method's name, the words of a tiny run of those that choose their loss, their
    optimiser and all else."""
    from tcl_train.cli.choices import choices, config_dir

    found = {}
    for name in choices("method"):
        config = OmegaConf.load(config_dir() / "method" / f"{name}.yaml")
        if "optimizer" in config:
            own = {key: value for key, value in SMALL_METHOD.items() if key in config.method}
            sizes = {"method": own, "projector": SMALL_PROJECTOR}
            words = [f"{part}.{k}={v}" for part, keys in sizes.items() for k, v in keys.items()]
            found[name] = [f"method={name}", "scheduler.warmup_epochs=0", *words]
    return found


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with slow tests come first: where several files are tested at a time, a long one at the
    end would keep one process busy and the others waiting."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Tests with an argument `recipe_words` are run for every method that is a recipe."""
    if "recipe_words" in metafunc.fixturenames:
        recipes = _recipes()
        metafunc.parametrize("recipe_words", recipes.values(), ids=recipes.keys())


@pytest.fixture(scope="session")
def recipes() -> dict[str, list[str]]:
    """By the method's name, the words of a tiny run with it, of all methods that are recipes."""
    return _recipes()


@pytest.fixture(scope="session")
def few_digits() -> DataSet:
    """The first of the digits: 5 batches of 32 to train with, and 60 to test with."""
    from tcl_train.building.parts import build_data

    data = build_data(_compose_tiny(), supervised=True)

    def first(split: Split | None, count: int) -> Split:
        assert split is not None
        assert isinstance(split.images, ArrayImages)
        assert split.labels_N is not None
        return Split(ArrayImages(split.images.images_NCHW[:count]), split.labels_N[:count])

    train = first(data.train, 167)
    return dataclasses.replace(data, pretrain=train, train=train, test=first(data.test, 60))


@pytest.fixture(scope="session")
def replace_data() -> Callable[[pytest.MonkeyPatch, DataSet], None]:
    """`replace_data(monkeypatch, data)`: runs and evaluations see this data set, whatever their
    words say. Every module that imports `build_data` by name is loaded first: one that is first
    loaded later would keep the replacement for good."""
    from tcl_train import build_evaluation
    from tcl_train.building import run

    def replace(patch: pytest.MonkeyPatch, data: DataSet) -> None:
        for module in (run, build_evaluation):
            patch.setattr(module, "build_data", lambda *_, **__: data)

    return replace


@pytest.fixture
def on_few_digits(
    few_digits: DataSet, replace_data: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Runs see those only, so that a run takes a tenth of a second. Give batch_size=32."""
    replace_data(monkeypatch, few_digits)


@pytest.fixture(scope="session")
def untrained_run(
    few_digits: DataSet, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., Path]:
    """`untrained_run("encoder=resnet18", size=32)`: the directory of a run at its first step, whose
    encoder has seen a batch of random images of this size, so that it has statistics. Each is made
    once; nobody may write into it."""
    from tcl_train.building.run import build_run
    from tcl_train.run.checkpoint import Checkpoints

    root = tmp_path_factory.mktemp("untrained")

    def make(*words: str, size: int = 8) -> Path:
        run_dir = RunDir(root / f"{size} {' '.join(words)}")
        if not run_dir.started:
            config = _compose_tiny("batch_size=32", *words)
            data = dataclasses.replace(few_digits, image_size=size)
            trainer = build_run(config, data=data).trainer
            g = torch.Generator().manual_seed(3)
            trainer.method.train()(torch.randn(8, 3, size, size, generator=g), torch.arange(8) % 4)
            run_dir.claim(config)
            Checkpoints(run_dir.checkpoints, every=1, keep=1).save(trainer.state_dict())
        return run_dir.path

    return make


# ------------------------------------------------------------------ commands


class Outcome(NamedTuple):
    status: int
    out: str
    err: str

    @property
    def last_line(self) -> str:
        return self.out.splitlines()[-1]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory, so that whatever a command leaves is seen."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def command(here: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., Outcome]:
    """`command("epochs=0")` is `tcl-train epochs=0` in this process."""
    from tcl_train.cli import main as cli

    def run(*words: str, main: Callable[[Sequence[str]], int] = cli.main) -> Outcome:
        capsys.readouterr()
        status = main(list(words))
        return Outcome(status, *capsys.readouterr())

    return run


@pytest.fixture
def refused(command: Callable[..., Outcome], tmp_path: Path) -> Callable[..., str]:
    """Runs a command that must be refused as the contract says, and gives its one line."""

    def run(*words: str, status: int = 2, **keys: Any) -> str:
        before = _contents(tmp_path)
        outcome = command(*words, **keys)
        assert outcome.status == status, outcome.err
        assert _contents(tmp_path) == before, "something was written"
        return _one_line(outcome.err)

    return run


def _one_line(err: str) -> str:
    lines = err.splitlines()
    assert len(lines) == 1, err
    name, _, message = lines[0].partition(": ")
    assert name.startswith("tcl-")
    assert message
    assert "Traceback" not in err
    return message


@pytest.fixture(scope="session")
def one_line() -> Callable[[str], str]:
    """`one_line(err)`: the message, which is the one line on standard error; no traceback."""
    return _one_line


def _contents(folder: Path) -> dict[str, tuple[int, bytes]]:
    """All files below a folder with what is in them, and all folders."""
    return {
        str(path.relative_to(folder)): (path.stat().st_mtime_ns, path.read_bytes())
        if path.is_file()
        else (0, b"")
        for path in folder.rglob("*")
    }


@pytest.fixture(scope="session")
def contents() -> Callable[[Path], dict[str, tuple[int, bytes]]]:
    """`contents(folder)`: all that is below it, to see whether anything has changed."""
    return _contents


@pytest.fixture
def signalled(monkeypatch: pytest.MonkeyPatch) -> Callable[..., AbstractContextManager[None]]:
    """`with signalled(step): ...` sends this process a real signal when a step is written down
    (so log_every must be 1), in the middle of the training loop."""
    from tcl_train.run.sink import Sink

    @contextmanager
    def at(step: int, signum: int = signal.SIGINT, times: int = 1) -> Iterator[None]:
        write = Sink.write

        def write_and_signal(self: Sink, here: int, epoch: int, scalars: Any) -> None:
            write(self, here, epoch, scalars)
            if here == step and "loss" in scalars:
                for _ in range(times):
                    signal.raise_signal(signum)

        with monkeypatch.context() as patch:
            patch.setattr(Sink, "write", write_and_signal)
            yield

    return at


# ------------------------------------------------------------------ commands as users start them


@pytest.fixture(scope="session")
def start(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., subprocess.Popen[str]]:
    """`start("tcl-train", "epochs=1")`: the command as a process, in a folder of its own."""

    def run(name: str, *words: str) -> subprocess.Popen[str]:
        program = [str(Path(sys.executable).with_name(name))]
        if name == "python -m tcl_train":
            program = [sys.executable, "-m", "tcl_train"]
        return subprocess.Popen(
            [*program, *words],
            cwd=tmp_path_factory.mktemp("process"),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )

    return run


class Finished(NamedTuple):
    """A run that was started as a process and finished. Nobody may write into its directory."""

    outcome: Outcome
    run_dir: RunDir


@pytest.fixture(scope="session")
def finished(
    start: Callable[..., subprocess.Popen[str]], tmp_path_factory: pytest.TempPathFactory
) -> Finished:
    directory = tmp_path_factory.mktemp("finished") / "run"
    words = _tiny_words("epochs=2", "random_encoder_baseline=true", f"hydra.run.dir={directory}")
    process = start("tcl-train", *words)
    out, err = process.communicate(timeout=240)
    assert process.returncode == 0, err
    return Finished(Outcome(process.returncode, out, err), RunDir(directory))


# ------------------------------------------------------------------ a device that nobody waits for


class WaitingCopy(AssertionError):
    """A copy for which the host waits."""


class NoWaitingCopies(TorchDispatchMode):
    """Raises WaitingCopy for a copy between the CPU and another device that the host waits for:
    every copy to the CPU, and one from it that is not non_blocking. Copies inside an operation are
    seen where its arguments show them, as an index of the CPU beside a tensor of the device. A CPU
    tensor without dimensions needs no copy: the host reads it and passes its value on; but for
    torch.where, which copies it."""

    COPIES = (torch.ops.aten._to_copy, torch.ops.aten.copy_)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        given = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        if func.overloadpacket in self.COPIES:
            source, target = given[-1].device.type, result.device.type
            to_device = source == "cpu" != target
            to_host = target == "cpu" != source
            if to_host or (to_device and not _is_non_blocking(func, args, kwargs)):
                raise WaitingCopy(f"{func} from {source} to {target}")
        elif {x.device.type for x in given} > {"cpu"}:
            copies_scalars = func.overloadpacket is torch.ops.aten.where
            for x in given:
                if x.device.type == "cpu" and (x.ndim > 0 or copies_scalars):
                    raise WaitingCopy(f"{func} with a tensor of the CPU, {tuple(x.shape)}")
        return result


def _is_non_blocking(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    names = [argument.name for argument in func._schema.arguments]
    return bool({**dict(zip(names, args, strict=False)), **kwargs}.get("non_blocking"))


@pytest.fixture(scope="session")
def fake_cuda() -> Iterator[None]:
    """Fake tensors on a GPU, on a machine that has none: older versions of torch look for a driver
    all the same when such a tensor is filled. None of them has memory to pin."""
    try:
        with FakeTensorMode():
            torch.empty(2, device="cuda").uniform_().copy_(torch.ones(2))
    except RuntimeError as error:
        if TORCH_VERSION >= FAKE_CUDA_WITHOUT_A_DRIVER:
            raise
        reason = str(error).splitlines()[0]
        pytest.skip(f"torch {torch.__version__} wants a driver for fake CUDA tensors: {reason}")
    pin_memory = Tensor.pin_memory
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            Tensor, "pin_memory", lambda x: x if isinstance(x, FakeTensor) else pin_memory(x)
        )
        yield


@pytest.fixture(scope="session")
def no_waiting_copies(fake_cuda: None) -> type[NoWaitingCopies]:
    """`with no_waiting_copies():` below a FakeTensorMode: copies that wait for the device raise."""
    return NoWaitingCopies


# ------------------------------------------------------------------ a device without float64


class NoFloat64(TorchDispatchMode):
    """Raises where an operation gives a float64 tensor on one of these types of device; Apple's
    GPUs (mps) have none."""

    def __init__(self, *device_types: str) -> None:
        super().__init__()
        self.device_types = device_types

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        for x in tree_leaves(result):
            if isinstance(x, Tensor) and x.dtype == torch.float64:
                assert x.device.type not in self.device_types, f"{func} gives float64"
        return result


@pytest.fixture(scope="session")
def no_float64() -> type[NoFloat64]:
    """`with no_float64("mps"):` float64 on such a device raises."""
    return NoFloat64


# ------------------------------------------------------------------ image folders


@pytest.fixture(scope="session")
def write_images() -> Callable[..., Path]:
    """`write_images(root, {"train/red": 9, "test/red": 3})`: folders of noisy images, each class
    (the last part of the name) in a colour of its own."""

    def write(root: Path, counts: dict[str, int], *, size: int = 8) -> Path:
        names = sorted({Path(folder).name for folder in counts})
        for folder, count in counts.items():
            (root / folder).mkdir(parents=True, exist_ok=True)
            rng = np.random.default_rng(len(folder))
            bright = names.index(Path(folder).name)
            for number in range(count):
                image = rng.integers(0, 60, (size, size, 3))
                image[:, :, bright % 3] += 180
                Image.fromarray(image.astype(np.uint8)).save(root / folder / f"{number}.png")
        return root

    return write


@pytest.fixture
def two_classes(tmp_path: Path, write_images: Callable[..., Path]) -> Path:
    """An image folder with two classes that are easy to tell apart."""
    counts = {"train/blue": 12, "train/red": 12, "test/blue": 6, "test/red": 6}
    return write_images(tmp_path / "images", counts)
