"""encoder=timm: any image encoder of timm, without its classifier."""

from __future__ import annotations

import builtins
from typing import Any

import pytest
import timm
import torch

from tcl_train.models import resnet8, resnet18, timm_encoder
from tcl_train.models.encoder import Architecture
from tcl_train.models.imagenet import imagenet_weights

# One of each kind: with and without a size of its own, batch norms with activations, layer norms.
MODELS = {
    "resnet10t": 32,
    "resnet18": 224,
    "mobilenetv3_small_050": 32,
    "vit_tiny_patch16_224": 32,
    "convnext_atto": 32,
}


@pytest.mark.parametrize(("name", "size"), MODELS.items())
def test_it_is_timms_model_without_a_classifier(name: str, size: int) -> None:
    encoder = timm_encoder(size, name=name, stem="imagenet").eval()
    assert encoder.training is False
    keys = {"img_size": size} if name.startswith("vit") else {}
    theirs = timm.create_model(name, num_classes=0, **keys).eval()
    theirs.load_state_dict(encoder.state_dict())
    x_NCHW = torch.rand(2, 3, size, size)
    with torch.no_grad():
        features_ND = encoder(x_NCHW)
        torch.testing.assert_close(features_ND, theirs(x_NCHW))
    assert features_ND.shape == (2, encoder.feature_dim)
    assert encoder.architecture[:3] == ("timm", name, "imagenet")
    assert ("img_size" in encoder.architecture.arguments) == name.startswith("vit")


def test_a_vision_transformer_takes_views_of_other_sizes() -> None:
    encoder = timm_encoder(32, name="vit_tiny_patch16_224")
    assert encoder(torch.zeros(2, 3, 48, 48)).shape == (2, 192)


@pytest.mark.parametrize(
    ("size", "stem", "side"),
    [(32, "auto", 32), (32, "padded", 34), (128, "auto", 64), (128, "patch", 64)],
)
def test_a_resnet_takes_another_stem(size: int, stem: str, side: int) -> None:
    encoder: Any = timm_encoder(size, name="resnet18", stem=stem)
    assert encoder.conv1(torch.zeros(1, 3, size, size)).shape[2] == side
    chosen = "small" if size == 32 else "imagenet"
    assert encoder.architecture.stem == (chosen if stem == "auto" else stem)


def test_it_starts_in_training_mode_with_statistics_of_nothing() -> None:
    encoder = timm_encoder(32, name="resnet10t")
    assert all(part.training for part in encoder.modules())
    assert all(x == 0 for key, x in encoder.state_dict().items() if key.endswith("tracked"))


# ------------------------------------------------------------------ what is refused


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({}, "name must be one of timm's, as in encoder.name=resnet18d, got None"),
        ({"name": 18}, "got 18"),
        (
            {"name": "resnet_18"},
            "name=resnet_18: timm has no such model; the nearest are .*resnet18",
        ),
        ({"name": "resnet18.bogus"}, r"resnet18.bogus: .*nearest are .*resnet18\."),
        ({"name": "resnet18", "stem": "cosine"}, "stem must be one of auto, small"),
        ({"name": "convnext_atto", "stem": "small"}, "does not begin with a 7x7 convolution"),
        ({"name": "vit_tiny_patch16_224"}, "cannot encode images of 8 x 8 pixels"),
        ({"name": "inception_v3"}, "cannot encode images of 8 x 8 pixels .*dataset.image_size"),
    ],
    ids=str,
)
def test_a_wrong_value_is_refused(keys: dict[str, Any], said: str) -> None:
    with pytest.raises((ValueError, TypeError), match=said):
        timm_encoder(8, **keys)


def test_without_timm_it_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *args: Any, **keys: Any) -> Any:
        if name == "timm":
            raise ImportError(name)
        return real(name, *args, **keys)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ValueError, match=r"pip install 'tcl-train\[timm\]'"):
        timm_encoder(32, name="resnet18")


# ------------------------------------------------------------------ published weights


def test_published_weights_of_torchvision_are_its_newest(monkeypatch: pytest.MonkeyPatch) -> None:
    urls = []

    def download(url: str, **keys: Any) -> dict[str, Any]:
        urls.append(url)
        return {"fc.bias": torch.ones(3)}

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", download)
    assert list(imagenet_weights(resnet18(224).architecture, 224)) == ["fc.bias"]
    assert "resnet18" in urls[0]


def test_without_a_network_it_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*args: Any, **keys: Any) -> Any:
        raise OSError("no route\nto host")

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", offline)
    monkeypatch.setattr(timm, "create_model", offline)
    for library in ("torchvision", "timm"):
        said = rf"{library} cannot give those of resnet18 \(OSError: no route\); give"
        with pytest.raises(ValueError, match=said):
            imagenet_weights(Architecture(library, "resnet18", "imagenet"), 32)
    with pytest.raises(ValueError, match="none for this encoder"):
        imagenet_weights(resnet8(32).architecture, 32)
    with pytest.raises(ValueError, match="none for this encoder"):
        imagenet_weights(None, 32)
