"""What chunks and processes cost: a training step of ResNet-18 in several arrangements.

    python scripts/bench_step.py chunks       # --batch 4096 --chunk 128
    python scripts/bench_step.py processes    # --batch 128

chunks      a batch of 128 as a whole (before and after, the mean), and one of 4,096 in chunks of
            128: milliseconds an image and the peak memory of the process
processes   one process with two threads, and two processes with one thread each: images a second,
            in turn, medians

Images are random, 32 x 32, two views each. Every arrangement is a separate process, because peak
memory and threads belong to one.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
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


def measure(words: list[str], steps: int) -> dict[str, float]:
    """Seconds an image and peak memory of some steps, after a first one."""
    ask_for_huge_pages()
    keep_freed_memory()
    config = compose_run([*WORDS, *words]).config
    data = random_data((steps + 1) * config.batch_size)
    if "WORLD_SIZE" in os.environ:
        with of_torchrun() as processes:
            return _steps(build_run(config, data=data, processes=processes).trainer, steps)
    return _steps(build_run(config, data=data, processes=ALONE).trainer, steps)


def _steps(trainer: Any, steps: int) -> dict[str, float]:
    trainer.method.train()
    batches = trainer.loader.epoch(0)
    trainer.train_step(next(batches))
    begin = perf_counter()
    for _ in range(steps):
        trainer.train_step(next(batches)).loss.item()
    seconds = perf_counter() - begin
    return {
        "ms an image": 1e3 * seconds / steps / trainer.loader.batch_size,
        "peak MiB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def in_processes(words: list[str], steps: int, *, count: int, threads: int) -> dict[str, float]:
    """What the first of so many processes measured."""
    command = [sys.executable, __file__, "one", json.dumps([words, steps])]
    running = [
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
        for environment in environments(count, threads=threads)
    ]
    outputs = [process.communicate()[0] for process in running]
    if any(process.returncode for process in running):
        raise SystemExit("a process failed")
    return json.loads(outputs[0].splitlines()[-1])


def chunks(given: argparse.Namespace, table: Table) -> None:
    precision = f"precision={given.precision}"
    small = [f"batch_size={given.chunk}", precision]
    large = [f"batch_size={given.batch}", f"chunk_size={given.chunk}", precision]
    before = in_processes(small, 8, count=1, threads=given.threads)
    chunked = in_processes(large, 1, count=1, threads=given.threads)
    after = in_processes(small, 8, count=1, threads=given.threads)
    whole = {name: (before[name] + after[name]) / 2 for name in before}
    table.add({"batch": given.chunk, "chunk": "", **whole, "time ratio": 1, "memory ratio": 1})
    ratios = {
        "time ratio": chunked["ms an image"] / whole["ms an image"],
        "memory ratio": chunked["peak MiB"] / whole["peak MiB"],
    }
    table.add({"batch": given.batch, "chunk": given.chunk, **chunked, **ratios})


def processes(given: argparse.Namespace, table: Table) -> None:
    words = [f"batch_size={given.batch}", f"precision={given.precision}"]
    arrangements = {(1, given.threads): [], (given.threads, 1): []}
    for _ in range(given.turns):
        for (count, threads), rates in arrangements.items():
            found = in_processes(words, 6, count=count, threads=threads)
            rates.append(1e3 / found["ms an image"])
    alone = statistics.median(arrangements[1, given.threads])
    for (count, threads), rates in arrangements.items():
        rate = statistics.median(rates)
        table.add(
            {"processes": count, "threads each": threads, "images/s": rate, "ratio": rate / alone}
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["chunks", "processes", "one"])
    parser.add_argument("job", nargs="?")
    parser.add_argument("--batch", type=int)
    parser.add_argument("--chunk", type=int, default=128)
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    if given.what == "one":
        words, steps = json.loads(given.job)
        print(json.dumps(measure(words, steps)))
        return
    given.batch = given.batch or {"chunks": 4096, "processes": 128}[given.what]
    out = given.out or Path(f"results/bench_{given.what}.csv")
    {"chunks": chunks, "processes": processes}[given.what](given, Table(out, torch.device("cpu")))


if __name__ == "__main__":
    main()
