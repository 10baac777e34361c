"""How the process gets memory from the operating system.

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
    """Makes torch request pages of 2 MiB for large tensors, where the kernel grants them on
    request. torch reads this once: it must be called before the first tensor is made. A value that
    the user has set is kept."""
    try:
        chosen = _HUGE_PAGES.read_text()
    except OSError:
        return
    if "[madvise]" in chosen:
        os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")


def keep_freed_memory() -> bool:
    """Keeps freed memory for reuse instead of returning it to the system (glibc). Returns whether
    that worked.

    The price: the process holds the most that it ever used, and somewhat more, since blocks of
    different sizes leave gaps.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return bool(mallopt(_M_MMAP_MAX, 0) and mallopt(_M_TRIM_THRESHOLD, -1))
