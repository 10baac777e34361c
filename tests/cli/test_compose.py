"""From words to a config: what wins over what, what is recorded, what is said of wrong words."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from omegaconf import DictConfig, OmegaConf

from tcl_train.cli.choices import config_dir
from tcl_train.cli.compose import (
    CHANGEABLE_ON_RESUME,
    check_evaluation_keys,
    compose_run,
    evaluation_config,
    resumed_config,
)
from tcl_train.cli.overrides import parse_overrides
from tcl_train.errors import RequestError


@pytest.fixture(scope="module")
def default() -> DictConfig:
    return compose_run([]).config


# ------------------------------------------------------------------ what is composed


def test_without_words_it_is_tcl_on_the_digits_by_their_recipe(default: DictConfig) -> None:
    assert (default.names.loss, default.names.dataset) == ("tcl", "digits")
    recipe: Any = OmegaConf.load(config_dir() / "recipe" / "digits.yaml")
    assert default.names.encoder == "resnet8"
    for key in ("epochs", "batch_size", "lr"):
        assert default[key] == recipe[key]


def test_nothing_is_left_to_resolve_and_nothing_of_hydra_is_in_it(default: DictConfig) -> None:
    text = OmegaConf.to_yaml(default, resolve=False)
    assert "${" not in text
    assert "hydra" not in default


def test_the_sentence_that_the_project_exists_for_runs_the_published_recipe() -> None:
    config = compose_run(["loss=tcl", "dataset=cifar100", "k1=50000"]).config
    names = config.names
    assert (names.encoder, names.augment, names.probe) == ("resnet50", "autoaugment", "sgd")
    assert (config.epochs, config.batch_size, config.views, config.lr) == (100, 64, 2, 0.1)
    assert (config.loss.tau, config.loss.k1, config.loss.k2) == (0.1, 50000, 1)
    assert (config.optimizer.momentum, config.optimizer.weight_decay) == (0.9, 1e-4)
    assert (names.scheduler, config.scheduler.floor) == ("cosine", 1e-3)
    assert (names.projector, config.projector.out_dim, config.projector.depth) == ("mlp", 128, 2)
    assert (config.probe.epochs, config.probe.lr) == (50, 0.5)
    assert config.supervised is True


@pytest.mark.parametrize(
    ("words", "group", "kept", "gone"),
    [
        ("method=dino optimizer=sgd", "optimizer", {"weight_decay": 1e-6}, {"trust", "clip"}),
        ("method=byol optimizer=muon", "optimizer", {"momentum": 0.8}, {"trust", "weight_decay"}),
        ("method=byol projector=linear", "projector", {"out_dim": 256}, {"hidden_dim"}),
        ("experiment=cpu20 encoder=resnet18", "encoder", {"stem": "cosine"}, {"width", "shortcut"}),
        ("experiment=cpu20 encoder=resnet18", "encoder", {"norm": "batch"}, {"feature_dim"}),
        ("experiment=cpu/self_supervised method=byol", "optimizer", {"momentum": 0.8}, {"trust"}),
        ("experiment=cpu20 augment=none", "augment", {}, {"crop"}),
    ],
)
def test_what_a_recipe_sets_for_a_part_goes_where_another_part_lacks_it(
    words: str, group: str, kept: dict[str, Any], gone: set[str]
) -> None:
    node = compose_run(words.split()).config[group]
    assert {key: node[key] for key in kept} == kept
    assert not gone & set(node)


def test_a_key_that_no_choice_has_is_not_dropped(tmp_path: Path) -> None:
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_text(
        "# @package _global_\n"
        "defaults:\n  - override /optimizer: sgd\n"
        "optimizer:\n  momentun: 0.5\n"
    )
    words = [f"hydra.searchpath=[{tmp_path}]", "experiment=mine"]
    assert compose_run(words).config.optimizer.momentun == 0.5  # which building it refuses


def test_a_typed_key_that_a_typed_part_lacks_is_not_dropped() -> None:
    words = ["method=dino", "optimizer=sgd", "optimizer.trust=2"]
    assert compose_run(words).config.optimizer.trust == 2  # which building it refuses


def test_a_recipe_for_the_loss_on_the_data_set_wins_over_that_of_the_data_set() -> None:
    config = compose_run(["dataset=cifar10", "loss=ce"]).config
    assert (config.epochs, config.lr) == (50, 0.5)
    assert config.batch_size == 64  # of the data set's recipe
    assert config.names.method == "cross_entropy"


@pytest.mark.parametrize(
    ("words", "method"),
    [
        (["loss=ce"], "cross_entropy"),
        (["loss=ce", "method=contrastive"], "contrastive"),
        (["loss=tcl"], "contrastive"),
        (["loss=supcon", "method=simclr"], "simclr"),
    ],
    ids=" ".join,
)
def test_a_loss_brings_the_method_that_goes_with_it_unless_one_is_chosen(
    words: list[str], method: str
) -> None:
    config = compose_run(words).config
    assert config.names.method == method
    assert (config.names.projector == "none") == (method == "cross_entropy")
    assert config.overrides == words  # only what was typed


def test_words_win_over_every_recipe_and_every_choice() -> None:
    words = ["dataset=cifar10", "loss=ce", "epochs=7", "views=3", "encoder=resnet20", "lr=0.25"]
    config = compose_run(words).config
    assert (config.epochs, config.views, config.lr) == (7, 3, 0.25)
    assert config.names.encoder == "resnet20"


def test_the_place_of_a_word_does_not_matter() -> None:
    one = compose_run(["k1=7", "seed=3", "loss=tcl", "dataset=mnist"]).config
    other = compose_run(["dataset=mnist", "loss=tcl", "seed=3", "k1=7"]).config
    del one["overrides"], other["overrides"]
    assert one == other


def test_choices_and_words_are_recorded() -> None:
    words = ["loss=supcon", "tau=0.2", "encoder=resnet20"]
    config = compose_run([*words, "hydra.run.dir=x"]).config
    assert list(config.overrides) == words
    assert config.names.encoder == "resnet20"
    assert config.names.loss == "supcon"
    assert config.loss.tau == 0.2


def test_the_run_directory_is_the_one_that_is_given() -> None:
    assert compose_run(["hydra.run.dir=some/where"]).run_dir == "some/where"


def test_the_run_directory_is_otherwise_named_after_the_run() -> None:
    assert compose_run(["loss=supcon"]).run_dir.startswith("outputs/digits-supcon/")


def test_runs_that_are_started_in_the_same_second_have_directories_of_their_own() -> None:
    assert len({compose_run([]).run_dir for _ in range(3)}) == 3


@pytest.mark.parametrize("key", ["resume", "dataset.root", "data.cache_dir"])
@pytest.mark.parametrize("folder", ["2024", "1e5", "007", "1.50", "true"])
def test_a_folder_may_be_named_like_a_number(key: str, folder: str) -> None:
    config = compose_run(["dataset=image_folder", f"{key}={folder}"]).config
    assert OmegaConf.select(config, key) == folder
    assert compose_run([f"hydra.run.dir={folder}"]).run_dir == folder


@pytest.mark.parametrize("directory", ["0_loss=ce", "with space", "Müller (1)"])
def test_a_directory_may_have_any_name(directory: str) -> None:
    """A sweep names its directories after settings, so they have = in them."""
    composed = compose_run([f"hydra.run.dir={directory}", f"resume={directory}"])
    assert composed.run_dir == directory
    assert composed.config.resume == directory


def test_a_folder_of_images_may_be_below_the_users_home() -> None:
    config = compose_run(["dataset=image_folder", "dataset.root=~/images"]).config
    assert config.dataset.root == "~/images"


def test_data_sets_are_below_the_folder_that_the_environment_names(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TCL_TRAIN_DATA", "/somewhere")
    assert compose_run(["dataset=cifar10"]).config.dataset.root == "/somewhere/cifar10"
    monkeypatch.delenv("TCL_TRAIN_DATA")
    assert compose_run(["dataset=cifar10"]).config.dataset.root == "data/cifar10"


# ------------------------------------------------------------------ the second view, and words


def test_the_second_view_may_have_a_preset_of_its_own() -> None:
    composed = compose_run(["augment=simaug", "augment@second_view=crop_flip"]).config
    assert (composed.names.augment, composed.names.second_view) == ("simaug", "crop_flip")
    assert "jitter" in composed.augment
    assert list(composed.second_view) == ["crop", "flip"]
    changed = ["second_view.crop.padding=2", "~second_view.flip"]
    composed = compose_run(["augment@second_view=crop_flip", *changed]).config
    assert composed.second_view == {"crop": {**composed.second_view.crop, "padding": 2}}


def test_by_default_it_has_none() -> None:
    composed = compose_run([]).config
    assert composed.names.second_view is None
    assert "second_view" not in composed


def test_a_recipe_leaves_the_second_view_as_it_was_typed() -> None:
    names = compose_run(["dataset=cifar10", "augment@second_view=none"]).config.names
    assert (names.augment, names.second_view) == ("autoaugment", "none")


def test_a_run_goes_on_with_its_second_view_or_not_at_all() -> None:
    words = ["augment@second_view=crop_flip"]
    stored = compose_run(words).config
    assert resumed_config(stored, words).names.second_view == "crop_flip"
    with pytest.raises(RequestError, match=r"augment@second_view=crop: the run to resume"):
        resumed_config(stored, ["augment@second_view=crop"])


def test_a_list_in_brackets_is_one_value() -> None:
    assert list(compose_run(["probe.l2=[0.1,0.2]"]).config.probe.l2) == [0.1, 0.2]


def test_parse_names_the_word_that_is_wrong() -> None:
    with pytest.raises(RequestError, match=r"^lr: cannot be read"):
        parse_overrides(["seed=1", "lr"])


# ------------------------------------------------------------------ going on


@pytest.fixture(scope="module")
def started() -> DictConfig:
    return compose_run(["epochs=3", "loss=supcon", "tau=0.2"]).config


def resumed(started: DictConfig, *words: str) -> DictConfig:
    return resumed_config(OmegaConf.create(OmegaConf.to_container(started)), words)


def test_going_on_without_words_takes_the_config_as_it_was(started: DictConfig) -> None:
    assert resumed(started, "resume=x") == started


def test_going_on_may_repeat_what_was_said(started: DictConfig) -> None:
    same = resumed(started, "resume=x", "epochs=3", "loss=supcon", "tau=0.2", "encoder=resnet8")
    assert same == started


@pytest.mark.parametrize("word", ["epochs=4", "loss=tcl", "tau=0.3", "encoder=resnet20"])
def test_going_on_refuses_another_setting(started: DictConfig, word: str) -> None:
    key = word.split("=")[0]
    before = OmegaConf.select(started, f"names.{key}") or started[key]
    with pytest.raises(RequestError, match=f"{word}.*started with {key}={before}"):
        resumed(started, "resume=x", word)


def test_all_settings_that_differ_are_named_at_once(started: DictConfig) -> None:
    with pytest.raises(RequestError) as caught:
        resumed(started, "resume=x", "tau=0.3", "log_every=7", "encoder=resnet20", "lr=0.1")
    said = str(caught.value)
    assert said.startswith("tau=0.3 encoder=resnet20: the run to resume was started with tau=0.2, ")
    assert "encoder=resnet8; leave them out" in said


def test_samplers_decide_numbers(started: DictConfig) -> None:
    with pytest.raises(RequestError, match=r"started with data\.sampler=shuffle"):
        resumed(started, "resume=x", "data.sampler=balanced")


def test_a_run_may_be_extended() -> None:
    started = compose_run(["epochs=4", "k1_warmup_epochs=2", "loss=tcl"]).config
    longer = resumed(started, "resume=x", "resume_extend=true", "epochs=8")
    assert (longer.epochs, longer.loss.k1_warmup) == (8, 0.25)
    assert longer.overrides == ["k1_warmup_epochs=2", "loss=tcl", "epochs=8"]
    assert resumed(longer, "resume=x") == longer
    for words in (["epochs=4"], ["epochs=3"], []):
        with pytest.raises(RequestError, match="give epochs=N above the run's 4"):
            resumed(started, "resume=x", "resume_extend=true", *words)
    with pytest.raises(RequestError, match="started with lr="):
        resumed(started, "resume=x", "resume_extend=true", "epochs=8", "lr=0.7")


def test_going_on_refuses_another_directory(started: DictConfig) -> None:
    with pytest.raises(RequestError, match=r"hydra\.run\.dir=b: a run is resumed in its own.* a;"):
        resumed(started, "resume=a", "hydra.run.dir=b")


def test_going_on_takes_the_same_directory(started: DictConfig) -> None:
    """As when the whole command is typed again, with resume at its end."""
    assert resumed(started, "hydra.run.dir=a", "epochs=3", "resume=./a") == started


def test_going_on_refuses_an_unknown_key(started: DictConfig) -> None:
    with pytest.raises(RequestError, match="epocs"):
        resumed(started, "resume=x", "epocs=4")


def test_going_on_takes_what_changes_no_number(started: DictConfig) -> None:
    config = resumed(started, "resume=x", "log_every=3", "checkpoint.keep=all", "data.workers=0")
    assert (config.log_every, config.checkpoint.keep, config.data.workers) == (3, "all", 0)
    for key in started:
        if key not in CHANGEABLE_ON_RESUME:
            assert config[key] == started[key]


# ------------------------------------------------------------------ evaluating again


def evaluated(started: DictConfig, *words: str) -> DictConfig:
    return evaluation_config(OmegaConf.create(OmegaConf.to_container(started)), words)


def test_evaluating_without_words_takes_the_config_as_it_was(started: DictConfig) -> None:
    assert evaluated(started) == started


def test_evaluating_takes_another_data_set_and_probe_and_leaves_the_rest(
    started: DictConfig,
) -> None:
    config = evaluated(started, "dataset=cifar10", "probe=sgd", "probe.epochs=3")
    assert (config.names.dataset, config.names.probe) == ("cifar10", "sgd")
    assert config.probe.epochs == 3
    assert config.dataset.image_size == 32
    for key in ("encoder", "augment", "loss", "epochs", "overrides"):
        assert config[key] == started[key]


def test_what_the_run_said_of_its_own_data_set_goes_with_it() -> None:
    started = compose_run(
        ["dataset=image_folder", "dataset.root=a", "dataset.image_size=32"]
    ).config
    config = evaluated(started, "dataset=digits")
    assert config.dataset.root is None
    assert config.dataset.image_size == 8


def test_an_experiment_is_evaluated_on_its_own_data_set_or_another_one() -> None:
    run = compose_run(["experiment=cpu20", "dataset.root=here", "probe.max_iter=7"]).config
    assert evaluated(run) == run
    other = evaluated(run, "dataset=digits")
    assert (other.names.dataset, other.dataset.root) == ("digits", None)
    assert other.encoder == run.encoder
    assert other.probe.max_iter != 7


def test_keys_of_the_runs_data_set_and_probe_can_be_changed() -> None:
    started = compose_run(["dataset=image_folder", "dataset.root=a", "dataset.image_size=32"])
    config = evaluated(started.config, "dataset.root=b", "probe.max_iter=5")
    assert (config.dataset.root, config.dataset.image_size) == ("b", 32)
    assert config.probe.max_iter == 5


def test_what_the_run_said_of_its_parts_does_not_hinder_another_data_set() -> None:
    """The other data set's recipe has other parts, which lack these keys."""
    words = ["encoder.width=4", "probe.max_iter=7", "augment.crop.scale=[0.8,1]"]
    started = compose_run(words).config
    config = evaluated(started, "dataset=cifar10")
    assert config.names.dataset == "cifar10"
    assert config.encoder == started.encoder


