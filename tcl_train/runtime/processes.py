"""Several processes that train as one.

`torchrun` starts them and says which is which. They talk by torch.distributed (gloo between CPUs,
NCCL between GPUs) and leave each other notes in its store. A single process is the same with nobody
to talk to.
"""

from __future__ import annotations

import json
import os
import socket
import time
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from tcl_train.errors import CommandError, Interrupted, RequestError, TrainingError, signum_of
from tcl_train.runtime.heartbeat import SECONDS_OF_SILENCE, Heartbeat
from tcl_train.runtime.signals import as_interruption, ignored

SECONDS_BETWEEN_LOOKS = 0.05
SECONDS_TO_SAY_WHY = 3.0  # for a process that has ended, to have left a note
SECONDS_TO_COME = 15.0  # for one that is at work, to notice that another has failed
TIME_TO_JOIN = timedelta(minutes=5)
LARGE = 2**15  # numbers in a tensor that is sent separately
FAILURE = "failure"
SPEAKER = "speaker"
LEFT = "left"  # by how many processes


@dataclass(frozen=True)
class Processes:
    """This process's place (`rank`) among `count`; `local_rank` among those of its machine."""

    rank: int = 0
    count: int = 1
    local_rank: int = 0
    local_count: int = 1
    store: Any = None
    heartbeat: Heartbeat | None = None
    _asked: dict[str, int] = field(default_factory=dict, compare=False)

    def __deepcopy__(self, memo: dict[int, Any]) -> Processes:
        """A copy of a module that asks them asks the same ones."""
        return self

    @property
    def is_first(self) -> bool:
        """Only the first one writes and prints."""
        return self.rank == 0

    @property
    def machine(self) -> int:
        """The rank of the first process on this machine: torchrun numbers them by machine."""
        return self.rank - self.local_rank

    # -------------------------------------------------------------- tensors

    def gather(self, x: Tensor) -> Tensor:
        """The tensors of all processes, by rank: (count, *shape)."""
        if self.count == 1:
            return x[None]
        result = x.new_empty(self.count * len(x), *x.shape[1:])
        _all_gather(result, x.contiguous())
        return result.unflatten(0, (self.count, -1))

    def concatenate(self, rows: Tensor, counts: list[int]) -> Tensor:
        """The rows of all processes, of which each has so many; they may differ by one."""
        if self.count == 1:
            return rows
        padded = rows.new_zeros(max(counts), *rows.shape[1:])
        padded[: len(rows)] = rows
        parts = self.gather(padded)
        return torch.cat([part[:n] for part, n in zip(parts, counts, strict=True)])

    def add_up(self, tensors: list[Tensor]) -> None:
        """Replaces each tensor by its sum over the processes. Large ones go as they lie in memory,
        without a copy; the others go together."""
        if self.count == 1:
            return
        large = {i: lying for i, x in enumerate(tensors) if (lying := _large(x)) is not None}
        works = [dist.all_reduce(lying, async_op=True) for lying in large.values()]
        small = [x for i, x in enumerate(tensors) if i not in large]
        for dtype in dict.fromkeys(x.dtype for x in small):
            same = [x for x in small if x.dtype == dtype]
            flat = torch.cat([x.flatten() for x in same])
            dist.all_reduce(flat)
            for x, total in zip(same, flat.split([x.numel() for x in same]), strict=True):
                x.copy_(total.view_as(x))
        for work in works:
            work.wait()

    # -------------------------------------------------------------- agreeing

    def largest(self, value: int) -> int:
        """The largest value that any process gave."""
        if self.count == 1:
            return value
        agreed = torch.tensor(value)
        dist.all_reduce(agreed, op=dist.ReduceOp.MAX)
        return int(agreed)

    def from_first(self, name: str, value: str) -> str:
        """What the first process gave for this name."""
        if self.count == 1:
            return value
        key = self._key(name)
        if self.is_first:
            self.store.set(key, value)
            return value
        return self._wait_for(key)

    @contextmanager
    def first_alone(self, name: str) -> Iterator[None]:
        """The first process carries out the block while the others wait for it; then they do."""
        if self.count == 1:
            yield
            return
        key = self._key(name)
        if not self.is_first:
            self._wait_for(key)
        yield
        if self.is_first:
            self.store.set(key, "done")

    @contextmanager
    def first_of_machine_alone(self, name: str) -> Iterator[None]:
        """For files that machines may share or not: the first process carries out the block, then
        the first of each other machine, then all others."""
        if self.count == 1:
            yield
            return
        key = self._key(name)
        of_machine = f"{key} of {self.machine}"
        if self.machine > 0:
            self._wait_for(f"{key} of 0")
        if self.local_rank > 0:
            self._wait_for(of_machine)
        yield
        if self.local_rank == 0:
            self.store.set(of_machine, "done")

    def wait_for_all(self, name: str) -> None:
        """Returns when all processes have come here."""
        if self.count == 1:
            return
        key = self._key(name)
        if self.store.add(key, 1) == self.count:
            self.store.set(f"{key} all", "here")
        self._wait_for(f"{key} all")

    def _key(self, name: str) -> str:
        """A new one each time; all processes ask in the same order."""
        self._asked[name] = self._asked.get(name, 0) + 1
        return f"{name} {self._asked[name]}"

    def _wait_for(self, key: str) -> str:
        while not self.store.check([key]):
            note = self._noted()
            if note is not None:
                raise _error_of(note, self)
            silent = None if self.heartbeat is None else self.heartbeat.silent()
            if silent is not None:
                raise TrainingError(
                    f"process {silent} of {self.count} has not been heard of for "
                    f"{SECONDS_OF_SILENCE:.0f} s: it was killed, or its machine cannot be reached"
                )
            time.sleep(SECONDS_BETWEEN_LOOKS)
        return self.store.get(key).decode()

    # -------------------------------------------------------------- failing

    @contextmanager
    def failing_together(self) -> Iterator[None]:
        """An error or a signal that ends the block in one process ends it in all of them, in the
        same way. One process on each machine reports it: the error of the others is `silent`."""
        try:
            yield
        except (Exception, KeyboardInterrupt) as raised:
            error = as_interruption(raised)
            if self.count > 1 and not (isinstance(error, CommandError) and error.agreed):
                error = self._agree(error)
            if error is raised:
                raise
            raise error from raised

    def _agree(self, error: BaseException) -> CommandError:
        was_left = not isinstance(error, CommandError | KeyboardInterrupt) and _is_of_peers(error)
        note = self._noted(wait=SECONDS_TO_SAY_WHY if was_left else 0)
        if note is None:
            note = _note(error, self)
            with suppress(Exception):  # the store went with its process
                note = json.loads(self.store.compare_set(FAILURE, "", json.dumps(note)))
        agreed = _error_of(note, self, in_place_of=error)
        speaker = str(self.rank)
        with suppress(Exception):
            key = f"{SPEAKER} of {self.machine}"
            speaker = self.store.compare_set(key, "", str(self.rank)).decode()
        with suppress(Exception):
            self.leave(SECONDS_TO_SAY_WHY if was_left else SECONDS_TO_COME)
        agreed.agreed = True
        agreed.silent = speaker != str(self.rank)
        return agreed

    def leave(self, seconds: float) -> None:
        """Ends what others may be waiting for, and keeps the store, which may be the first
        process's, until they have read what is in it, at most so long."""
        self.store.add(LEFT, 1)
        if dist.is_initialized() and not torch.cuda.is_available():  # NCCL might wait here
            dist.destroy_process_group()
        end = time.monotonic() + seconds
        while self.is_first and self.store.add(LEFT, 0) < self.count and time.monotonic() < end:
            time.sleep(SECONDS_BETWEEN_LOOKS)

    def _noted(self, wait: float = 0) -> dict[str, Any] | None:
        """What a process has noted of its failure."""
        end = time.monotonic() + wait
        while True:
            with suppress(Exception):
                if self.store.check([FAILURE]):
                    return json.loads(self.store.get(FAILURE))
            if time.monotonic() >= end:
                return None
            time.sleep(SECONDS_BETWEEN_LOOKS)


