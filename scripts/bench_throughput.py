"""What a training step costs beside what it cannot do without.

    python scripts/bench_throughput.py --encoders resnet18 resnet20 --steps 3

Measures blocks of a few steps, in turn, in images a second (medians). A `step / ...` is the median
of the ratios within the turns, since a machine's speed drifts; the order is turned round each time:

    encoder   forward, backward and optimiser step of the encoder alone, on views that are there;
              where a method has a teacher, also the forward pass of a second encoder
    step      tcl-train's whole step: data, augmentation, encoder, projector, loss, optimiser
    public    the pipeline that public code uses: torchvision transforms on Pillow images in two
              loader workers, torch's own convolutions, channels-first, the dense loss; in the same
              precision as the others

Each runs in a separate process, because settings of the memory allocator are process-wide.

Then one block of `step` is profiled: milliseconds of a step that each phase takes.

The loader workers of `public` live for one block, so that they take no time from the others.
Images are random, 32 x 32, as many as the batch needs; speed does not depend on what they show.
On a GPU the same command measures the GPU.
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
from collections.abc import Callable
from contextlib import suppress
from itertools import islice
from multiprocessing.connection import Connection
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch
from bench_record import Table
from omegaconf import DictConfig
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from tcl_train.building.parts import build_encoder, build_loss, build_method, build_projector
from tcl_train.building.run import build_run
from tcl_train.cli.compose import compose_run
from tcl_train.data.dataset import DataSet, Split
from tcl_train.data.images import ArrayImages
from tcl_train.engine.profile import PHASES, profiler
from tcl_train.losses.pair_loss import dense_pairs
from tcl_train.methods.teacher import Teacher
from tcl_train.runtime.device import Runtime, available_cpus, choose_device
from tcl_train.runtime.memory import ask_for_huge_pages, keep_freed_memory

CLASSES = 100


def random_data(count: int) -> DataSet:
    g = torch.Generator().manual_seed(0)
    images_NCHW = torch.randint(0, 256, (count, 3, 32, 32), dtype=torch.uint8, generator=g)
    split = Split(ArrayImages(images_NCHW), torch.randint(CLASSES, (count,), generator=g))
    return DataSet(
        pretrain=split,
        train=split,
        test=split,
        classes=tuple(map(str, range(CLASSES))),
        image_size=32,
        mean=(0.5, 0.5, 0.5),
        std=(0.25, 0.25, 0.25),
    )


Block = Callable[[int], None]  # carries out so many steps


def runtime_of(config: DictConfig) -> Runtime:
    return Runtime(device=config.device, precision=config.precision, compile=False)


def encoder_alone(words: list[str], data: DataSet) -> Block:  # noqa: ARG001
    """One forward and backward pass with an optimiser step, on the same views each time; before it
    a teacher's forward pass."""
    config = compose_run(words).config
    runtime = runtime_of(config)
    encoder = build_encoder(config, image_size=32)
    method = build_method(config, encoder=encoder, loss=build_loss(config), num_classes=CLASSES)
    teachers = [
        Teacher(build_encoder(config, image_size=32))
        for part in method.modules()
        if isinstance(part, Teacher) and holds(part, type(encoder))
    ]
    runtime.prepare(nn.ModuleList([encoder, *teachers]))
    optimizer = torch.optim.SGD(encoder.parameters(), lr=0.01, momentum=0.9)
    shape = (config.batch_size * config.views, 3, 32, 32)
    views_NCHW = torch.randn(shape).to(runtime.device, memory_format=torch.channels_last)

    def block(steps: int) -> None:
        for _ in range(steps):
            with runtime.autocast():
                for teacher in teachers:
                    teacher(views_NCHW)
                loss = encoder(views_NCHW).float().square().mean()
            optimizer.zero_grad()
            runtime.scaled(loss).backward()
            runtime.update(optimizer)

    return block


def holds(module: nn.Module, kind: type) -> bool:
    """Whether a part of the module is of this kind."""
    return any(isinstance(part, kind) for part in module.modules())


def whole_step(words: list[str], data: DataSet) -> Block:
    """tcl-train's steps, data included."""
    config = compose_run(words).config
    trainer = build_run(config, data=data).trainer
    trainer.method.train()

    def block(steps: int) -> None:
        for batch in islice(trainer.meter.timed(trainer.loader.epoch(0)), steps):
            trainer.train_step(batch)

    return block


class PillowViews(Dataset):
    """Two augmented views of each image, made one by one."""

    def __init__(self, data: DataSet) -> None:
        assert isinstance(data.pretrain.images, ArrayImages)
        assert data.pretrain.labels_N is not None
        images_NHWC = data.pretrain.images.images_NCHW.permute(0, 2, 3, 1).numpy()
        self.images = [Image.fromarray(np.ascontiguousarray(image)) for image in images_NHWC]
        self.labels_N: torch.Tensor = data.pretrain.labels_N
        self.transform = transforms.Compose(
            [
                transforms.RandomResizedCrop(32, scale=(0.2, 1.0)),
                transforms.RandomHorizontalFlip(),
                transforms.RandomApply([transforms.ColorJitter(0.4, 0.4, 0.4, 0.1)], p=0.8),
                transforms.RandomGrayscale(p=0.2),
                transforms.ToTensor(),
                transforms.Normalize(data.mean, data.std),
            ]
        )

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, i: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        image = self.images[i]
        return self.transform(image), self.transform(image), self.labels_N[i]


