"""The environments of several processes that train together, as torchrun sets them, for scripts
that start each process themselves."""

from __future__ import annotations

import os
import socket


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
