"""Imports point one way: cli, commands, building, everything; what only computes knows nobody.

The rules are read from the source, so that an import inside a function counts, too.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import tcl_train

PACKAGE = Path(tcl_train.__file__).parent
MODULES = sorted(PACKAGE.rglob("*.py"))

# The rooms of the house, from what is typed down to what everything rests on. A room may import
# those on the lines below its own, never one above or beside it.
LEVELS = (
    {"__main__"},
    {"cli"},
    {"commands"},
    {"report"},
    {"build_evaluation"},
    {"restore"},
    {"building"},
    {"evaluation"},
    {"engine"},
    {"methods"},
    {"data", "losses", "models"},
    {"run"},
    {"runtime"},
    {"checks", "autograd"},
    {"errors"},
)
ROOMS = set().union(*LEVELS)
# Whoever wants only a loss or only an encoder gets no files, no devices and no random state.
ONLY_CHECKS = ("losses", "models")


def module_name(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def modules_imported(source: str, name: str, is_package: bool = False) -> set[str]:
    """All dotted names that a module's source may import, some of them not of modules."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = name.split(".")[: None if is_package else -1]
            base = above[: len(above) - node.level + 1] if node.level else []
            origin = ".".join([*base, *([node.module] if node.module else [])])
            found |= {origin, *(f"{origin}.{alias.name}" for alias in node.names)}
    return found


def parts_imported(source: str, name: str, *, is_package: bool = False) -> set[str]:
    """The rooms of the package that a module's source imports, its own left out."""
    # `from tcl_train import checks` imports a room; `from tcl_train.checks import x` does not
    # import `tcl_train.checks.x`, but the first two words are what counts.
    words = [module.split(".") for module in modules_imported(source, name, is_package)]
    parts = {w[1] for w in words if w[0] == "tcl_train" and len(w) > 1}
    return {part for part in parts if not part.startswith("__")} - {*name.split(".")[1:2]}


@pytest.mark.parametrize(
    ("source", "parts"),
    [
        ("import torch", set()),
        ("import tcl_train.engine.fit as f", {"engine"}),
        ("from tcl_train import checks, data", {"checks", "data"}),
        ("from tcl_train import __version__", set()),
        ("from tcl_train.engine.fit import fit", {"engine"}),
        ("from tcl_train.losses import dense", set()),
        ("def f():\n    from tcl_train.cli.main import main", {"cli"}),
        ("from .. import models", {"models"}),
        ("from ..models.resnet import resnet8", {"models"}),
        ("from . import dense", set()),
        ("from .dense import pairs", set()),
    ],
)
def test_imports_are_read_from_the_source(source, parts):
    assert parts_imported(source, "tcl_train.losses.tcl") == parts


def test_imports_of_a_folder_itself_are_read_from_the_source():
    name = "tcl_train.losses"
    assert parts_imported("from . import tcl", name, is_package=True) == set()
    assert parts_imported("from ..data import images", name, is_package=True) == {"data"}


def imports_of(path: Path) -> set[str]:
    source = path.read_text(encoding="utf-8")
    return parts_imported(source, module_name(path), is_package=path.stem == "__init__")


def test_every_room_has_its_level():
    there = {path.relative_to(PACKAGE).parts[0].removesuffix(".py") for path in MODULES}
    assert there - {"__init__"} == ROOMS


@pytest.mark.parametrize("path", MODULES, ids=module_name)
def test_imports_point_down(path):
    room = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    if room == "__init__":  # gives load_encoder when it is asked for
        return
    level = next(i for i, rooms in enumerate(LEVELS) if room in rooms)
    below = set().union(*LEVELS[level + 1 :])
    assert imports_of(path) <= below
    if room in ONLY_CHECKS:
        assert imports_of(path) <= {"checks", "autograd"}


def test_no_two_modules_import_each_other_in_a_circle():
    names = {module_name(path): path for path in MODULES}
    imported = {}
    for name, path in names.items():
        found = modules_imported(path.read_text(encoding="utf-8"), name, path.stem == "__init__")
        modules = {module for module in found if module in names}
        # `from tcl_train.losses import blockwise` needs that module, not what else is named there.
        precise = {m for m in modules if not any(other.startswith(f"{m}.") for other in modules)}
        imported[name] = precise - {name}
    while imported:
        leaves = {name for name, others in imported.items() if not others & imported.keys()}
        assert leaves, f"a circle among {sorted(imported)}"
        imported = {name: others for name, others in imported.items() if name not in leaves}


def test_no_module_is_called_what_says_nothing():
    names = {path.stem for path in MODULES}
    assert not names & {"utils", "util", "helpers", "common", "misc"}


def after(statement: str) -> set[str]:
    """The top-level modules that are loaded after a statement in a fresh interpreter."""
    code = f"{statement}\nimport sys\nprint(*{{m.split('.')[0] for m in sys.modules}})"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120
    )
    assert done.stderr == ""
    return set(done.stdout.split())


@pytest.mark.parametrize("name", ["tcl_train", "tcl_train.cli.main", "tcl_train.cli.compose"])
def test_help_does_not_wait_for_torch(name):
    loaded = after(f"import {name}")
    assert "tcl_train" in loaded
    assert not loaded & {"torch", "torchvision", "sklearn", "numpy", "tensorboard"}


def test_the_package_loads_nothing_but_the_standard_library():
    assert not after("import tcl_train") - {"tcl_train"} - set(sys.stdlib_module_names) - after("")


STEP = """
import torch
from tcl_train.engine.optimizers import adamw, lars, sgd
from tcl_train.losses import TCL
from tcl_train.models import mlp, resnet8
import tcl_train.data.augment, tcl_train.data.folder, tcl_train.data.named
encoder = resnet8(8, width=4)
projector = mlp(encoder.feature_dim)
for make in (sgd, adamw, lars):
    optimizer = make(torch.nn.Sequential(encoder, projector), 0.1)
    optimizer.zero_grad()
    z_ND = projector(encoder(torch.rand(4, 3, 8, 8)))
    TCL(tau=0.1, k1=5.0, k2=1.0)(z_ND, torch.tensor([0, 0, 1, 1])).backward()
    optimizer.step()
    optimizer.load_state_dict(optimizer.state_dict())
assert "torch._dynamo" not in sys.modules
"""


def test_a_step_of_a_thin_encoder_waits_neither_for_torchvision_nor_for_torchs_compiler():
    """Each takes two seconds to load, at the start of every run."""
    assert "torchvision" not in after(f"import sys{STEP}")


WHOLE_RUNS = """
import sys
from tcl_train.cli.main import main
for words in {}:
    sys.argv = ["tcl-train", *words]
    assert main() == 0
assert "torch._dynamo" not in sys.modules
"""


def test_whole_runs_do_not_wait_for_torchs_compiler(tiny_words, tmp_path):
    of_probes = {
        "lbfgs": (),
        "sgd": ("probe.epochs=1",),
        "finetune": ("probe.epochs=1", "probe.min_steps=0"),
    }
    after(
        WHOLE_RUNS.format(
            [
                tiny_words(f"probe={probe}", *words, f"hydra.run.dir={tmp_path / probe}")
                for probe, words in of_probes.items()
            ]
        )
    )


def test_load_encoder_is_there_when_asked_for():
    assert callable(tcl_train.load_encoder)
    with pytest.raises(AttributeError, match="module 'tcl_train' has no attribute 'load_decoder'"):
        _ = tcl_train.load_decoder