def _large(x: Tensor) -> Tensor | None:
    """A large tensor with its dimensions in the order of memory; None: small, or with gaps."""
    if x.numel() < LARGE:
        return None
    if x.ndim == 4 and x.is_contiguous(memory_format=torch.channels_last):
        x = x.permute(0, 2, 3, 1)
    return x if x.is_contiguous() else None


ALONE = Processes()
# Its name since torch 2.14.
_all_gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor


def _is_of_peers(error: BaseException) -> bool:
    """Whether an error may come from another process's end."""
    return isinstance(error, RuntimeError)  # gloo raises plain ones


def _note(error: BaseException, processes: Processes) -> dict[str, Any]:
    trace = "".join(traceback.format_exception(error))
    note = {"rank": processes.rank, "traceback": trace, "signum": 0, "resumable": None}
    note |= {"machine": processes.machine, "host": socket.gethostname()}
    if isinstance(error, CommandError):
        resumable = None if error.resumable is None else str(error.resumable)
        kind = type(error).__name__
        signum = error.signum if isinstance(error, Interrupted) else 0
        return {**note, "kind": kind, "said": str(error), "signum": signum, "resumable": resumable}
    if isinstance(error, KeyboardInterrupt):
        return {**note, "kind": "Interrupted", "said": "", "signum": signum_of(error)}
    first = (str(error).splitlines() or [""])[0]
    said = f"{type(error).__name__}: {first}"
    if _is_of_peers(error) and "peer" in str(error):
        said = f"another of the {processes.count} processes has ended without a message"
    return {**note, "kind": "TrainingError", "said": said}