@pytest.mark.parametrize("word", ["epochs=3", "encoder=resnet18", "tau=0.3", "resume=x", "foo=1"])
def test_evaluating_refuses_what_it_does_not_use(word: str) -> None:
    with pytest.raises(RequestError, match=f"{word}: evaluation takes run=DIR, dataset, probe"):
        check_evaluation_keys([word], of_run=True)


def test_without_a_run_the_encoder_may_be_chosen() -> None:
    check_evaluation_keys(["encoder=resnet18", "encoder.stem=small", "knn.k=5"], of_run=False)
    with pytest.raises(RequestError, match="epochs=3: evaluation takes encoder, dataset, probe"):
        check_evaluation_keys(["encoder=resnet18", "epochs=3"], of_run=False)


def test_composing_leaves_the_working_directory_empty(
    here: Path, compose_tiny: Callable[..., DictConfig]
) -> None:
    compose_tiny("hydra.run.dir=run")
    assert not list(here.iterdir())


def test_a_value_in_place_of_hydras_settings_is_refused() -> None:
    with pytest.raises(
        RequestError, match=r"hydra\.run is a group of settings; set hydra\.run\.dir=DIR"
    ):
        compose_run(["hydra.run=${seed}"])


@pytest.mark.parametrize("folder", [(), ("hydra.run.dir=here",)])
def test_a_choice_that_goes_with_another_is_not_among_what_was_typed(
    folder: tuple[str, ...],
) -> None:
    config = compose_run(["loss=ce", *folder]).config
    assert config.names.method == "cross_entropy"
    assert config.overrides == ["loss=ce"]
    assert compose_run(["loss=ce", "method=contrastive"]).config.names.method == "contrastive"


def test_an_experiments_choice_brings_what_goes_with_it(tmp_path: Path) -> None:
    (tmp_path / "experiment").mkdir()
    text = "# @package _global_\ndefaults:\n  - override /loss: ce\n"
    (tmp_path / "experiment" / "mine.yaml").write_text(text)
    found = compose_run([f"hydra.searchpath=[{tmp_path}]", "experiment=mine"]).config
    assert (found.names.loss, found.names.method) == ("ce", "cross_entropy")
    assert found.names.projector == "none"
