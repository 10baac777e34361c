"""Every YAML file below configs/: it composes, and what it names can be built and used.

A new choice is one file, and these tests find it by themselves.
"""

from __future__ import annotations

import importlib
import inspect
import itertools
import re
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import DictConfig, OmegaConf
from PIL import Image

from tcl_train.building.nodes import build_node
from tcl_train.building.parts import (
    build_augment,
    build_data,
    build_encoder,
    build_loss,
    build_method,
    build_optimizer,
    build_probe,
    build_schedule,
)
from tcl_train.building.settings import read_settings
from tcl_train.cli.choices import choices, config_dir
from tcl_train.cli.compose import compose_run
from tcl_train.data import named
from tcl_train.data.augment import Augment
from tcl_train.data.dataset import Split
from tcl_train.data.images import ArrayImages
from tcl_train.data.normalize import Normalize
from tcl_train.evaluation.features import accuracy, extract
from tcl_train.evaluation.probe import ProbeInput
from tcl_train.runtime.device import Runtime

DATASETS = choices("dataset")
LOSSES = [name for name in choices("loss") if name != "of_method"]

# Arguments that the program gives, so that no YAML does.
GIVEN = {
    "dataset": {"options"},
    "encoder": {"image_size"},
    "projector": {"feature_dim"},
    "optimizer": {"module", "lr"},
    "method": {"encoder", "projector", "loss", "num_classes"},
}
# Keys that building/ carries out itself.
BUILT = {"encoder": {"weights"}}
DEEP = {"resnet50", "resnet101"}  # built without weights where those are of no interest


@lru_cache
def _composed(*words: str) -> DictConfig:
    return compose_run([*words]).config


def composed(*words: str) -> DictConfig:
    """The config for some words, as a copy: composing takes longer than most of what is tested."""
    return OmegaConf.create(OmegaConf.to_container(_composed(*words)))


def load(group: str, name: str) -> DictConfig:
    config = OmegaConf.load(config_dir() / group / f"{name}.yaml")
    assert isinstance(config, DictConfig)
    return config


def node_of(group: str, name: str) -> DictConfig:
    """What is instantiated; a loss stands below its key, beside the root keys that it brings, and
    an encoder shares keys with its family."""
    if group == "encoder":
        words = ["encoder.name=resnet10t"] if name == "timm" else []
        return composed(f"encoder={name}", *words).encoder
    config = load(group, name)
    return config.get(group, config)


def all_choices(*groups: str) -> list[Any]:
    return [
        pytest.param(group, name, id=f"{group}={name}")
        for group in groups
        for name in choices(group)
    ]


PARTS = ("encoder", "projector", "loss", "optimizer", "scheduler", "probe", "method")


# ------------------------------------------------------------------ composing


@pytest.mark.parametrize("dataset", DATASETS)
def test_every_data_set_composes_by_its_own_recipe(dataset: str) -> None:
    config = composed(f"dataset={dataset}")
    assert config.names.dataset == dataset
    recipe = load("recipe", dataset)
    shared = [load("recipe", name) for name in recipe.defaults if isinstance(name, str)]
    recipe = OmegaConf.merge(*shared, recipe)
    for key in ("epochs", "batch_size", "lr"):
        assert config[key] == recipe[key]
    read_settings(config)


@pytest.mark.parametrize("loss", LOSSES)
def test_every_loss_composes_and_can_train(loss: str) -> None:
    config = composed(f"loss={loss}")
    assert config.names.loss == loss
    read_settings(config)
    build_loss(config)


def in_company() -> list[list[str]]:
    """Words in which each choice of the groups that stand by themselves comes up, in few lines."""
    groups = ("augment", "encoder", "projector", "optimizer", "scheduler", "probe")
    groups = (*groups, *(["experiment"] if choices("experiment") else []))
    lines = max(len(choices(group)) for group in groups)
    return [[f"{g}={choices(g)[line % len(choices(g))]}" for g in groups] for line in range(lines)]


@pytest.mark.parametrize("words", in_company(), ids=" ".join)
def test_every_choice_composes(words: list[str]) -> None:
    config = compose_run(words).config
    for word in words:
        group, name = word.split("=")
        if group != "experiment":
            assert config.names[group] == name


@pytest.mark.slow
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("dataset", DATASETS)
def test_every_loss_composes_with_every_data_set(dataset: str, loss: str) -> None:
    config = compose_run([f"dataset={dataset}", f"loss={loss}"]).config
    assert (config.names.dataset, config.names.loss) == (dataset, loss)
    read_settings(config)


