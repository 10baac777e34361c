"""What chunks and processes cost: a training step of ResNet-18 in several arrangements.

    python scripts/bench_step.py chunks       # --batch 4096 --chunk 128 --turns 3
    python scripts/bench_step.py processes    # --batch 128 --turns 25
    python scripts/bench_step.py commits --other DIR    # --batch 64 --turns 25

chunks      a batch of 128 as a whole, and one of 4,096 in chunks of 128: milliseconds an image and
            the peak memory of the process
processes   one process with two threads, and two processes with one thread each: images a second
commits     the step of this checkout, and of another one of this project at DIR, which has the
            functions of bench_throughput that BESIDE names: milliseconds an image

Both are measured in turn; see in_turn for the ratios. Images are random, 32 x 32, two views each.
Every arrangement is a separate process, because peak memory and threads belong to one.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import sys
from contextlib import nullcontext
from pathlib import Path
from time import perf_counter

import torch
from bench_record import Table
from bench_throughput import random_data
from ranks import Ranks

from tcl_train.building.run import build_run
from tcl_train.cli.compose import compose_run
from tcl_train.runtime.code_version import git_commit
from tcl_train.runtime.memory import ask_for_huge_pages, keep_freed_memory
from tcl_train.runtime.processes import ALONE, of_torchrun

ROOT = Path(__file__).parents[1]
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


# As `serve`, for one process, in a checkout whose scripts may be older than this one.
BESIDE = """
import json, sys
from pathlib import Path
from time import perf_counter
import tcl_train
from bench_throughput import random_data, whole_step
from tcl_train.cli.compose import compose_run
from tcl_train.runtime.memory import ask_for_huge_pages, keep_freed_memory
assert Path(tcl_train.__file__).parents[1] == Path.cwd(), tcl_train.__file__
ask_for_huge_pages()
keep_freed_memory()
words = json.loads(sys.argv[1])
batch = compose_run(words).config.batch_size
train = whole_step(words, random_data(batch))
train(1)
for line in sys.stdin:
    begin = perf_counter()
    for _ in range(int(line)):
        train(1)
    print(1e3 * (perf_counter() - begin) / int(line) / batch, flush=True)
print(0.0, flush=True)
"""


class Arrangement:
    """So many processes, which wait for each other between turns.

    checkout: the one whose code they run; None: this one, by `serve`.
    """

    def __init__(
        self,
        words: list[str],
        *,
        count: int = 1,
        threads: int,
        steps: int,
        checkout: Path | None = None,
    ) -> None:
        self.steps = steps
        self.times: list[float] = []
        if checkout is None:
            command = [sys.executable, __file__, "serve", json.dumps(words)]
            self.ranks = Ranks(command, count=count, threads=threads)
        else:
            command = [sys.executable, "-c", BESIDE, json.dumps([*WORDS, *words])]
            path = {"PYTHONPATH": str(checkout / "scripts")}  # after the folder that it works in
            self.ranks = Ranks(command, threads=threads, environment=path, folder=checkout)

    def turn(self) -> None:
        self.times.append(max(map(float, self.ranks.ask(str(self.steps)))))

    def end(self) -> dict[str, float]:
        """Medians, and the peak memory of the first process."""
        peaks = list(map(float, self.ranks.end()))
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


def commits(given: argparse.Namespace, table: Table) -> None:
    words = [f"batch_size={given.batch}", f"precision={given.precision}"]
    here, there = (
        Arrangement(words, threads=given.threads, steps=1, checkout=checkout)
        for checkout in (ROOT, given.other.resolve())
    )
    this, other, ratio = in_turn(here, there, given.turns or 25)
    for checkout, found, of_this in ((ROOT, this, 1.0), (given.other, other, ratio)):
        table.add(
            {
                "precision": given.precision,
                "commit": git_commit(checkout),
                "ms an image": found["ms an image"],
                "ratio": of_this,
            }
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["chunks", "processes", "commits", "serve"])
    parser.add_argument("job", nargs="?")
    parser.add_argument("--batch", type=int)
    parser.add_argument("--chunk", type=int, default=128)
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--other", type=Path, help="of commits: the other checkout")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--turns", type=int)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    if given.what == "serve":
        serve(json.loads(given.job))
        return
    if given.what == "commits" and given.other is None:
        parser.error("commits needs --other DIR")
    given.batch = given.batch or {"chunks": 4096, "processes": 128, "commits": 64}[given.what]
    out = given.out or Path(f"results/bench_{given.what}.csv")
    table = Table(out, torch.device("cpu"))
    {"chunks": chunks, "processes": processes, "commits": commits}[given.what](given, table)


if __name__ == "__main__":
    main()
