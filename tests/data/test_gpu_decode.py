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
from tcl_train.data import gpu_decode
from tcl_train.data.augment import RandomResizedCrop
from tcl_train.data.decode import UnreadableImage
from tcl_train.data.gpu_decode import GpuReader, check_gpu_decoding
from tcl_train.data.images import FileImages
from tcl_train.data.requests import Boxes
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
    rgb = picture(60, 91)
    turned = Image.Exif()
    turned[ORIENTATION] = 6
    kinds: dict[str, tuple[Image.Image, dict[str, Any]]] = {
        "rgb.jpg": (rgb, {"quality": 95}),
        "progressive.jpg": (rgb, {"quality": 95, "progressive": True}),
        "grey.jpg": (rgb.convert("L"), {"quality": 95}),
        "turned.jpg": (rgb, {"quality": 95, "exif": turned}),
        "as it is.jpg": (rgb, {"quality": 95, "keep_rgb": True}),
        "inks.jpg": (rgb.convert("CMYK"), {"quality": 95}),
        "other.png": (rgb, {}),
    }
    for name, (image, how) in kinds.items():
        image.save(tmp_path / name, **how)
    return {name: tmp_path / name for name in kinds}


BY_DECODER = ("rgb.jpg", "progressive.jpg", "grey.jpg")


def boxes(path: Path) -> Boxes:
    crop, g = RandomResizedCrop(scale=(0.2, 0.6)), torch.Generator().manual_seed(1)
    return Boxes(path, crop.draw_numbers(3, g), [([crop, crop], SIDE), ([crop], SIDE // 2)])


def stacked(batch: list[Boxes]) -> list[torch.Tensor]:
    """As loader workers answer."""
    return [torch.stack(of_group) for of_group in zip(*(r.read() for r in batch), strict=True)]


def test_the_views_are_those_of_pillow_but_for_rounding(files: dict[str, Path]) -> None:
    batch = [boxes(path) for path in files.values()]
    (answer,) = GpuReader(2).answers([batch], CPU)
    expected = stacked(batch)
    assert [(x.shape, x.dtype) for x in answer] == [(x.shape, x.dtype) for x in expected]
    for found, wanted in zip(answer, expected, strict=True):
        for i, name in enumerate(files):
            off = (found[i].float() - wanted[i].float()).abs().mean()
            assert off < LEVELS if name in BY_DECODER else off == 0, name


def test_upright_jpegs_stored_as_usual_go_to_the_decoder_and_the_order_stays(
    files: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded: list[int] = []
    decode = gpu_decode.decode_jpegs

    def counted(contents: Any, device: torch.device) -> list[torch.Tensor]:
        decoded.append(len(contents))
        return decode(contents, device)

    monkeypatch.setattr(gpu_decode, "decode_jpegs", counted)
    batches = [[boxes(path)] for path in files.values()]
    assert len([*GpuReader(1).answers(batches, CPU)]) == len(files)
    assert dict(zip(files, decoded, strict=True)) == {name: name in BY_DECODER for name in files}


def test_what_the_decoder_refuses_comes_from_pillow_and_is_said_once(
    files: dict[str, Path], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    decode, grey = gpu_decode.decode_jpegs, len(files["grey.jpg"].read_bytes())

    def refuses_grey(contents: Any, device: torch.device) -> list[torch.Tensor]:
        if any(len(content) == grey for content in contents):
            raise RuntimeError("not this one\nsecond line")
        return decode(contents, device)

    monkeypatch.setattr(gpu_decode, "decode_jpegs", refuses_grey)
    batch = [boxes(path) for path in files.values()]
    expected, place = stacked(batch), [*files].index("grey.jpg")
    for answer in GpuReader(1).answers([batch, batch], CPU):
        for found, wanted in zip(answer, expected, strict=True):
            assert torch.equal(found[place], wanted[place])
            assert (found.float() - wanted.float()).abs().mean() < LEVELS
    assert caplog.messages == ["an image is decoded on the CPU: not this one"]


def test_a_full_memory_is_not_taken_for_a_refusal(
    files: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(contents: Any, device: torch.device) -> list[torch.Tensor]:
        raise torch.OutOfMemoryError("full")

    monkeypatch.setattr(gpu_decode, "decode_jpegs", full)
    with pytest.raises(torch.OutOfMemoryError):
        next(GpuReader(1).answers([[boxes(files["rgb.jpg"])]], CPU))


def test_a_damaged_file_is_named(files: dict[str, Path]) -> None:
    path = files["rgb.jpg"]
    path.write_bytes(path.read_bytes()[:700])
    with pytest.raises(UnreadableImage, match=r"rgb\.jpg: cut off"):
        next(GpuReader(1).answers([[boxes(path)]], CPU))
    path.unlink()
    with pytest.raises(UnreadableImage, match=r"rgb\.jpg: cannot be read"):
        next(GpuReader(1).answers([[boxes(path)]], CPU))


def test_only_a_gpu_decodes(files: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """And only what is cut to views: evaluation is the same on all devices."""
    monkeypatch.delattr(GpuReader, "answers")
    of_files = FileImages([*files.values()], SIDE, workers=0, on_gpu=True).chosen(torch.tensor([0]))
    assert of_files.on_gpu
    request, index_B = boxes(files["rgb.jpg"]), torch.tensor([0])
    (whole_BCHW,) = of_files.batches([index_B], CPU)
    assert whole_BCHW.shape == (1, 3, SIDE, SIDE)
    numbers = [request.numbers_VK[:, None]]
    (groups,) = of_files.cut_batches([index_B], numbers, request.groups, CPU)
    for found, (expected_VCSS,) in zip(groups, stacked([request]), strict=True):
        assert torch.equal(found, expected_VCSS)


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
