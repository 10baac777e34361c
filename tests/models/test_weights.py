"""Weights from elsewhere: each layout leads to the same encoder; what does not fit is refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from torch import Tensor, nn
from torchvision.models import resnet

from tcl_train.models import resnet8, resnet18, resnet20
from tcl_train.models.weights import by_part, encoder_state, is_padded, load_weights, what_fits

State = dict[str, Any]


def trained(stem: str = "small", **keys: Any) -> nn.Module:
    """With other values than a new one: of its statistics, too."""
    encoder = resnet18(32, stem=stem, **keys)
    g = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for x in encoder.state_dict().values():
            if x.is_floating_point():
                x.add_(0.01 * torch.rand(x.shape, generator=g))
    return encoder


@pytest.fixture(scope="module")
def encoder() -> nn.Module:
    return trained()


def prefixed(state: State, prefix: str) -> State:
    return {f"{prefix}{key}": x for key, x in state.items()}


HEAD = {"weight": torch.ones(3, 512), "bias": torch.ones(3)}


def as_supcontrast(state: State) -> State:
    renamed = {key.replace("downsample", "shortcut"): x for key, x in state.items()}
    return {"model": {**prefixed(renamed, "encoder.module."), **prefixed(HEAD, "head.0.")}}


def as_solo_learn(state: State) -> State:
    projector = prefixed(HEAD, "projector.0.")
    momentum = {f"momentum_backbone.{key}": torch.zeros_like(x) for key, x in state.items()}
    both = {**momentum, **prefixed(state, "backbone."), **projector}
    both |= prefixed(HEAD, "classifier.")
    return {"state_dict": both, "epoch": 3, "hyper_parameters": {"lr": 0.1}}


def as_lightly(state: State) -> State:
    whole = resnet.resnet18()
    whole.conv1, whole.maxpool = nn.Conv2d(3, 64, 3, padding=1, bias=False), nn.Identity()
    whole.load_state_dict({**state, **prefixed(whole.fc.state_dict(), "fc.")})
    backbone = nn.Sequential(*list(whole.children())[:-1])
    both = {**prefixed(backbone.state_dict(), "backbone."), **prefixed(HEAD, "projection_head.")}
    return {"state_dict": both}


LAYOUTS: dict[str, Callable[[State], State]] = {
    "plain": lambda state: state,
    "torchvision": lambda state: {**state, **prefixed(HEAD, "fc.")},
    "tcl-train": lambda state: {"method": {**prefixed(state, "encoder."), "projector.0.bias": 1}},
    "SupContrast": as_supcontrast,
    "SupContrast on one GPU": lambda state: {"model": prefixed(state, "encoder.")},
    "solo-learn": as_solo_learn,
    "lightly": as_lightly,
    "MoCo": lambda state: {
        "state_dict": {
            **prefixed(state, "module.encoder_q."),
            **{f"module.encoder_k.{key}": torch.zeros_like(x) for key, x in state.items()},
        }
    },
    "parallel": lambda state: prefixed(state, "module."),
    "compiled": lambda state: prefixed(state, "_orig_mod."),
    "half": lambda state: {k: x.double() if x.ndim else x for k, x in state.items()},
    "without counters": lambda state: {k: x for k, x in state.items() if x.ndim},
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_each_layout_gives_the_same_features(layout: str, encoder: nn.Module) -> None:
    other = resnet18(32)
    load_weights(other, LAYOUTS[layout](encoder.state_dict()))
    x_NCHW = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(other.eval()(x_NCHW), encoder.eval()(x_NCHW))


@pytest.mark.parametrize(
    ("layout", "skipped"),
    [
        ("plain", []),
        ("torchvision", ["fc.weight", "fc.bias"]),
        ("SupContrast", ["head.0.weight", "head.0.bias"]),
        ("lightly", ["projection_head.weight", "projection_head.bias"]),
    ],
)
def test_every_skipped_key_is_named(layout: str, skipped: list[str], encoder: nn.Module) -> None:
    assert load_weights(resnet18(32), LAYOUTS[layout](encoder.state_dict())) == skipped


def test_skipped_keys_are_named_by_their_part_where_they_are_many() -> None:
    keys = ["module.fc.weight", "module.fc.bias", *(f"module.head.{i}.weight" for i in range(3))]
    assert by_part([*keys, "queue"]) == [*keys[:2], "head.* (3 keys)", "queue"]
    of_moco = [f"module.encoder_q.fc.{i}.{x}" for i in (0, 2) for x in ("weight", "bias")]
    assert by_part(of_moco) == ["encoder_q.fc.* (4 keys)"]


def test_odd_files_are_refused_as_weights_that_do_not_fit(encoder: nn.Module) -> None:
    endless: dict[str, Any] = {}
    endless["state_dict"] = endless
    flat = {"backbone.conv1.weight": torch.tensor(1.0), "classifier.weight": torch.ones(1)}
    config = OmegaConf.create({"state_dict": {"home": "${oc.env:HOME}"}})
    for stored in (endless, flat, {"model": config}):
        with pytest.raises(ValueError, match=r"; give |there is no encoder in it"):
            load_weights(resnet18(32), stored)
        assert not is_padded(stored)


def test_a_teacher_is_not_taken_for_the_student(encoder: nn.Module) -> None:
    own = encoder.state_dict()
    state, skipped = encoder_state(as_solo_learn(own), own.keys())
    assert torch.equal(state["conv1.weight"], own["conv1.weight"])
    assert len(skipped) == len(own) + 4


def test_nothing_is_loaded_where_something_is_missing(encoder: nn.Module) -> None:
    other, state = resnet18(32), dict(encoder.state_dict())
    before = {key: x.clone() for key, x in other.state_dict().items()}
    del state["layer4.1.bn2.bias"]
    with pytest.raises(ValueError, match=r"lacks layer4\.1\.bn2\.bias of this encoder"):
        load_weights(other, state)
    assert all(torch.equal(x, before[key]) for key, x in other.state_dict().items())


@pytest.mark.parametrize(
    ("make", "problem", "fitting"),
    [
        (
            lambda: resnet18(224),
            r"conv1.weight is \(64, 3, 7, 7\) there and \(64, 3, 3, 3\) here",
            "encoder=resnet18 encoder.stem=imagenet",
        ),
        (
            lambda: resnet.resnet34(),
            "layer1.2.conv1.weight and .* which this encoder lacks|is .* there",
            "encoder=resnet34 encoder.stem=imagenet",
        ),
        (lambda: resnet18(32, norm="group"), "lacks bn1.running_mean", "encoder.norm=group"),
        (
            lambda: resnet20(32, width=8),
            "lacks",
            "encoder=resnet20 encoder.width=8 encoder.stem=sm",
        ),
        (lambda: nn.ModuleDict({"conv1": nn.Linear(2, 2)}), "lacks", "the encoder and the stem"),
    ],
    ids=["stem", "deeper", "norm", "thin", "foreign"],
)
def test_weights_of_another_encoder_are_refused_with_what_would_fit(
    make: Callable[[], nn.Module], problem: str, fitting: str
) -> None:
    with pytest.raises(ValueError, match=f"({problem}).*; give .*{fitting}"):
        load_weights(resnet18(32), make().state_dict())


@pytest.mark.parametrize(
    ("layout", "stem", "fitting"),
    [
        ("solo-learn", "small", "padded"),
        ("solo-learn", "imagenet", "imagenet"),
        ("lightly", "small", "small"),
        ("SupContrast", "small", "small"),
    ],
)
def test_the_stem_that_would_fit_is_that_of_the_library(
    layout: str, stem: str, fitting: str, encoder: nn.Module
) -> None:
    state = encoder.state_dict() if stem == "small" else trained(stem).state_dict()
    stored = LAYOUTS[layout](state)
    other = resnet18(32, stem="imagenet" if stem == "small" else "small")
    with pytest.raises(ValueError, match=rf"give encoder=resnet18 encoder\.stem={fitting}$"):
        load_weights(other, stored)
    assert is_padded(stored) == (fitting == "padded")


def test_a_deeper_encoder_is_not_cut_down() -> None:
    with pytest.raises(ValueError, match=r"layer1\.1\..*encoder=resnet20 encoder.width=16"):
        load_weights(resnet8(32), resnet20(32).state_dict())


@pytest.mark.parametrize("stored", [{}, {"epoch": 3}, {"head.weight": torch.ones(2)}])
def test_what_holds_no_encoder_is_refused(stored: dict[str, Tensor]) -> None:
    with pytest.raises(ValueError, match="there is no encoder in it"):
        load_weights(resnet8(32), stored)


def test_what_fits_knows_the_bottlenecks() -> None:
    with torch.device("meta"):
        assert what_fits(resnet.resnet101().state_dict()) == (
            "encoder=resnet101 encoder.stem=imagenet"
        )
        assert what_fits(resnet.resnet50().state_dict()) == "encoder=resnet50 encoder.stem=imagenet"
        assert what_fits(resnet.resnet152().state_dict()) is None