def _error_of(
    note: Mapping[str, Any], processes: Processes, *, in_place_of: BaseException | None = None
) -> CommandError:
    said = note["said"]
    elsewhere = note["machine"] != processes.machine and said != str(in_place_of)
    if note["kind"] == "RequestError" and elsewhere:
        said = f"{said} (on {note['host']})"
    if note["rank"] not in (0, processes.rank) and note["kind"] == "TrainingError":
        said = f"process {note['rank']} of {processes.count}: {said}"
    resumable = None if note["resumable"] is None else Path(note["resumable"])
    error: CommandError
    if note["kind"] == "Interrupted":
        error = Interrupted(note["signum"], said, resumable=resumable)
    else:
        kind = RequestError if note["kind"] == "RequestError" else TrainingError
        error = kind(said, resumable=resumable)
    if note["rank"] != processes.rank:
        error.__cause__ = RuntimeError(f"in process {note['rank']}:\n{note['traceback']}")
    return error


# ------------------------------------------------------------------ those that torchrun started

PLACE = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


@contextmanager
def of_torchrun() -> Iterator[Processes]:
    """The processes that torchrun started with this one, connected inside the block.

    Raises:
        RequestError: the environment does not say which process this is.
        TrainingError: the others have not come, or their store is not there.
    """
    missing = [name for name in PLACE if name not in os.environ]
    if missing:
        raise RequestError(
            f"WORLD_SIZE={os.environ['WORLD_SIZE']} in the environment, without "
            f"{', '.join(missing)}; start several processes by torchrun --nproc-per-node N -m "
            "tcl_train, or unset WORLD_SIZE"
        )
    from torch.distributed.rendezvous import rendezvous

    try:
        address = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        _wait_for_store(*address)
        store, rank, count = next(iter(rendezvous("env://", timeout=TIME_TO_JOIN)))
    except (dist.DistError, ValueError, OSError) as error:  # the second for what is no number
        raise TrainingError(
            f"the {os.environ['WORLD_SIZE']} processes of the run have not found each other at "
            f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']} within "
            f"{TIME_TO_JOIN.total_seconds():.0f} s; has one of them ended?"
        ) from error
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    dist.init_process_group(backend, store=store, rank=rank, world_size=count)
    own_store = dist.TCPStore(*address, is_master=False, timeout=TIME_TO_JOIN)
    heartbeat = Heartbeat(own_store, rank, count)
    processes = Processes(
        rank,
        count,
        heartbeat=heartbeat,
        local_rank=int(os.environ["LOCAL_RANK"]),
        local_count=int(os.environ["LOCAL_WORLD_SIZE"]),
        store=dist.PrefixStore("tcl-train", store),
    )
    try:
        yield processes
    finally:
        heartbeat.end()
        if dist.is_initialized():
            dist.destroy_process_group()
    with ignored(), suppress(Exception):  # the work is done; the others no longer matter
        processes.leave(SECONDS_OF_SILENCE)


def _wait_for_store(address: str, port: int) -> None:
    """Until the first process serves it; torch's own waiting may take more than twice its time."""
    if os.environ["RANK"] == "0":
        return
    end = time.monotonic() + TIME_TO_JOIN.total_seconds()
    while True:
        try:
            socket.create_connection((address, port), timeout=1 + end - time.monotonic()).close()
        except OSError:
            if time.monotonic() > end:
                raise
            time.sleep(SECONDS_BETWEEN_LOOKS)
        else:
            return
