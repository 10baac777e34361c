"""tcl-export: what is written gives the encoder's features where it is loaded as FILE.json says."""

from __future__ import annotations

import builtins
import json
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from safetensors import safe_open

from tcl_train import __version__, load_encoder
from tcl_train.cli.main import main_export
from tcl_train.models.elsewhere import FORMATS, OF_ANY

TOLERANCE = 1e-5
ENCODERS = {
    "small": ("encoder=resnet18",),
    "imagenet": ("encoder=resnet18", "encoder.stem=imagenet"),
    "padded": ("encoder=resnet18", "encoder.stem=padded"),
    "timm": ("encoder=timm", "encoder.name=resnet10t"),
    "timm of a size": ("encoder=timm", "encoder.name=test_vit"),
}


@pytest.fixture(scope="module")
def trained(untrained_run: Callable[..., Path]) -> Callable[[str], Path]:
    """Runs by the name of their encoder, at their first step."""
    return lambda name: untrained_run(*ENCODERS[name], size=32 if name == "timm of a size" else 8)


@pytest.fixture
def tcl_export(command: Callable[..., Any]) -> Callable[..., Any]:
    return partial(command, main=main_export)


@pytest.fixture
def export_refused(refused: Callable[..., str]) -> Callable[..., str]:
    return partial(refused, main=main_export)


def images(count: int, size: int) -> torch.Tensor:
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(3))


def check_loaded(about: dict[str, Any], run: Path) -> None:
    """By the lines of FILE.json, in the file's folder."""
    scope: dict[str, Any] = {}
    exec("\n".join(about["load"]), scope)
    encoder = load_encoder(run)
    for count in (1, 5):
        x_N3SS = images(count, encoder.image_size)
        given = x_N3SS.numpy() if about["format"] == "onnx" else x_N3SS
        with torch.no_grad():
            found, wanted = torch.as_tensor(scope["model"](given)), encoder(x_N3SS)
        assert found.shape == (count, about["feature_dim"])
        off = (found - wanted).abs().max() / wanted.abs().max()
        assert off < TOLERANCE


def export_and_check(tcl_export: Any, run: Path, format: str, folder: Path) -> dict[str, Any]:
    out = folder / "encoder.it"
    outcome = tcl_export(f"run={run}", f"format={format}", f"out={out}")
    assert (outcome.status, outcome.err) == (0, "")
    assert len(outcome.out.splitlines()) == 1, "the exporter's chatter"
    assert str(out) in outcome.last_line
    about = json.loads(out.with_name("encoder.it.json").read_text())
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        check_loaded(about, run)
    return about


@pytest.mark.filterwarnings("ignore:`torch.jit")
@pytest.mark.parametrize("stem", ["small", "imagenet", "padded"])
@pytest.mark.parametrize("format", ["torchvision", "timm", "safetensors"])
def test_a_resnet_loads_strictly_and_gives_the_same_features(
    stem: str, format: str, trained: Any, tcl_export: Any, tmp_path: Path
) -> None:
    about = export_and_check(tcl_export, trained(stem), format, tmp_path)
    assert (about["architecture"], about["stem"]) == ("resnet18", stem)
    assert any("conv1" in line for line in about["load"]) == (stem != "imagenet")


@pytest.mark.filterwarnings("ignore:`torch.jit")
@pytest.mark.parametrize("name", ["timm", "timm of a size"])
@pytest.mark.parametrize("format", ["timm", "safetensors", "torchscript"])
def test_an_encoder_of_timm_goes_back_there(
    name: str, format: str, trained: Any, tcl_export: Any, tmp_path: Path
) -> None:
    about = export_and_check(tcl_export, trained(name), format, tmp_path)
    assert about["library"] == "timm"


@pytest.mark.filterwarnings("ignore:`torch.jit")
@pytest.mark.parametrize("format", ["safetensors", "torchscript"])
def test_the_thin_family_has_formats_too(
    format: str, finished: Any, tcl_export: Any, tmp_path: Path
) -> None:
    export_and_check(tcl_export, finished.run_dir.path, format, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["thin", "small", "timm of a size"])
def test_onnx_takes_any_number_of_images(
    name: str, finished: Any, trained: Any, tcl_export: Any, tmp_path: Path
) -> None:
    run = finished.run_dir.path if name == "thin" else trained(name)
    about = export_and_check(tcl_export, run, "onnx", tmp_path)
    model = onnx.load(tmp_path / "encoder.it")
    (batch, *rest) = model.graph.input[0].type.tensor_type.shape.dim
    assert batch.dim_param
    assert [dim.dim_value for dim in rest] == [3, about["image_size"], about["image_size"]]
    (stored,) = [p.value for p in model.metadata_props if p.key == "tcl_train"]
    assert json.loads(stored) == about


