"""What there is to choose from."""

from __future__ import annotations

from tcl_train.cli.choices import choices, config_dir, groups


def test_groups_and_choices_are_the_folders_and_files() -> None:
    assert {"dataset", "augment", "encoder", "projector", "loss", "optimizer"} <= set(groups())
    assert {"scheduler", "probe"} <= set(groups())
    files = {path.stem for path in (config_dir() / "loss").iterdir()}
    assert set(choices("loss")) == files


def test_experiments_stand_in_folders_too() -> None:
    assert {"cpu20", "paper/k1", "cpu/k1"} <= set(choices("experiment"))
    assert not any("/" in name for name in choices("encoder"))  # encoder/family is no choice