def test_every_data_set_has_a_recipe_and_takes_its_own() -> None:
    assert set(choices("recipe")) == set(DATASETS)
    for dataset in DATASETS:
        assert {"/recipe@_global_": dataset} in list(load("dataset", dataset).defaults)


def test_every_recipe_for_a_loss_is_for_a_data_set_and_a_loss_that_exist() -> None:
    """These are optional in the defaults, so that nobody would notice a misspelt one."""
    names = {path.stem for path in (config_dir() / "recipe" / "by_loss").glob("*.yaml")}
    assert names
    assert names <= {f"{dataset}-{loss}" for dataset in DATASETS for loss in LOSSES}


def test_every_recipe_for_an_experiment_is_for_an_experiment_and_a_method_that_exist() -> None:
    folder = config_dir() / "recipe" / "by_experiment"
    names = {str(path.relative_to(folder).with_suffix("")) for path in folder.rglob("*.yaml")}
    assert names
    methods = choices("method")
    assert names <= {f"{name}-{method}" for name in choices("experiment") for method in methods}


def test_an_experiment_has_settings_for_each_method() -> None:
    """Behind the method's own, and before what is typed."""
    words = ["experiment=cpu/self_supervised", "method=byol"]
    assert compose_run(words).config.method.momentum == 0.97
    assert compose_run([*words, "method.momentum=0.9"]).config.method.momentum == 0.9


def test_every_recipe_says_how_to_run_it() -> None:
    """A data set that has no embedded images says where to put them, too."""
    for dataset in DATASETS:
        text = (config_dir() / "recipe" / f"{dataset}.yaml").read_text()
        assert "#   tcl-train" in text
        if dataset != "digits":
            assert f"dataset={dataset}" in text


# ------------------------------------------------------------------ published comparisons

COMPARISONS = (
    *("supervised", "batch_size", "encoder", "projector", "augment", "k1", "k2", "temperature"),
    "self_supervised",
)


def sweeps_over(experiment: str) -> dict[str, list[str]]:
    """The values that it brings, by key."""
    values = compose_run([f"experiment={experiment}"]).sweeps_over
    return {key: text.split(",") for key, text in values.items()}


def comparisons() -> list[str]:
    return [name for name in choices("experiment") if "/" in name]


@pytest.mark.parametrize("experiment", comparisons())
def test_every_setting_of_a_comparison_composes(experiment: str) -> None:
    """Each value comes up, in few settings."""
    over = sweeps_over(experiment)
    lines = range(max(map(len, over.values()), default=1))
    for setting in ({key: of[line % len(of)] for key, of in over.items()} for line in lines):
        words = [f"{key}={value}" for key, value in setting.items()]
        config = compose_run([f"experiment={experiment}", *words]).config
        read_settings(config)
        build_loss(config)
        for key, value in setting.items():
            found = config.names[key] if key in config.names else OmegaConf.select(config, key)
            assert str(found) == value or float(found) == float(value), (key, found)


@pytest.mark.slow
@pytest.mark.parametrize("experiment", comparisons())
def test_all_settings_of_a_comparison_compose(experiment: str) -> None:
    over = sweeps_over(experiment)
    for values in itertools.product(*over.values()):
        words = [f"{key}={value}" for key, value in zip(over, values, strict=True)]
        read_settings(compose_run([f"experiment={experiment}", *words]).config)


@pytest.mark.parametrize("name", COMPARISONS)
def test_a_comparison_has_a_twin_for_cpus_and_says_how_to_run_it(name: str) -> None:
    for folder in ("paper", "cpu"):
        text = (config_dir() / "experiment" / folder / f"{name}.yaml").read_text()
        if (folder, name) != ("cpu", "self_supervised"):
            assert f"#   tcl-train -m experiment={folder}/{name}" in text
            assert "# Published" in text
            assert "# Protocol" in text


# ------------------------------------------------------------------ targets and their arguments


def target(node: DictConfig) -> Any:
    module, _, name = node._target_.rpartition(".")
    return getattr(importlib.import_module(module), name)


def arguments(function: Any, group: str) -> set[str]:
    """What a YAML may set."""
    parameters = dict(inspect.signature(function).parameters)
    given = set(GIVEN.get(group, ()))
    if function.__module__ == named.__name__:  # these pass their keys on
        parameters |= inspect.signature(named._named).parameters
        given |= {"read", "pretrain_split"}
    variable = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return {k for k, p in parameters.items() if k not in given and p.kind not in variable}


