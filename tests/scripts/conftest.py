"""What tests of scripts share."""

from __future__ import annotations

from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[2] / "scripts"


@pytest.fixture
def on_path(monkeypatch: pytest.MonkeyPatch) -> None:
    """Modules of scripts/ can be imported."""
    monkeypatch.syspath_prepend(str(SCRIPTS))
