"""Pages and freed memory, in processes of their own, since the settings are for a whole process."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from tcl_train.runtime import memory

VARIABLE = "THP_MEM_ALLOC_ENABLE"


def answer(code: str, *words: str) -> str:
    environment = {key: value for key, value in os.environ.items() if key != VARIABLE}
    command = [sys.executable, "-c", code, *words]
    ran = subprocess.run(command, capture_output=True, check=True, text=True, env=environment)
    return ran.stdout.strip()


NEW_PAGES_OF_A_LATER_TENSOR = """
import resource, sys, torch
from tcl_train.runtime.device import Runtime
from tcl_train.runtime.memory import keep_freed_memory
Runtime(device="cpu", precision="fp32", compile=False)
if sys.argv[1] == "kept":
    keep_freed_memory()
for _ in range(20):
    torch.ones(2**24)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
torch.ones(2**24)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc can be told so")
def test_on_a_cpu_freed_memory_serves_the_next_tensor() -> None:
    """64 MiB would be 16,384 pages of 4 KiB, or 32 of 2 MiB where the kernel gives such. It is the
    command that asks for it: a runtime leaves the process of a library's user as it is."""
    kept, given_back = (
        int(answer(NEW_PAGES_OF_A_LATER_TENSOR, what)) for what in ("kept", "given back")
    )
    assert kept < 16 < given_back


def test_another_c_library_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    assert not memory.keep_freed_memory()


@pytest.fixture
def _unset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "")  # so that it is as before in the end
    del os.environ[VARIABLE]


@pytest.mark.usefixtures("_unset")
@pytest.mark.parametrize(
    ("kernel", "asked"),
    [
        ("always [madvise] never", "1"),
        ("[always] madvise never", None),  # given unasked
        ("always madvise [never]", None),
        (None, None),
    ],
)
def test_huge_pages_are_asked_for_where_the_kernel_gives_them(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, kernel: str | None, asked: str | None
) -> None:
    if kernel is not None:
        (tmp_path / "enabled").write_text(kernel)
    monkeypatch.setattr(memory, "_HUGE_PAGES", tmp_path / "enabled")
    memory.ask_for_huge_pages()
    assert os.environ.get(VARIABLE) == asked


def test_what_the_user_has_set_stays(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(VARIABLE, "0")
    (tmp_path / "enabled").write_text("always [madvise] never")
    monkeypatch.setattr(memory, "_HUGE_PAGES", tmp_path / "enabled")
    memory.ask_for_huge_pages()
    assert os.environ[VARIABLE] == "0"


ADVICE_FOR_A_TENSOR = """
import sys
from pathlib import Path
from tcl_train.cli import main as cli
if sys.argv[1] == "command":
    cli.main(["--version"])
import torch
x = torch.ones(2**24)
flags = Path("/proc/self/smaps").read_text().split("VmFlags:")[1:]
print(sum(" hg " in line.splitlines()[0] + " " for line in flags) > 0)
"""


@pytest.mark.skipif(
    not memory._HUGE_PAGES.exists() or "[madvise]" not in memory._HUGE_PAGES.read_text(),
    reason="this kernel is not to be asked",
)
def test_the_commands_tensors_ask_for_huge_pages() -> None:
    assert answer(ADVICE_FOR_A_TENSOR, "command").endswith("True")
    assert answer(ADVICE_FOR_A_TENSOR, "library").endswith("False")
