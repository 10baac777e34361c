"""The commands of docs/evaluation.md, as they stand there, on a tiny run."""

from __future__ import annotations

import re
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tcl_train.cli.choices import config_dir
from tcl_train.cli.main import main_eval

PAGE = config_dir().parent / "docs" / "evaluation.md"
TEXT = PAGE.read_text(encoding="utf-8") if PAGE.exists() else ""
LINES = "".join(re.findall(r"```bash\n(.*?)```", TEXT, re.DOTALL)).splitlines()


@pytest.mark.skipif(not LINES, reason="installed without its docs")
@pytest.mark.parametrize("line", LINES)
def test_a_command_does_what_the_page_says(
    finished: Any, here: Path, command: Callable[..., Any], line: str
) -> None:
    run = shutil.copytree(finished.run_dir.path, here / "outputs" / "run")
    program, *words = shlex.split(line)
    assert program == "tcl-eval"
    outcome = command(*words, main=main_eval)
    assert (outcome.status, outcome.err) == (0, "")
    written = [*(run / "evaluations").glob("*.json"), *here.glob("untrained/result.json")]
    assert len(written) == 1
