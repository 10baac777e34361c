"""Files of weights are read without carrying out anything that is stored in them."""

from __future__ import annotations

import argparse
import builtins
import functools
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from safetensors.torch import save_file

from tcl_train.errors import RequestError
from tcl_train.run.weights_file import Ignored, read_weights

STATE = {"conv1.weight": torch.ones(2, 3)}
CONFIG = OmegaConf.create({"optimizer": {"lr": 0.1, "betas": [0.9, None]}, "name": "byol"})


def schedule_of_simsiam() -> dict[str, Any]:
    """With a method of an object that holds the optimiser and its state."""
    parameter = torch.nn.Parameter(torch.ones(2))
    optimizer = torch.optim.SGD([parameter], lr=0.1, momentum=0.9)
    parameter.sum().backward()
    optimizer.step()
    return {"lr_schedulers": [{"get_lr": functools.partial(optimizer.step)}]}


BESIDE = {
    "settings of SupContrast": {"opt": argparse.Namespace(lr=0.1, betas=(0.9,))},
    "config of solo-learn": {"hyper_parameters": CONFIG},
    "schedule of solo-learn's SimSiam": schedule_of_simsiam(),
    "plain data": {"epoch": 3, "optimizer": {"state": {0: torch.ones(1)}}},
}


@pytest.mark.parametrize("beside", BESIDE)
def test_checkpoints_with_plain_data_are_read(beside: str, tmp_path: Path) -> None:
    path = tmp_path / "it.pth"
    torch.save({"model": STATE, **BESIDE[beside]}, path)
    assert torch.equal(read_weights(str(path))["model"]["conv1.weight"], STATE["conv1.weight"])


def test_safetensors_are_read(tmp_path: Path) -> None:
    save_file(STATE, tmp_path / "it.safetensors")
    found = read_weights(str(tmp_path / "it.safetensors"))
    assert torch.equal(found["conv1.weight"], STATE["conv1.weight"])


class Code:
    def __reduce__(self) -> Any:
        return os.mkdir, ("carried-out",)


def test_code_is_not_carried_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"model": STATE, "more": Code()}, "it.pt")
    with pytest.raises(RequestError, match=r"weights=it.pt: holds \S*mkdir, code that is not run"):
        read_weights("it.pt")
    assert not Path("carried-out").exists()


def test_what_is_not_needed_is_ignored(tmp_path: Path) -> None:
    path = tmp_path / "it.ckpt"
    torch.save({"state_dict": STATE, **schedule_of_simsiam()}, path)
    assert type(read_weights(str(path))["lr_schedulers"][0]["get_lr"]) is Ignored
    torch.save({"state_dict": STATE, "more": functools.partial(Code)}, path)
    with pytest.raises(RequestError, match=r"holds \S*Code, code that is not run"):
        read_weights(str(path))


def test_what_holds_no_weights_is_refused(tmp_path: Path) -> None:
    for name, content, said in [
        ("text.pt", b"hello", "not a file of weights"),
        ("empty.pt", b"", "not a file of weights"),
        ("cut.safetensors", b"hello", "not a whole safetensors file"),
    ]:
        (tmp_path / name).write_bytes(content)
        with pytest.raises(RequestError, match=rf"encoder.weights=\S*{name}: {said}"):
            read_weights(str(tmp_path / name))
    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(RequestError, match=r"holds no dictionary of weights; store"):
        read_weights(str(tmp_path / "list.pt"))
    with pytest.raises(RequestError, match="no such file or run; give imagenet, a FILE"):
        read_weights(str(tmp_path / "nothing.pt"))
    with pytest.raises(RequestError, match="contains no run"):
        read_weights(str(tmp_path))


def test_without_safetensors_it_says_how_to_install_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "it.safetensors"
    path.touch()
    real = builtins.__import__

    def without(name: str, *args: Any, **keys: Any) -> Any:
        if name.startswith("safetensors"):
            raise ImportError(name)
        return real(name, *args, **keys)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(RequestError, match=r"pip install 'tcl-train\[export\]'"):
        read_weights(str(path))
