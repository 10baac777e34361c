"""The commands: what they print, what they leave, and how they refuse.

Refusals run the command's function in this process, in an empty folder that must stay as it is; a
few runs are real processes, to see that the installed commands are those functions.
"""

from __future__ import annotations

import errno
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf

from tcl_train import __version__
from tcl_train.cli import main as cli
from tcl_train.cli.choices import choices
from tcl_train.cli.compose import compose_run

# Words of a request that cannot be carried out, and what the one line must name. What only the
# composing or the settings refuse is in test_compose.py and test_config.py.
BAD_REQUESTS = {
    "an unknown key: the nearest known one": (["epocs=3"], ["epocs", "did you mean epochs?"]),
    "several unknown keys: all of them": (
        ["epocs=3", "lr=0.1", "batchsize=3"],
        ["did you mean epochs?", "; ", "did you mean batch_size?"],
    ),
    "several wrong values: all of them": (
        ["epochs=0", "tau=0", "probe.held_out=2", "batch_size=1", "scheduler.floor=7"],
        ["epochs must", "batch_size must", "loss: tau", "probe: held_out", "scheduler: floor"],
    ),
    "an unknown choice: the list": (["loss=bogus"], ["loss=bogus", *choices("loss")]),
    "no choice": (["loss=null"], ["loss=null", "supcon"]),
    "an unknown flag": (["--epochs=3"], ["--epochs=3", "no such flag", "key=value"]),
    "a word without a key": (["=3"], ["=3"]),
    "several values without -m": (["epochs=1,2"], ["epochs=1,2", "-m"]),
    "a deleted setting": (["~seed"], ["seed"]),
    "k1 below its range": (["k1=-1"], ["k1", ">= 0", "-1"]),
    "tau at the end of its range": (["tau=0"], ["tau", ">= 1e-06", "got 0"]),
    "a warm-up longer than the run": (["k1_warmup_epochs=31"], ["k1_warmup_epochs", "<= 1"]),
    "a warm-up of another loss": (
        ["loss=supcon", "k1_warmup_epochs=3"],
        ["k1_warmup_epochs", "tcl"],
    ),
    "what to do at a collapse": (["on_collapse=cry"], ["on_collapse", "warn, stop"]),
    "classes that nobody may see": (
        ["data.sampler=classes", "supervised=false"],
        ["data.sampler=classes", "supervised=false"],
    ),
    "a batch that holds no whole groups": (
        ["data.sampler=classes", "data.images_per_class=3", "batch_size=128"],
        ["batch_size=128", "data.images_per_class=3"],
    ),
    "groups larger than any class": (
        ["data.sampler=classes", "data.images_per_class=256", "batch_size=256"],
        ["batch_size=256", "data.sampler"],
    ),
    "a validation share of everything": (["validation=1"], ["validation", "< 1", "got 1"]),
    "chunks of nothing": (["chunk_size=0"], ["chunk_size (or null)", ">= 1"]),
    "no epochs": (["epochs=0"], ["epochs", ">= 1", "got 0"]),
    "epochs that are no number": (["epochs=abc"], ["epochs", "whole number", "'abc'"]),
    "a value in place of settings": (["data=5"], ["data"]),
    "a batch larger than the data set": (["batch_size=2000"], ["batch_size=2000", "1437"]),
    "one view without labels": (
        ["loss=tcl", "views=1", "supervised=false"],
        ["views=1", "supervised=false", "tcl", "views=2"],
    ),
    "a key of another loss": (["loss=supcon", "k1=5"], ["k1=5", "loss", "tcl"]),
    "a classifier without labels": (["loss=ce", "supervised=false"], ["supervised=false", "ce"]),
    "a folder that is not given": (["dataset=image_folder"], ["dataset.root", "dataset.root=DIR"]),
    "a folder that is not there": (
        ["dataset=image_folder", "dataset.root=nowhere"],
        ["dataset.root=nowhere", "train/CLASS/"],
    ),
    "half precision on the CPU": (
        ["device=cpu", "precision=fp16"],
        ["precision=fp16", "CPU", "fp32", "bf16"],
    ),
    "an encoder of no width": (["encoder.width=0"], ["encoder", "width", ">= 1"]),
    "images of no pixels": (["dataset.image_size=0"], ["image_size"]),
    "images without pixels": (["dataset.image_size=0"], ["image_size", ">= 1", "got 0"]),
    "a run that is not there": (["resume=nowhere"], ["resume=nowhere", "config.yaml"]),
}


@pytest.mark.parametrize(("words", "named"), BAD_REQUESTS.values(), ids=BAD_REQUESTS)
def test_a_bad_request_is_refused_in_one_line_and_leaves_nothing(
    refused: Callable[..., str], words: list[str], named: list[str]
) -> None:
    line = refused(*words)
    missing = [part for part in named if part not in line]
    assert not missing, line


