"""What a view costs on one core or on a GPU, beside torchvision's transforms on Pillow images.

    python scripts/bench_augment.py

For each preset: milliseconds a view, from uint8 images to normalised float views, of batches of
256 random images of 32 x 32 in 2 views, and of torchvision's transforms of the same kinds, one
Pillow image after the other, as public code does it. Blocks of both alternate in one process;
medians. With `--device cuda` ours are made on the GPU. `target` is what a view may cost by the
project's own aim, where it has one.
"""

from __future__ import annotations

import argparse
import resource
import statistics
from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch
from bench_record import Table
from PIL import Image
from torchvision import transforms

from tcl_train.building.parts import build_augment
from tcl_train.cli.compose import compose_run
from tcl_train.data.dataset import DataSet, Split
from tcl_train.data.images import ArrayImages
from tcl_train.runtime.device import choose_device
from tcl_train.runtime.memory import ask_for_huge_pages, keep_freed_memory

PRESETS = ["simaug", "autoaugment", "randaugment", "crop_flip"]
PRESETS += ["trivialaugment", "byol", "stacked_randaugment"]
TARGETS = {"simaug": 0.08, "autoaugment": 0.15, "randaugment": 0.15, "crop_flip": 0.01}  # ms


def on_pillow(preset: str, size: int) -> list[Any]:
    """torchvision's transforms for one view."""
    crop = transforms.RandomResizedCrop(size, scale=(0.2, 1.0))
    large_crop = transforms.RandomResizedCrop(size, scale=(0.08, 1.0))
    padded = [transforms.RandomCrop(size, padding=4), transforms.RandomHorizontalFlip()]
    kernel = 2 * max(1, size // 20) + 1
    blur = transforms.RandomApply([transforms.GaussianBlur(kernel, (0.1, 2.0))], p=0.5)

    def jitter(*strengths: float) -> Any:
        return transforms.RandomApply([transforms.ColorJitter(*strengths)], p=0.8)

    flip, grey = transforms.RandomHorizontalFlip(), transforms.RandomGrayscale(p=0.2)
    return {
        "simaug": [crop, flip, jitter(0.4, 0.4, 0.4, 0.1), grey],
        "byol": [
            large_crop,
            flip,
            jitter(0.4, 0.4, 0.2, 0.1),
            grey,
            blur,  # half of the images, as over byol's two views together
            transforms.RandomSolarize(128, p=0.1),
        ],
        "stacked_randaugment": [
            large_crop,
            flip,
            jitter(0.8, 0.8, 0.8, 0.2),
            transforms.RandAugment(2, 30),
            grey,
            blur,
        ],
        "autoaugment": [*padded, transforms.AutoAugment(transforms.AutoAugmentPolicy.CIFAR10)],
        "randaugment": [*padded, transforms.RandAugment(2, 14)],
        "trivialaugment": [*padded, transforms.TrivialAugmentWide()],
        "crop_flip": padded,
        "crop": [transforms.RandomResizedCrop(size, scale=(0.5, 1.0))],
        "none": [],
    }[preset]


def random_data(count: int, size: int) -> DataSet:
    g = torch.Generator().manual_seed(0)
    images_NCHW = torch.randint(256, (count, 3, size, size), dtype=torch.uint8, generator=g)
    split = Split(ArrayImages(images_NCHW), None)
    return DataSet(
        pretrain=split,
        train=None,
        test=None,
        classes=(),
        image_size=size,
        mean=(0.5, 0.5, 0.5),
        std=(0.25, 0.25, 0.25),
    )


def blocks_of(
    preset: str, data: DataSet, device: torch.device
) -> tuple[Callable[[], int], Callable[[], int]]:
    """Ours and Pillow's; each gives the number of views that it made."""
    augment = build_augment(compose_run([f"augment={preset}"]).config, data)
    assert isinstance(data.pretrain.images, ArrayImages)
    images_BCHW = data.pretrain.images.images_NCHW.to(device)
    images = [
        Image.fromarray(np.ascontiguousarray(image))
        for image in images_BCHW[:128].cpu().permute(0, 2, 3, 1).numpy()
    ]
    to_tensor = [transforms.ToTensor(), transforms.Normalize(data.mean, data.std)]
    transform = transforms.Compose([*on_pillow(preset, data.image_size), *to_tensor])
    g = torch.Generator().manual_seed(0)

    def ours() -> int:
        views_NCHW = augment(images_BCHW, views=2, generator=g)
        if device.type == "cuda":
            torch.cuda.synchronize()
        return len(views_NCHW)

    def pillows() -> int:
        return len([transform(image) for image in images])

    return ours, pillows


def milliseconds(block: Callable[[], int]) -> float:
    begin = perf_counter()
    views = block()
    return (perf_counter() - begin) / views * 1000


def measure(preset: str, data: DataSet, turns: int, device: torch.device) -> dict[str, Any]:
    blocks = blocks_of(preset, data, device)
    times = [[milliseconds(block) for block in blocks] for _ in range(turns + 1)][1:]
    ours, pillows = (statistics.median(column) for column in zip(*times, strict=True))
    return {
        "augment": preset,
        "size": data.image_size,
        "ms a view": ours,
        "Pillow ms a view": pillows,
        "times faster": pillows / ours,
        "least ms a view": min(row[0] for row in times),
        "target": TARGETS.get(preset, "") if (data.image_size, device.type) == (32, "cpu") else "",
        "peak MiB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--presets", nargs="+", default=PRESETS)
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--turns", type=int, default=15, help="blocks of each kind")
    parser.add_argument("--device", default="cpu", help="where views are made; Pillow's on the CPU")
    parser.add_argument("--out", type=Path, default=Path("results/bench_augment.csv"))
    given = parser.parse_args()
    torch.set_num_threads(1)
    ask_for_huge_pages()  # this and the next as a run does
    keep_freed_memory()
    data = random_data(given.batch_size, given.size)
    device = choose_device(given.device)
    table = Table(given.out, device)
    for preset in given.presets:
        table.add(measure(preset, data, given.turns, device))


if __name__ == "__main__":
    main()
