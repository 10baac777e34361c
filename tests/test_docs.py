"""The code of docs/extending.md, run as it stands."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tcl_train.cli.choices import config_dir
from tcl_train.run.directory import RunDir

PAGE = config_dir().parent / "docs" / "extending.md"
pytestmark = pytest.mark.skipif(not PAGE.exists(), reason="installed without its docs")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)


def test_a_method_of_ones_own_trains_resumes_and_is_evaluated(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    command: Callable[..., Any],
    tiny_words: Callable[..., list[str]],
) -> None:
    (code,), (yaml,), (line,) = blocks("python"), blocks("yaml"), blocks("bash")
    (tmp_path / "align_uniform.py").write_text(code)
    (tmp_path / "method").mkdir()
    (tmp_path / "method" / "align_uniform.yaml").write_text(yaml)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    path, program, *words = shlex.split(line)
    assert (path, program) == ("PYTHONPATH=.", "tcl-train")
    outcome = command(*tiny_words(*words, "epochs=2", "hydra.run.dir=run"))
    assert outcome.status == 0, outcome.err
    result = RunDir("run").read_result()
    assert result["method"] == {"name": "align_uniform", "weight": 1.0}
    assert result["loss"]["name"] == "of_method"
    assert not result["supervised"]
    assert result["top1"] > 30
    more = "resume=run", "resume_extend=true", "epochs=3"
    refused = command(*more)
    assert refused.status == 2
    assert "trust=align_uniform" in refused.err
    assert command(*more, "trust=align_uniform").status == 0
    state = torch.load(RunDir("run").last_checkpoint, weights_only=False)
    assert state["step"] == 3 * 5
