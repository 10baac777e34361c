"""JPEG files decoded on a GPU by torchvision, in place of loader workers, and cut to views there.

Another decoder and another rounding make pixels that differ by a few levels on average from those
of Pillow, and by more where Pillow decodes large files at a reduced size. What the GPU does not
decode comes from Pillow, in threads: other types, JPEGs that are to be turned upright, and those
that are neither grey nor stored as usual.

B: images; V: views; S: the side of a view. Images are uint8, (3, H, W).
"""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future
from importlib.metadata import version

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from tcl_train.data.decode import TRANSPOSE, orientation_of, read_content
from tcl_train.data.requests import Boxes
from tcl_train.data.stream import AHEAD, begun_ahead
from tcl_train.errors import RequestError
from tcl_train.runtime.threads import Threads

log = logging.getLogger(__name__)

Content = Tensor | list[Tensor]  # the bytes of a file, or views of it
RGB_AS_IT_IS = 0  # an Adobe marker's word for colours that are not stored as brightness and hue


def check_gpu_decoding(device: torch.device) -> None:
    """Raises RequestError where this device or this torchvision cannot decode."""
    if device.type != "cuda":
        raise RequestError(
            f"data.decode=gpu needs a CUDA device, this run has {device.type}; give data.decode=cpu"
        )
    small = io.BytesIO()
    Image.new("RGB", (16, 16)).save(small, "JPEG")
    try:
        decode_jpegs([_as_tensor(small.getvalue())], device)
    except (ImportError, RuntimeError) as error:
        raise RequestError(
            f"data.decode=gpu: torchvision {version('torchvision')} cannot decode on this GPU "
            f"({str(error).splitlines()[0]}); give data.decode=cpu"
        ) from error


def decode_jpegs(contents: Sequence[Tensor], device: torch.device) -> list[Tensor]:
    """Each file's bytes as an image (3, H, W), uint8, on the device."""
    if not contents:
        return []
    from torchvision.io import ImageReadMode, decode_jpeg  # which takes a second to load

    return decode_jpeg([*contents], mode=ImageReadMode.RGB, device=device)


class GpuReader:
    """Answers lists of requests for boxes with views on a device.

    threads: that read files.
    """

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self._said = False

    def answers(
        self, requests: Iterable[list[Boxes]], device: torch.device
    ) -> Iterator[list[Tensor]]:
        """For each list, the views of each group (B, V, 3, S, S), uint8, on the device.

        Raises:
            UnreadableImage: a file is missing, damaged, or not an image.
        """
        warnings.filterwarnings("ignore", module="PIL")  # as in loader workers
        with Threads(self.threads) as pool:

            def begin(batch: list[Boxes]) -> tuple[list[Boxes], list[Future[Content]]]:
                return batch, [pool.submit(_prepared, request) for request in batch]

            for batch, futures in begun_ahead(map(begin, requests), AHEAD):
                yield self._answer(batch, [future.result() for future in futures], device, pool)

    def _answer(
        self, batch: list[Boxes], found: list[Content], device: torch.device, pool: Threads
    ) -> list[Tensor]:
        contents = {place: x for place, x in enumerate(found) if isinstance(x, Tensor)}
        images = dict(zip(contents, self._decoded([*contents.values()], device), strict=True))
        decoded = {place: image for place, image in images.items() if image is not None}
        refused = {place: pool.submit(batch[place].read) for place in images.keys() - decoded}
        cut = _cut([batch[place] for place in decoded], [*decoded.values()])
        views = dict(zip(decoded, cut, strict=True))
        for place, x in enumerate(found):
            if place not in views:
                read = refused[place].result() if isinstance(x, Tensor) else x
                views[place] = [of_group.to(device, non_blocking=True) for of_group in read]
        in_order = [views[place] for place in range(len(batch))]
        return [torch.stack(of_group) for of_group in zip(*in_order, strict=True)]

    def _decoded(self, contents: list[Tensor], device: torch.device) -> list[Tensor | None]:
        """None for a file that the decoder refuses."""
        try:
            return [*decode_jpegs(contents, device)]
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            if len(contents) > 1:  # which of them is not said
                return [image for x in contents for image in self._decoded([x], device)]
            if not self._said:
                log.warning("an image is decoded on the CPU: %s", str(error).splitlines()[0])
                self._said = True
            return [None]


def _cut(batch: list[Boxes], images: list[Tensor]) -> list[list[Tensor]]:
    """The views of each image, as :meth:`Boxes.read` gives them but for the rounding, and where
    that decodes at a reduced size."""
    if not batch:
        return []
    parts = [iter(of_image) for of_image in _parts(batch, images)]
    of_groups = []
    for crops, size in batch[0].groups:
        squares_BV = [[_resized(next(of_image), size) for _ in crops] for of_image in parts]
        views_BVCSS = torch.stack([torch.stack(squares_V) for squares_V in squares_BV])
        of_groups.append(views_BVCSS.round_().clamp_(0, 255).to(torch.uint8))
    return [[*of_image] for of_image in zip(*of_groups, strict=True)]


def _parts(batch: list[Boxes], images: list[Tensor]) -> list[list[Tensor]]:
    """Of each image, what lies in the box of each view."""
    height_B, width_B = (torch.tensor([image.shape[k] for image in images]) for k in (1, 2))
    numbers_BVK = torch.stack([request.numbers_VK for request in batch])
    crops = [crop for crops, _ in batch[0].groups for crop in crops]
    parts: list[list[Tensor]] = [[] for _ in images]
    for crop, numbers_BK in zip(crops, numbers_BVK.unbind(1), strict=True):
        box = crop.boxes(numbers_BK, height_B, width_B)  # of whole pixels
        edges = [box[name].int().tolist() for name in ("top", "left", "height", "width")]
        for of_image, image, top, left, height, width in zip(parts, images, *edges, strict=True):
            of_image.append(image[:, top : top + height, left : left + width])
    return parts


def _resized(part_3HW: Tensor, size: int) -> Tensor:
    square = F.interpolate(part_3HW[None].float(), (size, size), mode="bilinear", antialias=True)
    return square[0]


def _prepared(request: Boxes) -> Content:
    """The content of a file that the GPU can decode, or the views."""
    content = read_content(request.path)
    return _as_tensor(content) if _is_for_gpu(content) else request.read()


def _as_tensor(content: bytes) -> Tensor:
    return torch.frombuffer(bytearray(content), dtype=torch.uint8)


def _is_for_gpu(content: bytes) -> bool:
    try:
        with Image.open(io.BytesIO(content)) as image:
            is_upright = orientation_of(image) not in TRANSPOSE
            as_usual = image.info.get("adobe_transform") != RGB_AS_IT_IS
            in_colours = image.mode in ("RGB", "L")
            return image.format == "JPEG" and in_colours and is_upright and as_usual
    except Exception:  # the other decoder says what is wrong
        return False
