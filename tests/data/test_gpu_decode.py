"""JPEGs decoded by torchvision in place of Pillow, here on the CPU, which it decodes on as well."""

from __future__ import annotations

import io
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import DictConfig
from PIL import Image

from tcl_train.building.run import build_run
from tcl_train.data import gpu_decode, images
from tcl_train.data.augment import RandomResizedCrop
from tcl_train.data.decode import UnreadableImage
from tcl_train.data.gpu_decode import GpuReader, check_gpu_decoding
from tcl_train.data.images import FileImages
from tcl_train.data.requests import Boxes, Whole
from tcl_train.errors import RequestError

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torchvision's decoders

CPU = torch.device("cpu")
SIDE = 16
ORIENTATION = 0x0112
LEVELS = 3.0  # on average; a turned or shifted image is off by 30 and more


def picture(height: int, width: int) -> Image.Image:
    y, x = np.mgrid[0:height, 0:width]
    waves = [np.sin((y * a + x * b) / 9) for a, b in ((1, 2), (2, -1), (1, 1))]
    return Image.fromarray((127 * (1 + np.stack(waves, 2))).astype(np.uint8))


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    rgb = picture(60, 90)
    turned = Image.Exif()
    turned[ORIENTATION] = 6
    kinds: dict[str, tuple[Image.Image, dict[str, Any]]] = {
        "rgb.jpg": (rgb, {"quality": 95}),
        "progressive.jpg": (rgb, {"quality": 95, "progressive": True}),
        "grey.jpg": (rgb.convert("L"), {"quality": 95}),
        "turned.jpg": (rgb, {"quality": 95, "exif": turned}),
        "inks.jpg": (rgb.convert("CMYK"), {"quality": 95}),
        "other.png": (rgb, {}),
    }
    for name, (image, how) in kinds.items():
        image.save(tmp_path / name, **how)
    return {name: tmp_path / name for name in kinds}


BY_DECODER = ("rgb.jpg", "progressive.jpg", "grey.jpg")


def whole(path: Path) -> Whole:
    return Whole(path, SIDE)


def boxes(path: Path) -> Boxes:
    crop, g = RandomResizedCrop(scale=(0.2, 0.6)), torch.Generator().manual_seed(1)
    return Boxes(path, crop.draw_numbers(3, g), [([crop, crop], SIDE), ([crop], SIDE // 2)])


@pytest.mark.parametrize("asked", [whole, boxes])
def test_the_answers_are_those_of_pillow_within_rounding(
    files: dict[str, Path], asked: Callable[[Path], Whole | Boxes]
) -> None:
    batch = [asked(path) for path in files.values()]
    (answer,) = GpuReader(2).answers([batch], CPU)
    expected = [torch.stack(of_group) for of_group in zip(*(r.read() for r in batch), strict=True)]
    assert [(x.shape, x.dtype) for x in answer] == [(x.shape, x.dtype) for x in expected]
    for found, wanted in zip(answer, expected, strict=True):
        for i, name in enumerate(files):
            off = (found[i].float() - wanted[i].float()).abs().mean()
            assert off < LEVELS if name in BY_DECODER else off == 0, name


def test_upright_jpegs_of_rgb_or_grey_go_to_the_decoder_and_the_order_stays(
    files: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded: list[int] = []
    decode = gpu_decode.decode_jpegs

    def counted(contents: Any, device: torch.device) -> list[torch.Tensor]:
        decoded.append(len(contents))
        return decode(contents, device)

    monkeypatch.setattr(gpu_decode, "decode_jpegs", counted)
    batches = [[whole(path)] for path in files.values()]
    answers = [answer for (answer,) in GpuReader(1).answers(batches, CPU)]
    assert len(answers) == len(files)
    assert dict(zip(files, decoded, strict=True)) == {name: name in BY_DECODER for name in files}


def test_what_the_decoder_does_not_take_comes_from_pillow_and_is_said_once(
    files: dict[str, Path], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuses(contents: Any, device: torch.device) -> list[torch.Tensor]:
        raise RuntimeError("not this one\nsecond line")

    monkeypatch.setattr(gpu_decode, "decode_jpegs", refuses)
    batch = [boxes(path) for path in files.values()]
    for answer in GpuReader(1).answers([batch, batch], CPU):
        for i, request in enumerate(batch):
            for found, expected in zip(answer, request.read(), strict=True):
                assert torch.equal(found[i], expected)
    assert caplog.messages == ["a batch is decoded on the CPU: not this one"]


def test_a_damaged_file_is_named(files: dict[str, Path]) -> None:
    path = files["rgb.jpg"]
    path.write_bytes(path.read_bytes()[:700])
    with pytest.raises(UnreadableImage, match=r"rgb\.jpg: cut off"):
        next(GpuReader(1).answers([[whole(path)]], CPU))
    path.unlink()
    with pytest.raises(UnreadableImage, match=r"rgb\.jpg: cannot be read"):
        next(GpuReader(1).answers([[whole(path)]], CPU))


def test_only_a_gpu_decodes(files: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """Evaluating on a CPU, or measuring mean and deviation there, goes through the workers."""
    monkeypatch.delattr(images, "GpuReader")
    of_files = FileImages([*files.values()], SIDE, workers=0, on_gpu=True)
    (found,) = of_files.chosen(torch.tensor([5])).batches([torch.tensor([0])], CPU)
    assert torch.equal(found[0], whole(files["other.png"]).read()[0])
    assert of_files.chosen(torch.tensor([5])).on_gpu


# ------------------------------------------------------------------ what is refused


def test_a_run_without_a_gpu_is_refused(compose_tiny: Callable[..., DictConfig]) -> None:
    with pytest.raises(RequestError, match=r"^data.decode=gpu needs a CUDA device.*decode=cpu$"):
        build_run(compose_tiny("data.decode=gpu", "device=cpu"))


def test_a_torchvision_that_cannot_decode_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuses(contents: Any, device: torch.device) -> list[torch.Tensor]:
        raise RuntimeError("it was built without nvJPEG\nand more")

    monkeypatch.setattr(gpu_decode, "decode_jpegs", refuses)
    expected = f"torchvision {version('torchvision')} cannot decode on this GPU"
    with pytest.raises(RequestError, match=r"\(it was built without nvJPEG\); give") as caught:
        check_gpu_decoding(torch.device("cuda"))
    assert expected in str(caught.value)


def test_a_jpeg_that_torchvision_cannot_read_is_a_runtime_error() -> None:
    """Which the reader relies on."""
    broken = io.BytesIO()
    picture(20, 20).save(broken, "JPEG")
    content = torch.tensor([*broken.getvalue()[:150]], dtype=torch.uint8)
    with pytest.raises(RuntimeError):
        gpu_decode.decode_jpegs([content], CPU)
