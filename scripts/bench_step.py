"""What chunks and processes cost: a training step of ResNet-18 in several arrangements.

    python scripts/bench_step.py chunks       # --batch 4096 --chunk 128 --turns 3
    python scripts/bench_step.py processes    # --batch 128 --turns 25

chunks      a batch of 128 as a whole, and one of 4,096 in chunks of 128: milliseconds an image and
            the peak memory of the process
processes   one process with two threads, and two processes with one thread each: images a second

Both are measured in turn; see in_turn for the ratios. Images are random, 32 x 32, two views each.
Every arrangement is a separate process, because peak memory and threads belong to one.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from bench_record import Table
from bench_throughput import random_data
from ranks import environments

from tcl_train.build import build_run
from tcl_train.cli.compose import compose_run
from tcl_train.runtime.memory import ask_for_huge_pages, keep_freed_memory
from tcl_train.runtime.processes import ALONE, of_torchrun

WORDS = ("dataset=cifar100", "encoder=resnet18", "augment=simaug", "views=2", "loss=supcon")


def serve(words: list[str]) -> None:
    """Trains as many steps as each line of standard input says, after a first one; answers with
    milliseconds an image, and at the end with the process's peak memory."""
    ask_for_huge_pages()
    keep_freed_memory()
    config = compose_run([*WORDS, *words]).config
    data = random_data(config.batch_size)
    with of_torchrun() if "WORLD_SIZE" in os.environ else nullcontext(ALONE) as processes:
        trainer = build_run(config, data=data, processes=processes).trainer
        trainer.method.train()

        def train(steps: int) -> float:
            begin = perf_counter()
            for epoch in range(steps):  # of one batch each
                for batch in trainer.loader.epoch(epoch):
                    trainer.train_step(batch).loss.item()
            return 1e3 * (perf_counter() - begin) / steps / config.batch_size

        train(1)
        for line in sys.stdin:
            print(train(int(line)), flush=True)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, flush=True)


class Arrangement:
    """So many processes, which wait for each other between turns."""

    def __init__(self, words: list[str], *, count: int = 1, threads: int, steps: int) -> None:
        self.steps = steps
        command = [sys.executable, __file__, "serve", json.dumps(words)]
        pipes: Any = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        self.running = [
            subprocess.Popen(command, env=environment, **pipes)
            for environment in environments(count, threads=threads)
        ]
        self.times: list[float] = []

    def turn(self) -> None:
        for process in self.running:
            print(self.steps, file=process.stdin, flush=True)
        answers = [process.stdout for process in self.running]
        self.times.append(max(float(answer.readline()) for answer in answers if answer))

    def end(self) -> dict[str, float]:
        """Medians, and the peak memory of the first process."""
        peaks = [float(process.communicate()[0]) for process in self.running]
        return {"ms an image": statistics.median(self.times), "peak MiB": peaks[0]}


def in_turn(
    one: Arrangement, other: Arrangement, turns: int
) -> tuple[dict[str, float], dict[str, float], float]:
    """What both took, and the median ratio of their times: each turn of the other against the mean
    of the turns of the one before and after it, since a machine's speed drifts."""
    one.turn()
    for _ in range(turns):
        other.turn()
        one.turn()
    before_and_after = zip(one.times, one.times[1:], strict=False)
    beside = [(before + after) / 2 for before, after in before_and_after]
    ratios = [time / by for time, by in zip(other.times, beside, strict=True)]
    print("ratios of times:", " ".join(f"{ratio:.3f}" for ratio in ratios))
    return one.end(), other.end(), statistics.median(ratios)


def chunks(given: argparse.Namespace, table: Table) -> None:
    precision = f"precision={given.precision}"
    small = [f"batch_size={given.chunk}", precision]
    large = [f"batch_size={given.batch}", f"chunk_size={given.chunk}", precision]
    whole, chunked, ratio = in_turn(
        Arrangement(small, threads=given.threads, steps=8),
        Arrangement(large, threads=given.threads, steps=1),
        given.turns or 3,
    )
    memory = chunked["peak MiB"] / whole["peak MiB"]
    for batch, chunk, found, ratios in (
        (given.chunk, "", whole, (1.0, 1.0)),
        (given.batch, given.chunk, chunked, (ratio, memory)),
    ):
        columns = dict(zip(("time ratio", "memory ratio"), ratios, strict=True))
        row = {"precision": given.precision, "batch": batch, "chunk": chunk, **found, **columns}
        table.add(row)


def processes(given: argparse.Namespace, table: Table) -> None:
    words = [f"batch_size={given.batch}", f"precision={given.precision}"]
    one, several, ratio = in_turn(
        Arrangement(words, threads=given.threads, steps=1),
        Arrangement(words, count=given.threads, threads=1, steps=1),
        given.turns or 25,
    )
    for count, found in ((1, one), (given.threads, several)):
        table.add(
            {
                "precision": given.precision,
                "processes": count,
                "threads each": given.threads // count,
                "images/s": 1e3 / found["ms an image"],
                "ratio": 1.0 if count == 1 else 1 / ratio,
            }
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["chunks", "processes", "serve"])
    parser.add_argument("job", nargs="?")
    parser.add_argument("--batch", type=int)
    parser.add_argument("--chunk", type=int, default=128)
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--turns", type=int)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    if given.what == "serve":
        serve(json.loads(given.job))
        return
    given.batch = given.batch or {"chunks": 4096, "processes": 128}[given.what]
    out = given.out or Path(f"results/bench_{given.what}.csv")
    {"chunks": chunks, "processes": processes}[given.what](given, Table(out, torch.device("cpu")))


if __name__ == "__main__":
    main()
