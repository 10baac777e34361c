"""How fast tcl-embed is beside what it cannot do without, and beside a loader of torch's.

    python scripts/bench_embed.py --small 1500 --large 200 --rounds 5

Writes images, then measures in turn, in images a second (medians), each in the precision that the
device computes in:

    bare     the encoder alone, on 32 x 32 images that are there, decoded and normalised; with as
             many of them at a time as tcl-embed computes in all its threads, and with twice as many
    embed    tcl-embed's way from the files (PNG, 32 x 32) to the file of features, in one process,
             and on a CPU in two with half of the threads each
    loader   torch's DataLoader with two workers and torchvision's transforms, the same encoder; on
             JPEGs of 500 x 400 pixels, seen at 224 x 224
    embed    the same from the files (JPEG, 500 x 400) to the file of features

The loader's workers are started and warm before it is measured. `ratio` is the median over the
rounds of embed's rate by that of the other one in the same round; `cpu_ratio` that of the seconds
of CPU time that the other one takes by embed's, all threads of this process together: it says the
same of a machine on which others compute, too, where all cores are busy anyway. The loader's
workers are not in it, so that it is left out there.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from time import perf_counter, process_time
from typing import NamedTuple

import numpy as np
import torch
from bench_record import Table
from PIL import Image
from ranks import Ranks
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from tcl_train.building.parts import build_encoder
from tcl_train.cli.compose import compose_run
from tcl_train.commands.embed import EmbedSettings, embed_listing
from tcl_train.data.listing import Listing, unlabelled
from tcl_train.data.normalize import Normalize
from tcl_train.evaluation.feature_file import open_writer
from tcl_train.evaluation.features import frozen
from tcl_train.restore import Embedder
from tcl_train.runtime.device import Runtime, available_cpus
from tcl_train.runtime.memory import ask_for_huge_pages, keep_freed_memory
from tcl_train.runtime.processes import of_torchrun

MEAN, STD = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)
WORKERS = 2
PROCESSES = 2
# On two cores tcl-embed computes 64 at a time, the encoder alone is fastest with 128 (of 16 to
# 256), and the loader with 64 (of 8 to 64).
BARE_BATCHES = {"cpu": (64, 128)}
LOADER_BATCH = {"cpu": 64}


def write_images(folder: Path, count: int, size: tuple[int, int], ending: str) -> Listing:
    """Smooth ones, with as much detail as photographs have."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    for i in range(count):
        coarse = rng.integers(0, 256, (size[1] // 8, size[0] // 8, 3), np.uint8)
        smooth = np.asarray(Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC))
        noisy = np.clip(smooth + rng.normal(0, 6, smooth.shape), 0, 255).astype(np.uint8)
        Image.fromarray(noisy).save(folder / f"{i:05}.{ending}", quality=90)
    return unlabelled(folder)


def build_embedder(name: str, image_size: int, runtime: Runtime) -> Embedder:
    """A random encoder: speed does not depend on its weights."""
    config = compose_run([f"encoder={name}"]).config
    encoder = build_encoder(config, image_size=image_size)
    return Embedder(
        module=runtime.place(encoder).eval(),
        dim=encoder.feature_dim,
        normalize=Normalize(size=image_size, mean=MEAN, std=STD),
        runtime=runtime,
        step=0,
    )


def embed_rate(embedder: Embedder, listing: Listing, folder: Path) -> float:
    begin = perf_counter()
    if not embedder.runtime.processes.is_first:
        embed_listing(embedder, listing, EmbedSettings(), None)
    else:
        writer = open_writer(folder / "features.npy", ".npy", embedder.dim)
        embed_listing(embedder, listing, EmbedSettings(), writer)
        writer.close()
    return len(listing) / (perf_counter() - begin)


def bare_rate(embedder: Embedder, count: int, batch_size: int) -> float:
    device = embedder.runtime.device
    side = embedder.normalize.size
    x_BCSS = embedder.normalize(torch.rand(batch_size, 3, side, side, device=device))
    begin = perf_counter()
    with frozen(embedder.module), embedder.runtime.autocast():
        for start in range(0, count, batch_size):
            embedder.module(x_BCSS[: count - start]).float().cpu()
    return count / (perf_counter() - begin)


def serve(encoder: str, folder: Path) -> None:
    """One of several processes. Computes the features of a folder's images for each line of
    standard input; answers with its rate and its seconds of CPU time."""
    with of_torchrun() as processes:
        runtime = Runtime(device="cpu", precision="auto", compile=False, processes=processes)
        embedder = build_embedder(encoder, 32, runtime)
        listing = unlabelled(folder)
        for _ in sys.stdin:
            begin = process_time()
            rate = embed_rate(embedder, listing, folder.parent)
            print(rate, process_time() - begin, flush=True)


class Several:
    """Such processes."""

    def __init__(self, encoder: str, folder: Path, count: int) -> None:
        command = [sys.executable, __file__, "serve", encoder, str(folder)]
        threads = max(1, available_cpus() // count)
        self.ranks = Ranks(command, count=count, threads=threads)

    def ask(self) -> tuple[float, float]:
        """The rate of all together, and their seconds of CPU time."""
        answers = [list(map(float, answer.split())) for answer in self.ranks.ask("")]
        return min(rate for rate, _ in answers), sum(seconds for _, seconds in answers)


class Files(Dataset):
    """As most code reads them."""

    def __init__(self, paths: list[str], size: int) -> None:
        self.paths = paths
        self.transform = transforms.Compose(
            [
                transforms.Resize(round(size * 256 / 224)),
                transforms.CenterCrop(size),
                transforms.ToTensor(),
                transforms.Normalize(MEAN, STD),
            ]
        )

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> torch.Tensor:
        with Image.open(self.paths[index]) as image:
            return self.transform(image.convert("RGB"))


def loader_rate(embedder: Embedder, loader: DataLoader, count: int) -> float:
    device = embedder.runtime.device
    features = []
    begin = perf_counter()
    with frozen(embedder.module):
        for x_BCSS in loader:
            with embedder.runtime.autocast():
                features.append(embedder.module(x_BCSS.to(device)).float().cpu())
    torch.cat(features)
    return count / (perf_counter() - begin)


class Rates(NamedTuple):
    """Medians."""

    embed: float
    other: float
    ratio: float
    cpu_ratio: float


Measure = Callable[[], tuple[float, float]]  # the rate, and the seconds of CPU time


def compare(rounds: int, embed: Measure, other: Measure) -> Rates:
    """Of both in turn; the first round is for warming up."""
    pairs = [(embed(), other()) for _ in range(rounds + 1)][1:]
    return Rates(
        statistics.median(one for (one, _), _ in pairs),
        statistics.median(two for _, (two, _) in pairs),
        statistics.median(one / two for (one, _), (two, _) in pairs),
        statistics.median(of_two / of_one for (_, of_one), (_, of_two) in pairs),
    )


def timed(rate_of: Callable[..., float], *arguments: object) -> Measure:
    def measure() -> tuple[float, float]:
        begin = process_time()
        rate = rate_of(*arguments)
        return rate, process_time() - begin

    return measure


def main() -> None:
    ask_for_huge_pages()
    keep_freed_memory()
    if sys.argv[1:2] == ["serve"]:
        serve(sys.argv[2], Path(sys.argv[3]))
        return
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--encoders", nargs="+", default=["resnet18"])
    parser.add_argument("--small", type=int, default=1500, help="PNGs of 32 x 32")
    parser.add_argument("--large", type=int, default=200, help="JPEGs of 500 x 400")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--out", type=Path, default=Path("results/bench_embed.csv"))
    given = parser.parse_args()
    runtime = Runtime(device=given.device, precision="auto", compile=False)
    table = Table(given.out, runtime.device)

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        small = write_images(folder / "small", given.small, (32, 32), "png")
        large = write_images(folder / "large", given.large, (500, 400), "jpg")
        for encoder in given.encoders:

            def add(images: str, processes: int, other: str, at_a_time: int, rates: Rates) -> None:
                table.add(
                    {
                        "encoder": encoder,  # noqa: B023 - called in the same turn
                        "precision": runtime.precision,
                        "images": images,
                        "processes": processes,
                        "embed": rates.embed,
                        "beside": other,
                        "at_a_time": at_a_time,
                        "rate": rates.other,
                        "ratio": rates.ratio,
                        "cpu_ratio": rates.cpu_ratio if other == "bare" else "",
                    }
                )

            seen = build_embedder(encoder, 32, runtime)
            one = timed(embed_rate, seen, small, folder)
            batches = BARE_BATCHES.get(runtime.device.type, (256,))
            bare = {size: timed(bare_rate, seen, len(small), size) for size in batches}
            for size in batches:
                add("32x32 png", 1, "bare", size, compare(given.rounds, one, bare[size]))
            if runtime.device.type == "cpu":
                several = Several(encoder, folder / "small", PROCESSES)
                rates = compare(given.rounds, several.ask, bare[batches[0]])
                several.ranks.end()
                add("32x32 png", PROCESSES, "bare", batches[0], rates)
            seen_large = build_embedder(encoder, 224, runtime)
            size = LOADER_BATCH.get(runtime.device.type, 256)
            loader = DataLoader(
                Files(large.paths, 224),
                batch_size=size,
                num_workers=WORKERS,
                persistent_workers=True,
            )
            large_one = timed(embed_rate, seen_large, large, folder)
            other = timed(loader_rate, seen_large, loader, len(large))
            add("500x400 jpg", 1, "loader", size, compare(given.rounds, large_one, other))


if __name__ == "__main__":
    main()
