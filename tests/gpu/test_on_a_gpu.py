"""What only a GPU can show. These tests are skipped where there is none; `scripts/gpu_check.sh`
runs them with everything else that a GPU is needed for."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import DictConfig
from PIL import Image

from tcl_train.building.parts import build_augment, build_encoder
from tcl_train.building.run import build_run
from tcl_train.cli.choices import choices
from tcl_train.cli.compose import compose_run
from tcl_train.commands.file_features import feature_batches
from tcl_train.data.augment import RandomResizedCrop, pipeline
from tcl_train.data.dataset import DataSet
from tcl_train.data.gpu_decode import GpuReader, check_gpu_decoding
from tcl_train.data.normalize import Normalize
from tcl_train.data.requests import Boxes
from tcl_train.losses import TCL, HardContrastive, NTXent, SupCon, Triplet
from tcl_train.restore import Embedder
from tcl_train.run.directory import RunDir
from tcl_train.runtime.device import Runtime
from tcl_train.runtime.randomness import generator

pytestmark = pytest.mark.gpu

LOSSES = [TCL(0.1, 5e4, 1.0), SupCon(0.07), SupCon(0.1, form="in"), NTXent(0.5), Triplet()]
MATMUL_AND_REDUCTIONS = 2e-6  # relative to the value; float32 sums in another order


@pytest.mark.parametrize("rows", [300, 5000])
@pytest.mark.parametrize("loss", LOSSES, ids=str)
def test_losses_and_gradients_are_those_of_float64_on_the_cpu(
    loss: Any, rows: int, device: str
) -> None:
    if isinstance(loss, Triplet) and rows > 1000:
        rows = 1000  # it looks at all triplets
    g = torch.Generator().manual_seed(0)
    z_ND, y_N = torch.randn(rows, 128, generator=g), torch.randint(0, 40, (rows,), generator=g)
    exact_ND = z_ND.double().requires_grad_()
    on_gpu_ND = z_ND.to(device).requires_grad_()
    exact, on_gpu = loss(exact_ND, y_N), loss(on_gpu_ND, y_N.to(device))
    exact.backward()
    on_gpu.backward()
    assert on_gpu.item() == pytest.approx(exact.item(), rel=MATMUL_AND_REDUCTIONS)
    error_ND = on_gpu_ND.grad.cpu().double() - exact_ND.grad
    assert error_ND.norm() < 2 * MATMUL_AND_REDUCTIONS * exact_ND.grad.norm()


def test_the_hard_loss_is_that_of_the_cpu(device: str) -> None:
    """Which negatives are hard is decided in float32 on both."""
    g = torch.Generator().manual_seed(0)
    z_ND, y_N = torch.randn(600, 128, generator=g), torch.arange(600) // 2
    loss = HardContrastive()
    on_gpu, on_cpu = loss(z_ND.to(device), y_N.to(device)), loss(z_ND, y_N)
    assert on_gpu.item() == pytest.approx(on_cpu.item(), rel=1e-4)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("preset", choices("augment"))
def test_augmentation_is_that_of_the_cpu(preset: str, channels: int, device: str) -> None:
    data: Any = SimpleNamespace(image_size=32, mean=(0.5,) * channels, std=(0.25,) * channels)
    augment = build_augment(compose_run([f"augment={preset}"]).config, data)
    g = torch.Generator().manual_seed(0)
    images_BCHW = torch.randint(0, 256, (64, channels, 40, 40), dtype=torch.uint8, generator=g)
    views = [
        augment(images, views=2, generator=generator(1, "augment", 1)).cpu()
        for images in (images_BCHW, images_BCHW.to(device))
    ]
    # Normalised values reach from -2 to 2; 1/255 of the range of levels is 0.016.
    differs = (views[0] - views[1]).abs() >= 2e-5
    # RandAugment rounds to levels, here after a jitter: few values lie so near to the middle
    # between two levels that the last bit decides.
    allowed = 0.02 if preset == "stacked_randaugment" else 0.0
    assert differs.double().mean() <= allowed


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("preset", choices("augment"))
def test_both_forms_of_augmentation_are_the_same_on_a_gpu(
    preset: str,
    channels: int,
    device: str,
    waiting_forbidden: Callable[[], Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """By groups, and with masks, without waiting; floats but for fused multiplications."""
    data: Any = SimpleNamespace(image_size=32, mean=(0.5,) * channels, std=(0.25,) * channels)
    augment = build_augment(compose_run([f"augment={preset}"]).config, data)
    g = torch.Generator().manual_seed(0)
    shape = (64, channels, 32, 32)
    images_BCHW = torch.randint(0, 256, shape, dtype=torch.uint8, generator=g).to(device)
    monkeypatch.setattr(pipeline, "GROUPED_ON", ())
    augment(images_BCHW, views=2, generator=generator(1, "augment", 1))  # kernels are loaded
    with waiting_forbidden():
        static = augment(images_BCHW, views=2, generator=generator(1, "augment", 1))
    monkeypatch.setattr(pipeline, "GROUPED_ON", (device,))
    grouped = augment(images_BCHW, views=2, generator=generator(1, "augment", 1))
    differs = (static - grouped).abs() >= 2e-5
    allowed = 0.02 if preset == "stacked_randaugment" else 0.0  # it rounds after a jitter
    assert differs.double().mean() <= allowed


@pytest.mark.parametrize(
    "words",
    [
        *([f"loss={loss}"] for loss in choices("loss") if loss != "of_method"),
        *([f"augment={preset}"] for preset in choices("augment")),
        *([f"optimizer={optimizer}"] for optimizer in choices("optimizer")),
        ["precision=fp16"],
        ["precision=fp32"],
        ["method=class_rows"],
    ],
    ids=" ".join,
)
def test_a_step_never_waits(
    compose_tiny: Callable[..., DictConfig],
    few_digits: DataSet,
    words: list[str],
    device: str,
    waiting_forbidden: Callable[[], Any],
) -> None:
    skip_fp16_on_a_cpu(device, words)
    augment = [] if words[0].startswith("augment") else ["augment=simaug"]
    precision = [] if words[0].startswith("precision") else ["precision=auto"]
    words = [*words, *augment, *precision, "batch_size=32", f"device={device}"]
    trainer = build_run(compose_tiny(*words), data=few_digits).trainer
    trainer.method.train()
    batches = trainer.loader.epoch(0)
    for batch in islice(batches, 2):  # kernels are loaded and chosen
        trainer.train_step(batch)
    batch = next(batches)
    with waiting_forbidden():
        step = trainer.train_step(batch)
    assert torch.isfinite(step.loss)


@pytest.mark.parametrize("precision", ["bf16", "fp16", "fp32"])
@pytest.mark.usefixtures("on_few_digits")
def test_an_interrupted_run_ends_as_if_nothing_had_happened(
    command: Callable[..., Any],
    signalled: Callable[..., Any],
    tiny_words: Callable[..., list[str]],
    tmp_path: Path,
    device: str,
    precision: str,
) -> None:
    """But for the order in which a GPU sums, which may differ between two runs."""
    skip_fp16_on_a_cpu(device, [f"precision={precision}"])
    words = tiny_words("epochs=2", "batch_size=32", f"device={device}", f"precision={precision}")
    whole, part = tmp_path / "whole", tmp_path / "part"
    assert command(*words, f"hydra.run.dir={whole}").status == 0
    with signalled(7):
        assert command(*words, f"hydra.run.dir={part}").status == 130
    assert command(f"resume={part}").status == 0
    ends = []
    for folder in (whole, part):
        lines = map(json.loads, RunDir(folder).metrics.read_text().splitlines())
        ends.append([line["loss"] for line in lines if "loss" in line][-1])
    assert ends[1] == pytest.approx(ends[0], rel=1e-2)


def test_features_of_files_are_those_of_the_cpu(tmp_path: Path, device: str) -> None:
    rng = np.random.default_rng(0)
    paths = [str(tmp_path / f"{i}.png") for i in range(20)]
    for path in paths:
        Image.fromarray(rng.integers(0, 256, (40, 33, 3), np.uint8)).save(path)
    batches = [paths[:8], paths[8:16], paths[16:]]
    encoder = build_encoder(compose_run(["encoder=resnet8"]).config, image_size=32)
    found = []
    for name in ("cpu", device):
        runtime = Runtime(device=name, precision="fp32")
        embedder = Embedder(
            module=runtime.place(encoder).eval(),
            dim=encoder.feature_dim,
            normalize=Normalize(size=32, mean=(0.5,) * 3, std=(0.25,) * 3),
            runtime=runtime,
            step=0,
        )
        with feature_batches(embedder, batches, workers=2, skip=False) as of_batches:
            found.append(torch.cat([x_BD.cpu() for x_BD, _ in of_batches]))
    assert torch.allclose(found[1], found[0], atol=1e-3)  # TF32 in convolutions


def skip_fp16_on_a_cpu(device: str, words: list[str]) -> None:
    if device == "cpu" and "precision=fp16" in words:
        pytest.skip("fp16 needs a GPU")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torchvision's decoders
def test_jpegs_decoded_on_the_gpu_are_nearly_those_of_pillow(tmp_path: Path, device: str) -> None:
    y, x = np.mgrid[0:300, 0:400]
    waves = [np.sin((y * a + x * b) / 19) for a, b in ((1, 2), (2, -1), (1, 1))]
    pixels = (127 * (1 + np.stack(waves, 2))).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.jpg", quality=95)
    crop = RandomResizedCrop()
    numbers_VK = crop.draw_numbers(2, torch.Generator().manual_seed(0))
    if device != "cpu":
        check_gpu_decoding(torch.device(device))
    request = Boxes(tmp_path / "a.jpg", numbers_VK, [([crop] * 2, 64)])
    ((found,),) = GpuReader(1).answers([[request, request]], torch.device(device))
    assert found.device.type == torch.device(device).type
    off = (found[1].cpu().float() - request.read()[0].float()).abs().mean()
    assert off < 4  # a turned or shifted image is off by 30 and more
