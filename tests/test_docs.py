"""Every command and code block of the README and of docs/: commands compose, scripts have the flags
that are given to them, code runs, links lead somewhere."""

from __future__ import annotations

import importlib
import re
import shlex
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from tcl_train.cli.choices import config_dir
from tcl_train.cli.compose import compose_run
from tcl_train.cli.overrides import parse_overrides, quote_overrides
from tcl_train.cli.sweep import expand
from tcl_train.run.directory import RunDir

ROOT = config_dir().parent
EXTENDING = ROOT / "docs" / "extending.md"
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
pytestmark = pytest.mark.skipif(not EXTENDING.exists(), reason="installed without its docs")


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)


def commands(page: Path) -> Iterator[str]:
    """What a reader may type: lines of bash blocks, and inline code."""
    for block in blocks(page, "bash"):
        without_files = re.sub(r"<<'(\w+)'\n.*?\n\1\n", "\n", block, flags=re.DOTALL)
        yield from without_files.replace("\\\n", " ").splitlines()
    prose = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    yield from (code.replace("\n", " ") for code in re.findall(r"`([^`]+)`", prose))


def is_whole(line: str) -> bool:
    """Rather than the form of a command, as in tcl-train [group=choice] …"""
    return line.count("'") % 2 == 0 and not re.search(r"…| \.\.\.|\[\w+=", line)


def typed(*programs: str) -> list[Any]:
    """The words after the program, of every whole command that begins with these words."""
    found = {}
    for page in PAGES if EXTENDING.exists() else ():
        for line in filter(is_whole, commands(page)):
            words = shlex.split(line, comments=True)
            if tuple(words[: len(programs)]) == programs:
                found[f"{page.stem}: {' '.join(words)}"] = words[len(programs) :]
    return [pytest.param(words, id=name) for name, words in found.items()]


@pytest.fixture
def my_configs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the pages tell a reader to write, is written."""
    monkeypatch.chdir(tmp_path)
    for block in blocks(ROOT / "docs" / "sweeps.md", "bash"):
        if "<<'YAML'" in block:
            subprocess.run(["bash", "-c", f"tcl-train() {{ :; }}\n{block}"], check=True)


@pytest.mark.parametrize("words", typed("tcl-train"))
@pytest.mark.usefixtures("my_configs")
def test_commands_compose(words: list[str]) -> None:
    flags = {word for word in words if word.startswith("-")}
    assert flags <= {"-m", "--help", "--version"}
    parsed = parse_overrides(quote_overrides([word for word in words if word not in flags]))
    if "hydra/sweeper=optuna" in words:  # which has values of its own
        parsed = [override for override in parsed if not override.is_sweep_override()]
    jobs = expand(parsed)
    assert len(jobs) == 1 or "-m" in flags
    searchpath = [word for word in words if word.startswith("hydra.searchpath=")]
    for job in jobs[:: len(jobs) // 4 + 1]:
        given = [word for word in job if not word.endswith("=N")]  # a number of the reader's
        assert compose_run([*searchpath, *given]).config.names


@pytest.mark.parametrize("words", typed("torchrun"))
def test_commands_in_several_processes_compose(words: list[str]) -> None:
    if "--no-python" in words:
        pytest.skip("it starts another command")
    ours = words[words.index("tcl_train") + 1 :]
    assert compose_run(ours).config.names


@pytest.mark.parametrize("words", typed("python"))
def test_scripts_have_the_flags_that_are_given(words: list[str]) -> None:
    script, *given = words
    source = (ROOT / script).read_text(encoding="utf-8")
    for flag in (word for word in given if word.startswith("--")):
        assert f'"{flag}"' in source


@pytest.mark.parametrize("words", typed("bash"))
def test_scripts_are_there(words: list[str]) -> None:
    assert (ROOT / words[0]).is_file()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_lead_somewhere(page: Path) -> None:
    targets = re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8"))
    for target in targets:
        assert "://" in target or (page.parent / target).exists(), target


@pytest.mark.parametrize(
    "code",
    [
        pytest.param(code, id=page.stem)
        for page in PAGES
        if page != EXTENDING and page.exists()
        for code in blocks(page, "python")
    ],
)
def test_code_runs(code: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With stand-ins for what the reader has."""
    monkeypatch.setattr("tcl_train.restore.load_encoder", lambda run: run)
    exec(code, {"z_ND": torch.randn(8, 4), "y_N": torch.tensor([0, 0, 1, 1, 2, 2, 3, 3])})


def test_a_method_of_ones_own_trains_resumes_and_is_evaluated(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    command: Callable[..., Any],
    tiny_words: Callable[..., list[str]],
) -> None:
    """The first code of docs/extending.md, run as it stands."""
    code, yaml, line = (blocks(EXTENDING, name)[0] for name in ("python", "yaml", "bash"))
    (tmp_path / "align_uniform.py").write_text(code)
    (tmp_path / "method").mkdir()
    (tmp_path / "method" / "align_uniform.yaml").write_text(yaml)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    path, program, *words = shlex.split(line)
    assert (path, program) == ("PYTHONPATH=.", "tcl-train")
    outcome = command(*tiny_words(*words, "epochs=2", "hydra.run.dir=run"))
    assert outcome.status == 0, outcome.err
    result = RunDir("run").read_result()
    assert result["method"] == {"name": "align_uniform", "weight": 1.0}
    assert result["loss"]["name"] == "of_method"
    assert not result["supervised"]
    assert result["top1"] > 30
    more = "resume=run", "resume_extend=true", "epochs=3"
    refused = command(*more)
    assert refused.status == 2
    assert "trust=align_uniform" in refused.err
    assert command(*more, "trust=align_uniform").status == 0
    state = torch.load(RunDir("run").last_checkpoint, weights_only=False)
    assert state["step"] == 3 * 5


def test_an_augmentation_of_ones_own_trains_and_has_both_forms(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    command: Callable[..., Any],
    tiny_words: Callable[..., list[str]],
    write_images: Callable[..., Path],
) -> None:
    """The second code of docs/extending.md, run as it stands, on colour images."""
    code, yaml, line = (blocks(EXTENDING, name)[1] for name in ("python", "yaml", "bash"))
    (tmp_path / "channel_shuffle.py").write_text(code)
    (tmp_path / "augment").mkdir()
    (tmp_path / "augment" / "shuffled.yaml").write_text(yaml)
    counts = {f"{split}/{name}": 12 for split in ("train", "test") for name in ("blue", "red")}
    root = write_images(tmp_path / "images", counts)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    path, program, *words = shlex.split(line)
    assert (path, program) == ("PYTHONPATH=.", "tcl-train")
    words.remove("dataset=cifar100")
    own = ("dataset=image_folder", f"dataset.root={root}", "dataset.image_size=8", "batch_size=8")
    outcome = command(*tiny_words(*own, *words, "hydra.run.dir=run"))
    assert outcome.status == 0, outcome.err
    assert list(RunDir("run").read_config(trust=None).augment)[-1] == "shuffle"

    shuffle = importlib.import_module("channel_shuffle").ChannelShuffle(p=0.5)
    g = torch.Generator().manual_seed(0)
    x_NCHW = torch.rand(16, 3, 8, 8, generator=g)
    drawn = shuffle.draw(16, 8, 8, g)
    shuffled_NCHW = shuffle.apply(x_NCHW, drawn, 8)
    assert torch.equal(shuffle.apply_static(x_NCHW, drawn, 8), shuffled_NCHW)
    assert not torch.equal(shuffled_NCHW, x_NCHW)
    assert torch.equal(shuffled_NCHW.sort(1).values, x_NCHW.sort(1).values)