def test_a_device_that_is_not_there_is_refused(
    refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    line = refused("device=cuda")
    assert "device=cuda" in line
    assert "cpu" in line


# ------------------------------------------------------------------ image folders that are wrong


def folder_words(folder: Path) -> list[str]:
    return ["dataset=image_folder", f"dataset.root={folder}", "encoder=resnet8", "batch_size=4"]


def test_an_empty_folder_is_refused_with_its_path(
    refused: Callable[..., str], tmp_path: Path
) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    line = refused(*folder_words(empty))
    assert str(empty) in line
    assert "train/CLASS/" in line


def test_an_empty_folder_is_refused_without_labels_too(
    refused: Callable[..., str], tmp_path: Path
) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    line = refused(*folder_words(empty), "supervised=false")
    assert f"{empty}: no images" in line


def test_a_class_that_training_lacks_is_refused_with_its_name(
    refused: Callable[..., str], two_classes: Path, write_images: Callable[..., Path]
) -> None:
    write_images(two_classes, {"test/unheard-of": 1})
    line = refused(*folder_words(two_classes))
    assert "unheard-of" in line
    assert "training split lacks" in line


def test_a_class_folder_without_images_is_set_aside_with_a_message(
    command: Callable[..., Any], tiny_words: Callable[..., list[str]], two_classes: Path
) -> None:
    (two_classes / "train" / "void").mkdir()
    outcome = command(*tiny_words(*folder_words(two_classes), "hydra.run.dir=run"))
    assert outcome.status == 0
    assert "set aside, since they hold no images: void" in outcome.out


def test_a_truncated_image_is_refused_with_its_path(
    refused: Callable[..., str], two_classes: Path
) -> None:
    broken = two_classes / "train" / "red" / "3.png"
    broken.write_bytes(broken.read_bytes()[:60])
    line = refused(*folder_words(two_classes), "hydra.run.dir=run")
    assert str(broken) in line
    assert "cut off" in line


@pytest.fixture
def streamed_words(two_classes: Path, tiny_words: Callable[..., list[str]]) -> list[str]:
    """Sets that do not fit into memory are decoded as training goes."""
    given = ["dataset.mean=[0.5,0.5,0.5]", "dataset.std=[0.3,0.3,0.3]"]
    streamed = ["data.memory_limit_gb=0", "data.workers=0", "hydra.run.dir=run"]
    return tiny_words(*folder_words(two_classes), *given, *streamed, "epochs=3")


def test_a_truncated_image_of_a_streamed_set_is_refused_with_its_path(
    refused: Callable[..., str], two_classes: Path, streamed_words: list[str], tmp_path: Path
) -> None:
    broken = two_classes / "test" / "red" / "3.png"
    broken.write_bytes(broken.read_bytes()[:60])
    words = [*streamed_words, f"data.cache_dir={tmp_path / 'file'}"]  # nothing is written
    (tmp_path / "file").touch()
    assert f"{broken}: cut off" in refused(*words)


def test_an_image_that_only_fails_on_the_way_is_named_and_the_run_can_go_on(
    command: Callable[..., Any],
    one_line: Callable[[str], str],
    two_classes: Path,
    streamed_words: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from tcl_train.data import requests
    from tcl_train.run.directory import RunDir

    broken = two_classes / "train" / "red" / "3.png"
    cut, met = requests.cut, []

    def fail_the_second_time(path: Path | str, *args: Any) -> Any:
        if str(path) == str(broken):
            met.append(path)
            if len(met) == 2:
                Path(path).write_bytes(b"")
        return cut(path, *args)

    whole = broken.read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(requests, "cut", fail_the_second_time)
        outcome = command(*streamed_words)
    assert outcome.status == 1
    line = one_line(outcome.err)
    assert line.startswith(f"{broken}: not an image that Pillow can read")
    assert line.endswith("resume with: tcl-train resume=run")
    run_dir = RunDir("run")
    assert "Traceback" in run_dir.log.read_text()
    assert torch.load(run_dir.checkpoints / "last.pt")["step"] == 6  # of the epoch before
    broken.write_bytes(whole)
    assert command("resume=run").status == 0


# ------------------------------------------------------------------ run directories that are taken


def test_a_directory_with_a_finished_run_is_refused_and_stays(
    refused: Callable[..., str], finished: Any, tmp_path: Path
) -> None:
    taken = shutil.copytree(finished.run_dir.path, tmp_path / "taken")
    line = refused(f"hydra.run.dir={taken}")
    assert f"hydra.run.dir={taken}" in line
    assert "finished run" in line


def test_a_directory_with_an_unfinished_run_is_refused_and_stays(
    refused: Callable[..., str], finished: Any, tmp_path: Path
) -> None:
    taken = shutil.copytree(finished.run_dir.path, tmp_path / "taken")
    (taken / "result.json").unlink()
    line = refused(f"hydra.run.dir={taken}")
    assert "unfinished run" in line
    assert f"resume={taken}" in line


def test_a_directory_that_is_a_file_is_refused(
    refused: Callable[..., str], tiny_words: Callable[..., list[str]], tmp_path: Path
) -> None:
    file = tmp_path / "file"
    file.write_text("kept")
    assert f"hydra.run.dir={file}" in refused(*tiny_words(f"hydra.run.dir={file}"))


def test_going_on_with_a_finished_run_is_refused(
    refused: Callable[..., str], finished: Any
) -> None:
    line = refused(f"resume={finished.run_dir}")
    assert "finished" in line
    assert "result.json" in line


# ------------------------------------------------------------------ the terminal


def test_an_error_that_nobody_foresaw_is_one_line_too(
    refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(words: list[str], processes: None) -> int:
        raise ZeroDivisionError("by zero\nsecond line")

    monkeypatch.setattr(cli, "train_command", fail)
    line = refused(status=1)
    assert line == "ZeroDivisionError: by zero (HYDRA_FULL_ERROR=1 shows the traceback)"


def test_a_file_that_cannot_be_looked_at_is_named(refused: Callable[..., str]) -> None:
    name = "x" * 5000
    assert refused(f"resume={name}") == f"{name}/config.yaml: File name too long"


def test_a_disk_that_fails_is_no_wrong_request(
    refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(words: list[str], processes: None) -> int:
        raise OSError(errno.ENOSPC, "No space left on device", "sweep\n.csv")

    monkeypatch.setattr(cli, "train_command", fail)
    assert refused(status=1) == r"sweep\n.csv: No space left on device"


def test_what_hydra_logs_is_not_printed_beside_the_line(here: Path) -> None:
    """Without a handler, Python prints warnings and errors; pytest's own handler hides that."""
    code = (
        "import logging; from tcl_train.cli.main import main; main(['epochs=0']); "
        "logging.getLogger('hydra.utils').error('printed')"
    )
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "printed" not in process.stderr


def test_the_full_error_is_shown_when_asked_for(
    command: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    with pytest.raises(Exception, match="epochs must be"):
        command("epochs=0")


def test_a_signal_before_anything_is_started_says_so(
    refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for signum, status in ((signal.SIGINT, 130), (signal.SIGTERM, 143)):
        monkeypatch.setattr(cli, "train_command", lambda *_, s=signum: signal.raise_signal(s))
        assert refused(status=status) == "interrupted; nothing was started"
        monkeypatch.setattr(cli, "embed_command", lambda *_, s=signum: signal.raise_signal(s))
        assert refused(status=status, main=cli.main_embed) == "interrupted"


def test_a_command_leaves_the_signal_handlers_as_they_were(command: Callable[..., Any]) -> None:
    before = [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)]
    command("--version")
    command("epochs=0")
    assert [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)] == before


def test_the_version_is_printed(command: Callable[..., Any]) -> None:
    assert command("--version") == (0, f"tcl-train {__version__}\n", "")


def test_help_lists_every_choice_and_every_setting(command: Callable[..., Any]) -> None:
    status, out, err = command("--help")
    assert (status, err) == (0, "")
    for word in ("dataset=", "cifar100", "supcon_in", "seed: 1", "supervised: true", "resume=DIR"):
        assert word in out


def test_every_group_that_help_offers_can_be_chosen_from(command: Callable[..., Any]) -> None:
    lines = command("--help").out.split("Choices")[1].split("Settings")[0].splitlines()
    offered = dict(line.split("=") for line in lines if "=" in line)
    words = [f"{group.strip()}={names.split('|')[0].strip()}" for group, names in offered.items()]
    assert len(words) > 5
    compose_run(words)


def test_the_config_is_printed_and_nothing_runs(command: Callable[..., Any], here: Path) -> None:
    status, out, err = command("--cfg", "job", "loss=supcon", "seed=7")
    assert (status, err) == (0, "")
    printed: Any = OmegaConf.create(out)
    assert (printed.seed, printed.tau, printed.loss.form) == (7, 0.1, "out")
    assert not list(here.iterdir())


@pytest.mark.parametrize(
    "words",
    [
        ("loss=supcon", "--cfg", "job", "epochs=2"),
        ("--cfg", "job", "loss=supcon", "epochs=2"),
        ("loss=supcon", "epochs=2", "-c", "job"),
        ("loss=supcon", "--cfg=job", "epochs=2"),
    ],
)
def test_flags_may_stand_anywhere_in_the_line(
    command: Callable[..., Any], words: tuple[str, ...]
) -> None:
    status, out, err = command(*words)
    assert (status, err) == (0, "")
    printed = OmegaConf.create(out)
    assert (printed.epochs, printed.loss._target_) == (2, "tcl_train.losses.SupCon")


def test_one_key_of_the_config_is_printed_resolved(command: Callable[..., Any]) -> None:
    status, out, err = command("--cfg", "job", "--package", "loss", "--resolve", "tau=0.5")
    assert (status, err) == (0, "")
    assert OmegaConf.create(out) == {
        "_target_": "tcl_train.losses.TCL",
        "tau": 0.5,
        "k1": 5000.0,
        "k1_warmup": 0.0,
        "k2": 1.0,
    }


def test_hydras_own_settings_are_printed(command: Callable[..., Any]) -> None:
    status, out, err = command("--cfg", "hydra", "-p", "hydra.sweep")
    assert (status, err) == (0, "")
    assert set(OmegaConf.create(out)) == {"dir", "subdir"}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--cfg",), "--cfg"),
        (("--cfg", "job", "-p", "lss"), "lss"),
        (("-m", "--cfg", "job", "seed=1,2"), "without -m"),
        (("--speed", "3"), "--speed"),
    ],
)
def test_a_wrong_flag_is_refused_in_one_line(
    refused: Callable[..., str], words: tuple[str, ...], said: str
) -> None:
    assert said in refused(*words)


@pytest.mark.parametrize("word", ["epocs=3", "loss=bogus"])
def test_a_wrong_word_beside_cfg_is_refused_like_any_other(
    refused: Callable[..., str], word: str
) -> None:
    assert word.split("=")[0] in refused("--cfg", "job", word)


def test_an_unknown_kind_of_cfg_is_one_line(refused: Callable[..., str]) -> None:
    assert "nonsense" in refused("--cfg", "nonsense")


# ------------------------------------------------------------------ real processes


def test_a_finished_run_says_its_accuracy_how_it_was_measured_and_where_it_is(
    finished: Any,
) -> None:
    outcome, run_dir = finished
    assert (outcome.status, outcome.err) == (0, "")
    result = run_dir.read_result()
    for part in (f"top-1 {result['top1']:.2f} %", "linear probe of frozen features", str(run_dir)):
        assert part in outcome.last_line


def test_the_log_holds_what_was_printed(finished: Any) -> None:
    outcome, run_dir = finished
    logged = run_dir.log.read_text()
    printed = outcome.out.splitlines()
    assert len(printed) > 5
    for line in printed:
        assert line in logged


def test_the_module_is_the_same_command(
    start: Callable[..., subprocess.Popen[str]], one_line: Callable[[str], str]
) -> None:
    process = start("python -m tcl_train", "epocs=3")
    out, err = process.communicate(timeout=120)
    assert (process.returncode, out) == (2, "")
    assert "did you mean epochs?" in one_line(err)


@pytest.mark.parametrize("words", [["--help"], ["epocs=3"]])
def test_help_and_typing_errors_do_not_wait_for_torch(words: list[str], here: Path) -> None:
    code = (
        "import sys; from tcl_train.cli.main import main; main(sys.argv[1:]); "
        "sys.exit('torch' in sys.modules)"
    )
    process = subprocess.run([sys.executable, "-c", code, *words], cwd=here, capture_output=True)
    assert process.returncode == 0
    assert process.stdout or process.stderr


def test_importing_the_package_is_cheap() -> None:
    code = "import sys, tcl_train.cli.main, tcl_train.cli.compose; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


@pytest.mark.slow
def test_tcl_eval_is_a_command_too(
    start: Callable[..., subprocess.Popen[str]], finished: Any, tmp_path: Path
) -> None:
    copy = shutil.copytree(finished.run_dir.path, tmp_path / "run")
    process = start("tcl-eval", f"run={copy}")
    out, err = process.communicate(timeout=240)
    assert (process.returncode, err) == (0, "")
    assert f"top-1 {finished.run_dir.read_result()['top1']:.2f} %" in out.splitlines()[-1]


@pytest.mark.slow
def test_the_default_run_is_accurate(
    start: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    """The contract's default: TCL on the digits, linear-probe top-1 of at least 98 %."""
    from tcl_train.run.directory import RunDir

    process = start("tcl-train", f"hydra.run.dir={tmp_path / 'run'}")
    _, err = process.communicate(timeout=290)
    assert (process.returncode, err) == (0, "")
    assert RunDir(tmp_path / "run").read_result()["top1"] >= 98
