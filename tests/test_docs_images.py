"""The commands of docs/images.md, run as they stand, on a run and a folder of images."""

from __future__ import annotations

import re
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tcl_train.cli.choices import config_dir
from tcl_train.cli.main import main_embed, main_export

PAGE = config_dir().parent / "docs" / "images.md"
pytestmark = pytest.mark.skipif(not PAGE.exists(), reason="installed without its docs")
COMMANDS = {"tcl-embed": main_embed, "tcl-export": main_export}


def test_every_command_runs(
    here: Path,
    command: Callable[..., Any],
    untrained_run: Callable[..., Path],
    write_images: Callable[..., Path],
) -> None:
    run = shutil.copytree(untrained_run("encoder=resnet18"), here / "run")
    places = {"RUN": run, "FOLDER": write_images(here / "it", {"a": 4})}
    places["IMAGE"] = places["FOLDER"] / "a" / "1.png"
    text = PAGE.read_text(encoding="utf-8")
    blocks = re.findall(r"```bash\n(.*?)```", text, re.DOTALL)
    lines = [shlex.split(line) for block in blocks for line in block.splitlines()]
    assert len(lines) == 5
    for program, *words in lines:
        for name, place in places.items():
            words = [re.sub(rf"={name}$", f"={place}", word) for word in words]
        outcome = command(*words, main=COMMANDS[program])
        assert (outcome.status, outcome.err) == (0, ""), outcome.err