def keys(node: DictConfig) -> set[str]:
    return {str(key) for key in node} - {"_target_", "defaults"}


@pytest.mark.parametrize(("group", "name"), all_choices(*PARTS))
def test_keys_are_exactly_the_arguments_of_the_target(group: str, name: str) -> None:
    """So everything can be set on the command line, under the name that it has in Python."""
    node = node_of(group, name)
    assert keys(node) == arguments(target(node), group) | BUILT.get(group, set())


@pytest.mark.parametrize("name", DATASETS)
def test_keys_of_a_data_set_are_arguments_of_its_target(name: str) -> None:
    node = load("dataset", name)
    allowed = arguments(target(node), "dataset")
    assert keys(node) <= allowed
    assert {"root", "image_size", "mean", "std"} <= keys(node)


@pytest.mark.parametrize("name", choices("augment"))
def test_keys_of_a_transform_are_arguments_of_its_target(name: str) -> None:
    for node in load("augment", name).values():
        assert keys(node) <= arguments(target(node), "augment")


@pytest.mark.parametrize("loss", LOSSES)
def test_the_root_keys_of_a_loss_are_those_that_it_uses(loss: str) -> None:
    """Such a key is typed without a path; one that led nowhere would be ignored in silence."""
    config = load("loss", loss)
    container: Any = OmegaConf.to_container(config)
    values = " ".join(map(str, container["loss"].values()))
    used = set(re.findall(r"\$\{\w+\}", values))
    brought = set(container) - {"loss", "defaults", "supervised", "views"}
    assert used == {f"${{{key}}}" for key in brought}
    # And what is in the contract's list of root keys is there as one.
    assert {"tau", "k1", "k2"} & set(container["loss"]) <= brought


# ------------------------------------------------------------------ building and using


def runtime() -> Runtime:
    return Runtime(device="cpu", precision="fp32", compile=False)


def random_images(count: int, *, channels: int = 3, size: int = 8) -> torch.Tensor:
    g = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, channels, size, size), generator=g, dtype=torch.uint8)


@pytest.fixture(scope="module")
def tiny(compose_tiny: Callable[..., DictConfig]) -> DictConfig:
    return compose_tiny()


def with_choice(tiny: DictConfig, group: str, name: str) -> DictConfig:
    """The tiny config with another part in it."""
    config = OmegaConf.create(OmegaConf.to_container(tiny))
    config[group] = node_of(group, name)
    return config


def tiny_method(config: DictConfig) -> Any:
    return build_method(
        config,
        encoder=build_encoder(config, image_size=8),
        loss=build_loss(config),
        num_classes=3,
    )


@pytest.mark.parametrize("name", LOSSES)
def test_a_step_with_every_loss_gives_every_parameter_a_gradient(name: str) -> None:
    config = composed(f"loss={name}")
    method = tiny_method(config)
    labels_B = torch.arange(12) // 4 if config.supervised else torch.arange(12)
    views_NCHW = random_images(12 * config.views).float() / 255
    step = method(views_NCHW, labels_B)
    assert torch.isfinite(step.loss)
    assert torch.isfinite(method.chance_level(step))
    step.loss.backward()
    for key, parameter in method.named_parameters():
        assert parameter.grad is not None, key
        assert torch.isfinite(parameter.grad).all(), key
    assert any(p.grad.abs().max() > 0 for p in method.encoder.parameters())


@pytest.mark.parametrize("name", choices("encoder"))
def test_every_encoder_maps_images_to_its_features(name: str, tiny: DictConfig) -> None:
    config = with_choice(tiny, "encoder", name)
    with torch.device("meta" if name in DEEP else "cpu"):
        encoder = build_encoder(config, image_size=8)
        images_NCHW = torch.zeros(2, 3, 8, 8)
    assert encoder(images_NCHW).shape == (2, encoder.feature_dim)


@pytest.mark.parametrize("name", choices("projector"))
def test_every_projector_maps_features_to_rows_and_trains(name: str, tiny: DictConfig) -> None:
    method = tiny_method(with_choice(tiny, "projector", name))
    step = method(random_images(8).float() / 255, torch.arange(4))
    width = 16 if name == "none" else 128
    assert step.rows_ND.shape == (8, width)
    step.loss.backward()
    assert all(p.grad is not None for p in method.projector.parameters())


