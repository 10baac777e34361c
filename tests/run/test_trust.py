"""A stored config calls nothing but parts of this package, each in its place."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from tcl_train import load_encoder
from tcl_train.cli.choices import choices, groups
from tcl_train.cli.compose import compose_run
from tcl_train.cli.main import main_eval
from tcl_train.errors import RequestError
from tcl_train.run.directory import RunDir
from tcl_train.run.trust import ROOMS, check_targets

SHELL = {"_target_": "subprocess.check_output", "args": ["touch", "proof"]}
WAYS = {
    "another package": SHELL,
    "another package through a module of ours": {
        "_target_": "tcl_train.cli.sweep.subprocess.check_output",
        "args": ["touch", "proof"],
    },
    "our own function that starts processes": {
        "_target_": "tcl_train.cli.sweep._run",
        "command": ["touch", "proof"],
    },
    "a part of ours with another below it": {
        "_target_": "tcl_train.losses.TCL",
        "tau": SHELL,
    },
    "in a list": {"_target_": "tcl_train.losses.TCL", "tau": [SHELL]},
    "a part of ours in another's place": {"_target_": "tcl_train.models.resnet.resnet8"},
    "nothing that exists": {"_target_": "tcl_train.losses.Gone"},
    "a name of builtins": {"_target_": "builtins.eval"},
}


@pytest.mark.parametrize("way", WAYS)
def test_other_calls_are_refused_by_name(way: str) -> None:
    config = compose_run([]).config
    config.loss = WAYS[way]
    with pytest.raises(RequestError, match=r"config\.yaml: loss.* calls .*trust=") as raised:
        check_targets(config, "config.yaml")
    assert "\n" not in str(raised.value)


def test_a_call_at_the_root_is_refused() -> None:
    config = OmegaConf.merge(compose_run([]).config, {"extra": SHELL})
    with pytest.raises(RequestError, match="extra calls subprocess"):
        check_targets(config, "config.yaml")  # type: ignore[arg-type]


@pytest.mark.parametrize("group", [g for g in groups() if g != "experiment"])
def test_every_choice_of_ours_is_accepted(group: str) -> None:
    for choice in choices(group):
        words = [f"{group}={choice}"]
        words += ["dataset.root=x"] if choice in ("imagenet100", "image_folder") else []
        words += ["loss=ce"] if choice == "cross_entropy" else []
        check_targets(compose_run(words).config, "config.yaml")


def test_every_room_belongs_to_a_group() -> None:
    assert {*ROOMS} <= {*groups(), "second_view"}


def test_a_package_that_is_named_is_trusted() -> None:
    config = compose_run([]).config
    config.loss = {"_target_": "mine.losses.Loss"}
    check_targets(config, "config.yaml", ["mine"])
    with pytest.raises(RequestError):
        check_targets(config, "config.yaml", ["min", "mine.losses.L"])


@pytest.fixture
def poisoned(
    command: Callable[..., Any], tiny_words: Callable[..., list[str]], on_few_digits: None
) -> RunDir:
    assert command(*tiny_words("batch_size=32", "hydra.run.dir=run")).status == 0
    run_dir = RunDir("run")
    config = OmegaConf.load(run_dir.config)
    config.encoder = SHELL
    OmegaConf.save(config, run_dir.config)
    return run_dir


def test_no_command_and_no_function_carries_it_out(
    poisoned: RunDir, command: Callable[..., Any], one_line: Callable[[str], str]
) -> None:
    with pytest.raises(RequestError, match="encoder calls subprocess"):
        load_encoder("run")
    outcomes = [command("run=run", main=main_eval)]
    poisoned.result.unlink()
    outcomes.append(command("resume=run"))
    for outcome in outcomes:
        assert outcome.status == 2
        assert "encoder calls subprocess.check_output" in one_line(outcome.err)
    assert not Path("proof").exists()


def test_configs_that_a_run_brings_along_are_checked_too(
    command: Callable[..., Any],
    tiny_words: Callable[..., list[str]],
    one_line: Callable[[str], str],
    on_few_digits: None,
) -> None:
    """A stored search path leads to YAML files, which may be somebody else's as well."""
    assert command(*tiny_words("batch_size=32", "hydra.run.dir=run")).status == 0
    probe = Path("run/configs/probe/evil.yaml")
    probe.parent.mkdir(parents=True)
    OmegaConf.save(OmegaConf.create(SHELL), probe)
    config = OmegaConf.load("run/config.yaml")
    config.searchpath = [f"file://{Path('run/configs').absolute()}"]
    ours = [word for word in config.overrides if not word.startswith("probe")]
    config.overrides = [*ours, "probe=evil"]
    OmegaConf.save(config, "run/config.yaml")
    outcome = command("run=run", main=main_eval)
    assert outcome.status == 2
    assert "probe calls subprocess" in one_line(outcome.err)
    assert not Path("proof").exists()


def test_one_s_own_package_is_loaded_where_it_is_named(
    command: Callable[..., Any],
    tiny_words: Callable[..., list[str]],
    on_few_digits: None,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    (tmp_path / "mine_for_a_test.py").write_text(
        "from tcl_train.models.resnet import resnet8 as tiny\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    assert command(*tiny_words("batch_size=32", "hydra.run.dir=run")).status == 0
    config = OmegaConf.load("run/config.yaml")
    config.encoder._target_ = "mine_for_a_test.tiny"
    OmegaConf.save(config, "run/config.yaml")
    with pytest.raises(RequestError, match="add trust=mine_for_a_test"):
        load_encoder("run")
    assert load_encoder("run", trust=["mine_for_a_test"]).feature_dim == 16
    assert command("run=run", main=main_eval).status == 2
    assert command("run=run", "trust=mine_for_a_test", main=main_eval).status == 0
    assert "mine_for_a_test" in sys.modules
