"""What is said of words that cannot be carried out."""

from __future__ import annotations

from typing import Any

import pytest
from omegaconf import DictConfig, OmegaConf

from tcl_train.cli import compose as compose_module
from tcl_train.cli import explain
from tcl_train.cli.choices import choices, config_dir, groups
from tcl_train.cli.compose import compose_run
from tcl_train.errors import RequestError


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["encoder.widht=4"], ["encoder.widht", "did you mean encoder.width?"]),
        (["warmup_epochs=1"], ["did you mean scheduler.warmup_epochs?"]),
        (["datset=digits"], ["datset", "did you mean dataset?"]),
        (["zzyzx=1"], ["zzyzx: no such key;", "--help"]),
        (["+epocs=3"], ["epocs", "no such key"]),
        (["++epocs=3"], ["epocs", "no such key"]),
        (["encoder.stem=small", "encoder=resnet18", "encoder.width=4"], ["encoder.width"]),
        (["dataset=cifar"], ["dataset=cifar", "did you mean cifar10", *choices("dataset")]),
        (["loss=tcl", "alpha=0.1"], ["alpha=0.1", "the chosen loss has no alpha", "hard"]),
        (["loss=ce", "tau=0.1"], ["tau=0.1", "supcon", "tcl"]),
        (["loss=supcon", "+k1=5"], ["k1=5", "the chosen loss has no k1", "tcl"]),
        (["loss=ce,tcl"], ["loss=ce,tcl", "several values", "-m"]),
        (["seed=range(1,3)"], ["seed=range(1,3)", "-m"]),
        (["epochs"], ["epochs: cannot be read", "key=value"]),
        (["loss=npairs", "loss.tau=1"], ["loss.tau: no such key", "loss has none"]),
        (["names.second_view=0.0"], ["names.second_view=0.0", "records what a run was started"]),
        (["overrides=-1"], ["overrides=-1", "records what a run was started"]),
        (["++searchpath=[a]"], ["searchpath=[a]", "records what a run was started"]),
        (["augment=[null,null]"], ["augment=[null,null]: no such augment", "simaug"]),
        (["hydra/launcher=null"], ["hydra/launcher=null: "]),
    ],
    ids=lambda value: " ".join(value) if "=" in value[0] or len(value) == 1 else "",
)
def test_wrong_words_are_explained(words: list[str], named: list[str]) -> None:
    with pytest.raises(RequestError) as caught:
        compose_run(words)
    message = str(caught.value)
    missing = [part for part in named if part not in message]
    assert not missing, message
    assert "\n" not in message


@pytest.mark.parametrize(
    "place",
    [
        *("data", "checkpoint", "augment.crop"),
        *("multicrop.small", "multicrop.small.augment", "multicrop.small.augment.crop"),
    ],
)
def test_a_value_in_place_of_settings_is_refused(place: str) -> None:
    with pytest.raises(RequestError, match=rf"{place} is a group of settings; set one of \w+, "):
        compose_run(["multicrop=small", f"{place}=5"])


@pytest.mark.parametrize("group", groups())
def test_where_settings_belong_is_known_without_composing(group: str) -> None:
    """By a rule, which every file must keep to."""
    for path in (config_dir() / group).glob("*.yaml"):
        config = OmegaConf.create({group: OmegaConf.load(path)})
        if "@package _global_" in path.read_text():
            config = config[group]
        for key in set(config.get(group, {})) - {"defaults"}:
            node = config[group]._get_node(key)
            place = f"{group}.{key}"
            holds = explain._holds_settings(place, config[group])
            assert holds == isinstance(node, DictConfig), f"{path}: {place}"
            inner = [name for name, v in node.items() if isinstance(v, DictConfig)] if holds else []
            assert all(explain._holds_settings(f"{place}.{name}", node) for name in inner), path


def test_a_run_is_composed_once_unless_something_is_to_be_explained(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Composing is the larger part of what a user waits for before a typing error is found."""
    calls: list[Any] = []
    for module in (compose_module, explain):
        compose = module.compose
        monkeypatch.setattr(
            module, "compose", lambda *a, of=compose, **k: calls.append(a) or of(*a, **k)
        )
    compose_run(["loss=tcl", "k1=7", "encoder.width=8", "augment.crop.scale=[0.5,1]"])
    assert len(calls) == 1


@pytest.mark.parametrize("group", ["dataset", "augment"])
def test_null_is_no_choice(group: str) -> None:
    with pytest.raises(RequestError, match=rf"{group}=null.*{choices(group)[-1]}"):
        compose_run([f"{group}=null"])


@pytest.mark.parametrize(
    "word", ["second_view=crop", "second_view.crop.padding=2", "second_view=simaug"]
)
def test_how_to_choose_the_second_views_preset_is_explained(word: str) -> None:
    with pytest.raises(RequestError, match=r"augment@second_view=PRESET, one of .*simaug"):
        compose_run([word])


def test_an_unknown_preset_of_the_second_view_is_answered_with_the_list() -> None:
    with pytest.raises(
        RequestError, match=r"augment@second_view=cropflip: .*did you mean crop_flip\?.*simaug"
    ):
        compose_run(["augment@second_view=cropflip"])