@pytest.mark.parametrize("name", choices("optimizer"))
def test_a_step_of_every_optimizer_changes_every_parameter(name: str, tiny: DictConfig) -> None:
    method = tiny_method(tiny)
    optimizer = build_optimizer(with_choice(tiny, "optimizer", name), method)
    before = {key: p.detach().clone() for key, p in method.named_parameters()}
    loss = method(random_images(8).float() / 255, torch.arange(4)).loss
    loss.backward()
    runtime().update(optimizer)
    for key, parameter in method.named_parameters():
        assert torch.isfinite(parameter).all()
        assert not torch.equal(parameter, before[key]), key


@pytest.mark.parametrize("name", choices("scheduler"))
def test_every_schedule_is_a_factor_in_0_to_1_for_every_step(name: str, tiny: DictConfig) -> None:
    schedule = build_schedule(with_choice(tiny, "scheduler", name))
    factors = [schedule(step, 7, 10) for step in range(70)]
    assert all(0 < factor <= 1 for factor in factors)
    assert max(factors) == 1


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", choices("augment"))
def test_every_augmentation_gives_views_of_grey_and_of_coloured_images(
    name: str, channels: int, tiny: DictConfig
) -> None:
    config = with_choice(tiny, "augment", name)
    transforms = {key: build_node(f"augment.{key}", n) for key, n in config.augment.items()}
    augment = Augment(transforms, Normalize(size=8, mean=[0.5] * channels, std=[0.3] * channels))
    images_BCHW = random_images(6, channels=channels)
    untouched = images_BCHW.clone()
    views_NCHW = augment(images_BCHW, views=3, generator=torch.Generator().manual_seed(1))
    assert views_NCHW.shape == (18, 3, 8, 8)
    assert views_NCHW.dtype == torch.float32
    assert torch.isfinite(views_NCHW).all()
    assert torch.equal(images_BCHW, untouched)
    first, second = views_NCHW[:6], views_NCHW[6:12]
    assert torch.equal(first, second) == (name == "none")


@pytest.mark.parametrize("name", choices("probe"))
def test_every_probe_tells_easy_classes_apart_and_says_how(name: str, tiny: DictConfig) -> None:
    probe = build_probe(with_choice(tiny, "probe", name))
    labels_N = torch.arange(48) % 3
    images_NCHW = random_images(48) // 4
    images_NCHW[torch.arange(48), labels_N] += 150  # a bright channel for each class
    split = Split(ArrayImages(images_NCHW), labels_N)
    encoder: Any = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())
    augment = Augment({}, Normalize(size=8, mean=[0.5] * 3, std=[0.3] * 3))
    features = extract(encoder, split, augment.normalize, runtime())
    given = ProbeInput(
        encoder=encoder,
        train=features,
        train_split=split,
        num_classes=3,
        augment=augment,
        runtime=runtime(),
        seed=1,
        batch_size=16,
    )
    classifier = probe(given)
    assert accuracy(classifier.scores(given, split, features.x_ND), labels_N) == 100
    named = {"features", "normalisation", "optimiser", "l2", "l2_chosen_by"}
    assert named <= set(classifier.protocol)


@pytest.mark.parametrize("name", DATASETS)
def test_every_data_set_reads_image_folders(name: str, tmp_path: Path) -> None:
    """torchvision's files need a network; a folder with train/ and test/ does not."""
    node = load("dataset", name)
    classes = list(node.get("classes") or ["a", "b"])
    image = Image.fromarray(np.full((8, 8, 3), 90, np.uint8))
    for split in ("train", "val"):
        for folder in classes:
            (tmp_path / split / folder).mkdir(parents=True)
            image.save(tmp_path / split / folder / "one.png")
    config = composed(f"dataset={name}")
    config.dataset.root = str(tmp_path)
    data = build_data(config, supervised=True)
    assert data.classes == tuple(sorted(classes))
    assert (len(data.pretrain), len(data.train or ()), len(data.test or ())) == (len(classes),) * 3
    assert data.image_size == (node.image_size or 8)
    assert len(data.mean) == len(data.std)
    augment = build_augment(config, data)
    batch_BCHW = next(data.pretrain.images.batches([torch.tensor([0, 1])], torch.device("cpu")))
    views_NCHW = augment(batch_BCHW, views=2, generator=torch.Generator().manual_seed(0))
    assert views_NCHW.shape == (4, 3, data.image_size, data.image_size)
