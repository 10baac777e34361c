"""Several processes that train as one: the same losses and the same parameters as one process.

The images and labels of each process are its own share of the batch, which has more of some classes
than of others.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import DictConfig, OmegaConf

from tcl_train.cli.choices import choices

WORKER = Path(__file__).with_name("one_of_several.py")
TOLERANCE = {"float32": 1e-5, "float64": 1e-10}
LARGEST = {"float32": 2, "float64": 4}  # number of processes; of methods without labels two
# At higher rates five steps make more of the last digits of float32.
LR = {"float32": 1e-3, "float64": 0.03}
COMMON = ("batch_size=32", "views=2")
SETTINGS = {
    **{f"loss {loss}": (f"loss={loss}",) for loss in choices("loss") if loss != "of_method"},
    "class rows": ("method=class_rows",),
    "without labels": ("supervised=false", "loss=ntxent"),
    "chunks": ("chunk_size=8",),
    "chunks and group norm": ("chunk_size=8", "encoder.norm=group"),
    "a last chunk that is smaller": ("chunk_size=12", "method=class_rows", "loss=supcon"),
    "batch norms of timm": ("encoder=timm", "encoder.name=test_efficientnet"),
    "muon": ("optimizer=muon",),
    "several sizes": ("multicrop=small", "multicrop.small.count=2", "chunk_size=16"),
    "small blocks": ("loss=tcl",),
    "small blocks of hard negatives": ("loss=hard",),
}
RECIPES = ("simclr", "mocov2", "byol", "simsiam", "barlow_twins", "vicreg", "swav", "dino", "nnclr")
SETTINGS |= {
    **{f"method {name}": () for name in RECIPES},
    "method swav of several sizes": ("multicrop=small", "multicrop.small.count=2"),
    "method byol in chunks": ("chunk_size=8",),
}
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]  # for all of them are trained at once


def counts(setting: str, dtype: str) -> list[int]:
    """The numbers of processes that a setting is trained with."""
    largest = 2 if setting.startswith("method") else LARGEST[dtype]
    return [count for count in (1, 2, 4) if count <= largest]


Trained = dict[tuple[str, str, int], dict[str, Any]]


@pytest.fixture(scope="module")
def trained(
    tmp_path_factory: pytest.TempPathFactory,
    compose_tiny: Callable[..., DictConfig],
    recipes: dict[str, list[str]],
) -> Trained:
    """What each setting gives in each precision, by the number of processes."""
    assert set(RECIPES) == recipes.keys()
    folder = tmp_path_factory.mktemp("processes")

    def composed(setting: str, dtype: str) -> DictConfig:
        of_method = recipes[setting.split()[1]] if setting.startswith("method") else []
        words = *COMMON, f"lr={LR[dtype]}", *of_method, *SETTINGS[setting]
        return compose_tiny(*words)

    jobs = {
        (setting, dtype): json.dumps(
            {
                "name": f"{setting}-{dtype}".replace(" ", "-"),
                "config": OmegaConf.to_yaml(composed(setting, dtype)),
                "float64": dtype == "float64",
                "small_blocks": setting.startswith("small blocks"),
            }
        )
        for setting in SETTINGS
        for dtype in TOLERANCE
    }
    for count in (1, 2, 4):
        of_count = [job for names, job in jobs.items() if count in counts(*names)]
        running = [
            subprocess.Popen(
                [sys.executable, str(WORKER), str(folder), str(rank), str(count), *of_count],
                stderr=subprocess.PIPE,
                text=True,
            )
            for rank in range(count)
        ]
        for process in running:
            _, err = process.communicate(timeout=600)
            assert process.returncode == 0, err
    return {
        (setting, dtype, count): torch.load(folder / f"{json.loads(job)['name']}-{count}.pt")
        for (setting, dtype), job in jobs.items()
        for count in counts(setting, dtype)
    }


def difference(one: dict[str, Any], other: dict[str, Any]) -> float:
    """The largest of any parameter or statistic, as a share of the tensor's largest value."""
    assert one.keys() == other.keys()
    shares = []
    for name in one.keys() - {"losses"}:
        a, b = one[name].double(), other[name].double()
        shares.append(((a - b).abs().max() / b.abs().max().clamp(min=1e-3)).item())
    return max(shares)


@pytest.mark.parametrize(
    ("setting", "dtype", "count"),
    [(s, dtype, n) for s in SETTINGS for dtype in TOLERANCE for n in counts(s, dtype) if n > 1],
)
def test_several_processes_train_as_one(
    setting: str, dtype: str, count: int, trained: Trained
) -> None:
    alone, together = (trained[setting, dtype, n] for n in (1, count))
    assert together["losses"] == pytest.approx(alone["losses"], rel=TOLERANCE[dtype])
    # Projectors and predictors with batch norms make more of the last digits of float32, and so do
    # the thirteen batch norms of timm's encoder, some of them over one pixel an image.
    more = 3 if setting.startswith("method") else 10 if "timm" in setting else 1
    several = more if dtype == "float32" else 1
    assert difference(together, alone) < several * TOLERANCE[dtype]


def test_the_comparison_would_see_another_run(trained: Trained) -> None:
    one, other = (trained[f"loss {loss}", "float64", 1] for loss in ("supcon", "ntxent"))
    assert difference(one, other) > 1e-2


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_parameters_have_moved(dtype: str, trained: Trained) -> None:
    for setting in SETTINGS:
        losses = trained[setting, dtype, 1]["losses"]
        assert len(set(losses)) == len(losses), setting