# ------------------------------------------------------------------ what stands beside it


def test_what_one_needs_to_know_stands_beside_the_file_and_in_it(
    finished: Any, tcl_export: Any, tmp_path: Path
) -> None:
    run = Path(shutil.copytree(finished.run_dir.path, tmp_path / "run"))
    assert tcl_export(f"run={run}", "format=safetensors").status == 0
    path = run / "exports" / "encoder.safetensors"
    about = json.loads(path.with_name("encoder.safetensors.json").read_text())
    encoder = load_encoder(run)
    assert about["mean"] == [encoder.mean[0]] * 3  # the digits are grey
    assert about["std"] == [encoder.std[0]] * 3
    assert (about["image_size"], about["feature_dim"], about["stem"]) == (8, 16, "small")
    assert about["classes"] == [str(i) for i in range(10)]
    assert about["tcl_train_version"] == __version__
    with safe_open(path, "pt") as file:
        assert json.loads(file.metadata()["tcl_train"]) == about


@pytest.mark.filterwarnings("ignore:`torch.jit")
def test_torchscript_has_it_inside(finished: Any, tcl_export: Any, tmp_path: Path) -> None:
    words = f"run={finished.run_dir}", "format=torchscript", f"out={tmp_path / 'it.pt'}"
    assert tcl_export(*words).status == 0
    inside = {"tcl_train.json": ""}
    torch.jit.load(tmp_path / "it.pt", _extra_files=inside)
    assert json.loads(inside["tcl_train.json"])["image_size"] == 8


# ------------------------------------------------------------------ what is refused


def test_nothing_is_written_over_unless_that_is_said(
    finished: Any, tcl_export: Any, export_refused: Any, tmp_path: Path
) -> None:
    words = f"run={finished.run_dir}", "format=safetensors", f"out={tmp_path / 'it'}"
    assert tcl_export(*words).status == 0
    assert "it: is already there" in export_refused(*words)
    assert tcl_export(*words, "overwrite=true").status == 0


@pytest.mark.parametrize("format", ["torchvision", "timm"])
def test_the_thin_family_is_in_no_library(format: str, finished: Any, export_refused: Any) -> None:
    line = export_refused(f"run={finished.run_dir}", f"format={format}")
    assert f"{format} does not have the resnet8" in line
    assert ", ".join(OF_ANY) in line


def test_an_encoder_of_timm_is_not_in_torchvision(trained: Any, export_refused: Any) -> None:
    line = export_refused(f"run={trained('timm')}", "format=torchvision")
    assert "give one of timm, safetensors" in line


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["format=onnx"], ["run is not set", "tcl-export run=DIR format=torchvision"]),
        (["run=RUN"], ["format is not set"]),
        (["run=RUN", "format=keras"], ["format=keras", *FORMATS]),
        (["run=nowhere", "format=onnx"], ["nowhere: contains no run"]),
        (["run=RUN", "format=onnx", "file=x"], ["file=x: no such key"]),
        (["run=RUN", "format=onnx", "out=nowhere/x"], ["out=nowhere/x", "no folder nowhere"]),
        (["run=RUN", "format=onnx", "out=."], ["is a folder; give a file"]),
    ],
    ids=lambda value: " ".join(value) if "=" in value[0] else "",
)
def test_a_bad_request_is_refused_in_one_line(
    words: list[str], named: list[str], finished: Any, export_refused: Any
) -> None:
    line = export_refused(*(word.replace("RUN", str(finished.run_dir)) for word in words))
    assert not [part for part in named if part not in line], line


@pytest.mark.parametrize("format", ["safetensors", "onnx"])
def test_a_missing_library_is_named_with_the_command_that_installs_it(
    format: str,
    finished: Any,
    export_refused: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    real = builtins.__import__

    def without(name: str, *args: Any, **keys: Any) -> Any:
        if name.split(".")[0] == format:
            raise ImportError(name)
        return real(name, *args, **keys)

    monkeypatch.setattr(builtins, "__import__", without)
    words = f"run={finished.run_dir}", f"format={format}", f"out={tmp_path / 'it'}"
    assert "pip install 'tcl-train[export]'" in export_refused(*words)


def test_help_says_what_it_does(tcl_export: Any) -> None:
    for words in ([], ["--help"]):
        outcome = tcl_export(*words)
        assert outcome.status == 0
        assert "tcl-export run=DIR format=FORMAT" in outcome.out
