"""How the process gets memory from the system.

A training step on a CPU frees and asks again for tensors of many megabytes. By default each comes
as new pages of 4 KiB, which the kernel clears one by one when they are first touched, and that can
take longer than what is then computed.
"""

from __future__ import annotations

import ctypes
import os
import platform
from pathlib import Path

_HUGE_PAGES = Path("/sys/kernel/mm/transparent_hugepage/enabled")
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # of glibc's malloc.h


def ask_for_huge_pages() -> None:
    """Has torch ask for pages of 2 MiB for large tensors, where the kernel gives them to those who
    ask. torch reads this once: it must be called before the first tensor is made. What the user
    has set stays."""
    try:
        chosen = _HUGE_PAGES.read_text()
    except OSError:
        return
    if "[madvise]" in chosen:
        os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")


def keep_freed_memory() -> bool:
    """Has glibc keep freed memory for the next tensor instead of giving it back to the system;
    whether that could be set.

    The price: the process holds the most that it ever used, and somewhat more, since blocks of
    different sizes leave gaps.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return bool(mallopt(_M_MMAP_MAX, 0) and mallopt(_M_TRIM_THRESHOLD, -1))
