"""x"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tcl_train.runtime.processes import Processes


def embed_command(words: list[str], processes: Processes | None) -> int:
    return 0
