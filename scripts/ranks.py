"""Several processes that work together, in environments as torchrun sets them, for scripts that
start each process themselves."""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path


def environments(count: int, *, threads: int) -> list[dict[str, str]]:
    """One for each process; a single process needs no place among others."""
    common = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    if count == 1:
        return [common]
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    common |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    common |= {"WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count)}
    return [{**common, "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(count)]


class Ranks:
    """Running processes, which answer each line of standard input with one of standard output."""

    def __init__(
        self,
        command: Sequence[str],
        *,
        count: int = 1,
        threads: int,
        environment: Mapping[str, str] | None = None,
        folder: Path | None = None,
    ) -> None:
        """environment: what they have besides. folder: where they work; None: here."""
        self._processes = [
            subprocess.Popen(
                command,
                env=own | dict(environment or {}),
                cwd=folder,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            for own in environments(count, threads=threads)
        ]

    def ask(self, line: str) -> list[str]:
        """The answer of each."""
        for process in self._processes:
            print(line, file=process.stdin, flush=True)
        answers = [process.stdout.readline() for process in self._processes if process.stdout]
        if not all(answers):
            raise RuntimeError("one of the processes has ended; see what it has printed")
        return answers

    def end(self) -> list[str]:
        """What each prints after its input's end; the first one, whose store the others use, ends
        last."""
        return [process.communicate()[0] for process in reversed(self._processes)][::-1]