def public_step(words: list[str], data: DataSet) -> Block:
    """The same steps put together as public code does."""
    config = compose_run(words).config
    runtime = runtime_of(config)
    device = runtime.device
    encoder = build_encoder(config, image_size=32)
    projector = build_projector(config, feature_dim=encoder.feature_dim)
    model = nn.Sequential(encoder, projector).to(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4)
    loader = DataLoader(
        PillowViews(data),
        batch_size=config.batch_size,
        shuffle=True,
        drop_last=True,
        num_workers=available_cpus(),
    )

    def block(steps: int) -> None:
        assert steps == len(loader)  # so that no worker is left at work
        for batch in loader:
            first, second, labels_B = (x.to(device) for x in batch)
            with runtime.autocast():
                z_ND = model(torch.cat([first, second])).float()
            loss = public_supcon(nn.functional.normalize(z_ND), labels_B.repeat(2))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    return block


def public_supcon(z_ND: torch.Tensor, y_N: torch.Tensor, tau: float = 0.1) -> torch.Tensor:
    """SupCon over the whole similarity matrix."""
    sim_NM, positive_NM, _ = dense_pairs(z_ND, y_N)
    logit_NM = sim_NM / tau
    logit_NM = logit_NM - logit_NM.max(1, keepdim=True).values.detach()
    other_NM = 1 - torch.eye(len(y_N), device=z_ND.device)
    log_p_NM = logit_NM - (logit_NM.exp() * other_NM).sum(1, keepdim=True).log()
    return -((positive_NM * log_p_NM).sum(1) / positive_NM.sum(1)).mean()


def seconds_of(block: Block, steps: int, device: torch.device) -> float:
    begin = perf_counter()
    block(steps)
    if device.type == "cuda":
        torch.cuda.synchronize()
    return perf_counter() - begin


def phases_of(block: Block, steps: int, device: torch.device) -> dict[str, float]:
    """Milliseconds a step of each phase, of the GPU where there is one."""
    with profiler() as recorded:
        seconds_of(block, steps, device)
    events = {event.key: event for event in recorded.key_averages()}
    kind = "device_time_total" if device.type == "cuda" else "cpu_time_total"
    return {
        f"{name} ms": getattr(events[name], kind) / steps / 1e3 for name in PHASES if name in events
    }


KINDS = {"encoder": encoder_alone, "step": whole_step, "public": public_step}


class Bench:
    """One kind, in a separate process that waits between its turns."""

    def __init__(self, kind: str, words: list[str], steps: int, batch_size: int) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, other = context.Pipe()
        args = (kind, words, steps, batch_size, other)
        self.process = context.Process(target=serve, args=args)
        self.process.start()
        other.close()  # so that a process that has died is noticed

    def ask(self, what: str) -> Any:
        """`seconds` of a block, or its `phases`."""
        self.connection.send(what)
        return self.connection.recv()

    def end(self) -> None:
        self.connection.close()
        self.process.join()


def serve(kind: str, words: list[str], steps: int, batch_size: int, connection: Connection) -> None:
    """Answers a :class:`Bench`."""
    if kind != "public":
        ask_for_huge_pages()  # this and the next as the command does
        keep_freed_memory()
    block = KINDS[kind](words, random_data(steps * batch_size))
    device = choose_device(compose_run(words).config.device)
    answers = {"seconds": seconds_of, "phases": phases_of}
    with suppress(EOFError):
        while True:
            connection.send(answers[connection.recv()](block, steps, device))


def measure(
    encoder: str, method: str | None, batch_size: int, given: argparse.Namespace, runtime: Runtime
) -> dict[str, Any]:
    words = [
        "dataset=cifar100",
        f"encoder={encoder}",
        f"augment={given.augment}",
        f"batch_size={batch_size}",
        f"device={given.device}",
        f"precision={runtime.precision}",
        *([] if method is None else [f"method={method}"]),
    ]
    benches = {kind: Bench(kind, words, given.steps, batch_size) for kind in given.kinds}
    times: dict[str, list[float]] = {kind: [] for kind in benches}
    try:
        for turn in range(given.turns + 1):
            for kind in list(benches)[:: -1 if turn % 2 else 1]:
                seconds = benches[kind].ask("seconds")
                if turn:  # the first is for warming up
                    times[kind].append(seconds)
        phases = benches["step"].ask("phases") if "step" in benches else {}
    finally:  # where one has failed, the others wait for their next turn
        for bench in benches.values():
            bench.end()
    images = given.steps * batch_size
    speed = {kind: images / statistics.median(seconds) for kind, seconds in times.items()}
    row: dict[str, Any] = {
        "encoder": encoder,
        "method": method or "contrastive",
        "batch": batch_size,
        "augment": given.augment,
        "precision": runtime.precision,
    }
    row |= {f"{kind} images/s": value for kind, value in speed.items()}
    for kind in ("encoder", "public"):
        if kind in times and "step" in times:
            pairs = zip(times[kind], times["step"], strict=True)
            row[f"step / {kind}"] = statistics.median(other / step for other, step in pairs)
    return row | phases


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--encoders", nargs="+", default=["resnet18", "resnet20"])
    parser.add_argument("--methods", nargs="+", default=[None])
    parser.add_argument("--batch-sizes", nargs="+", type=int, default=[256])
    parser.add_argument("--augment", default="simaug")
    parser.add_argument("--steps", type=int, default=4, help="in a block")
    parser.add_argument("--turns", type=int, default=3, help="blocks of each kind")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precisions", nargs="+", default=["auto"])
    parser.add_argument("--kinds", nargs="+", default=list(KINDS), choices=list(KINDS))
    parser.add_argument("--out", type=Path, default=Path("results/bench_throughput.csv"))
    given = parser.parse_args()
    table = Table(given.out, choose_device(given.device))
    for precision in given.precisions:
        runtime = Runtime(device=given.device, precision=precision, compile=False)
        for encoder in given.encoders:
            for method in given.methods:
                for batch_size in given.batch_sizes:
                    table.add(measure(encoder, method, batch_size, given, runtime))


if __name__ == "__main__":
    main()
