"""What there is to choose from: the config groups and their files."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

CONFIG_NAME = "train"
# Choices that replace a default beside a choice made earlier in the list of configs/train.yaml:
# a file there cannot override what comes after it.
GOES_WITH = {("loss", "ce"): ("method", "contrastive", "cross_entropy")}
IN_FOLDERS = ("experiment",)
SECOND_VIEW = "second_view"  # where augment@second_view=PRESET puts the preset


def config_dir() -> Path:
    """The configs: inside the package when installed, beside it in a checkout."""
    package = Path(__file__).resolve().parent.parent
    inside = package / "configs"
    return inside if inside.is_dir() else package.parent / "configs"


def groups() -> list[str]:
    """The config groups that users choose from; the recipe comes with the data set."""
    found = (path.name for path in config_dir().iterdir() if path.is_dir())
    return sorted(name for name in found if name != "recipe")


def choices(group: str) -> list[str]:
    """The choices of a group: its YAML files, resnet8 before resnet18. Experiments stand in
    folders, too, as paper/k1; what is in folders of other groups are parts of choices."""
    folder = config_dir() / group
    files = folder.rglob("*.yaml") if group in IN_FOLDERS else folder.glob("*.yaml")
    names = (path.relative_to(folder).with_suffix("").as_posix() for path in files)
    return sorted(names, key=lambda name: re.sub(r"\d+", lambda m: m[0].zfill(6), name))


HERE = "@_here_"  # in a list of defaults: merged into the choice itself


@cache
def settings_of(group: str, choice: str) -> DictConfig | None:
    """The keys in a choice's own file; None where its file is not among these configs, but
    in a folder of the user's."""
    path = config_dir() / group / f"{choice}.yaml"
    if not path.is_file():
        return None
    own = OmegaConf.load(path)
    assert isinstance(own, DictConfig)
    parents = [str(name) for name in own.pop("defaults", [])]
    of_parents = [settings_of(group, name.removesuffix(HERE)) for name in parents]
    merged = OmegaConf.merge(*(parent for parent in of_parents if parent is not None), own)
    assert isinstance(merged, DictConfig)
    return merged
