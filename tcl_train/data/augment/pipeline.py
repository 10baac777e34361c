"""From uint8 images to the normalised views that encoders take.

V: views; B: images; C: channels; H, W: rows and columns; N = V x B; S: side of the output.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from tcl_train.data.augment.block import Block, columns_of, numbers_of, on_device
from tcl_train.data.augment.geometry import HorizontalFlip, PadCrop, RandomResizedCrop
from tcl_train.data.augment.transform import Parameters, Transform
from tcl_train.data.normalize import Normalize, check_room

# On the CPU, a batch is processed in parts that fit in the cache: this many values per thread. On
# other devices each part would cost kernel launches, so the batch is one part.
VALUES_A_THREAD = 2**20

# Options of torch.compile with which :meth:`Augment.apply_static` becomes the fewest loops: by
# default expressions of more than 30 operations or 8 reads are put in memory.
COMPILE_OPTIONS = {"realize_opcount_threshold": 1000, "realize_acc_reads_threshold": 100}

# Where transforms are applied to the images that they change only; elsewhere in their static form.
GROUPED_ON = ("cpu",)


class Augment:
    """Applies transforms in the order of their names in the config, then normalises
    (:class:`tcl_train.data.normalize.Normalize`).

        views_NCHW = augment(images_BCHW, views=2, generator=generator(seed, "augment", step))

    The first B rows are the first view of each image, the next B the second. `second`: the
    transforms of every second view; None: all views use the same. A transform may also have a
    probability for each view (see :class:`Transform`).

    cut: the images are views already, view after view (V x B), of which the first transform's
    crops were made where the files were read; see :meth:`without_crops`.
    """

    def __init__(
        self,
        transforms: Mapping[str, Transform],
        normalize: Normalize,
        second: Mapping[str, Transform] | None = None,
        *,
        cut: bool = False,
    ) -> None:
        self.transforms = transforms
        self.second = second
        self.normalize = normalize
        self.cut = cut

    def __call__(self, images_BCHW: Tensor, *, views: int, generator: torch.Generator) -> Tensor:
        n, _, height, width = images_BCHW.shape
        count = n // views if self.cut else n
        parameters = self.draw(count, height, width, views=views, generator=generator)
        return self.apply(images_BCHW, parameters, views=views)

    def draw(
        self, count: int, height: int, width: int, *, views: int, generator: torch.Generator
    ) -> list[list[Parameters]]:
        """For `count` images: for each kind of view its transforms' parameters, whose rows are
        the images of its first view, then of its next."""
        self.check(height, width)
        drawn = []
        for transforms, of_kind in self._kinds(views):
            size, parameters = (height, width), []
            for transform in transforms:
                parameters.append(transform.draw(len(of_kind) * count, *size, generator))
                size = transform.output_size(*size, self.normalize.size)
            drawn.append(parameters)
        return drawn

    def blocks(
        self, parameters: list[list[Parameters]], count: int, height: int, width: int, *, views: int
    ) -> list[Block]:
        """What :meth:`draw` gave, or :func:`rows_of` that, for `count` images in the static form:
        a block, on the host, for all views that have the same transforms but for probabilities."""
        rows = self._rows()[:views]
        kinds = list(zip(self._kinds(views), parameters, strict=True))
        blocks = []
        for i in range(len(rows)):
            numbers: list[Tensor] = []
            order: list[int] = []
            for (transforms, of_kind), drawn in kinds[i :: len(rows)]:
                size, columns = (height, width), []
                for transform, values in zip(transforms, drawn, strict=True):
                    columns.append(transform.columns(values, *size, self.normalize.size))
                    size = transform.output_size(*size, self.normalize.size)
                numbers_NK = numbers_of(columns, len(of_kind) * count)
                numbers.append(numbers_NK.unflatten(0, (len(of_kind), count)))
                order += of_kind
            in_order_VBK = torch.cat(numbers)[np.argsort(order)]
            blocks.append(Block(in_order_VBK, columns_of(columns)))
        return blocks

    def apply(
        self, images_BCHW: Tensor, parameters: list[list[Parameters]], *, views: int
    ) -> Tensor:
        """Never waits for the device."""
        b = len(images_BCHW) // views if self.cut else len(images_BCHW)
        device = images_BCHW.device
        if is_static(device):
            blocks = self.blocks(parameters, b, *images_BCHW.shape[2:], views=views)
            return self.apply_static(images_BCHW, on_device(blocks, device), views=views)
        result_NCSS = self.normalize.empty(views * b, images_BCHW.device)
        for (transforms, of_kind), drawn in zip(self._kinds(views), parameters, strict=True):
            for part in _parts(of_kind, images_BCHW, b):
                # A view has its rows in the parameters after those of the kind's earlier ones.
                first = of_kind.index(part.views[0]) * b + part.start
                x_NCHW = self._images(images_BCHW, part, b)
                for transform, values in _steps(transforms, drawn):
                    rows = _rows(values, first, len(x_NCHW), len(of_kind) * b)
                    x_NCHW = transform.apply(x_NCHW, rows, self.normalize.size)
                for view, view_NCHW in zip(part.views, x_NCHW.chunk(len(part.views)), strict=True):
                    begin = view * b + part.start
                    self.normalize.write(view_NCHW, result_NCSS[begin : begin + len(view_NCHW)])
        return result_NCSS

    def apply_static(self, images_BCHW: Tensor, blocks: Sequence[Block], *, views: int) -> Tensor:
        """With the blocks of :meth:`blocks` on the images' device. Shapes and kernels do not depend
        on what was drawn, so that it may be compiled as a whole."""
        b = len(images_BCHW) // views if self.cut else len(images_BCHW)
        result_NCSS = self.normalize.empty(views * b, images_BCHW.device)
        result_VBCSS = result_NCSS.unflatten(0, (views, b))
        for i, (transforms, block) in enumerate(zip(self._rows()[:views], blocks, strict=True)):
            of_block = range(i, views, len(blocks))
            x_NCHW = self._images(images_BCHW, _Part(of_block, 0, b), b)
            for transform, columns in _steps(transforms, block.parameters()):
                x_NCHW = transform.apply_static(x_NCHW, columns, self.normalize.size)
            if len(blocks) == 1:
                self.normalize.write(x_NCHW, result_NCSS)
            else:
                for view, view_BCHW in zip(of_block, x_NCHW.chunk(len(of_block)), strict=True):
                    self.normalize.write(view_BCHW, result_VBCSS[view])
        return result_NCSS

    def _images(self, images_BCHW: Tensor, part: _Part, b: int) -> Tensor:
        """The images of the part's views, view after view."""
        if self.cut:
            of_views = [images_BCHW[v * b + part.start : v * b + part.stop] for v in part.views]
            return of_views[0] if len(of_views) == 1 else torch.cat(of_views)
        x_NCHW = images_BCHW[part.start : part.stop]
        return x_NCHW if len(part.views) == 1 else x_NCHW.repeat(len(part.views), 1, 1, 1)

    def crops(self, views: int) -> list[RandomResizedCrop] | None:
        """The crop with which each view begins; None where one begins otherwise."""
        first: dict[int, object] = {}
        for transforms, of_kind in self._kinds(views):
            first |= dict.fromkeys(of_kind, transforms[0] if transforms else NOTHING)
        crops = [first[view] for view in range(views)]
        return crops if all(isinstance(c, RandomResizedCrop) for c in crops) else None  # type: ignore[return-value]

    def without_crops(self) -> Augment:
        """What is left to do with views that are cut already, by :meth:`crops`."""
        second = None if self.second is None else _rest(self.second)
        return Augment(_rest(self.transforms), self.normalize, second, cut=True)

    def with_size(self, size: int | None) -> Augment:
        """The same for views with another side in pixels; None: unchanged."""
        if size is None or size == self.normalize.size:
            return self
        normalize = self.normalize.with_size(size)
        return Augment(self.transforms, normalize, self.second, cut=self.cut)

    def check(self, height: int, width: int) -> None:
        """Raises ValueError that names the transform if it cannot take images of this size."""
        for place, transforms in (("augment", self.transforms), ("second_view", self.second or {})):
            size = height, width
            for name, transform in transforms.items():
                try:
                    size = transform.output_size(*size, self.normalize.size)
                except ValueError as error:
                    raise ValueError(f"{place}.{name}: {error}") from error
            if self.second is not None or place == "augment":
                check_room(*size, self.normalize.size)

    def _rows(self) -> list[list[Transform]]:
        """The transforms of the first view, and those of every second one if it has others."""
        rows = [self.transforms] if self.second is None else [self.transforms, self.second]
        return [list(row.values()) for row in rows]

    def _kinds(self, views: int) -> list[tuple[list[Transform], range]]:
        """The views that have the same transforms with the same settings, kind by kind."""
        of_views = self._rows()
        every = [transform.p for of_view in of_views for transform in of_view]
        lengths = [len(p) for p in every if isinstance(p, tuple)]
        kinds = math.lcm(len(of_views), *lengths)  # after so many views they begin again
        return [
            (
                [transform.of_view(kind) for transform in of_views[kind % len(of_views)]],
                range(kind, views, kinds),
            )
            for kind in range(min(kinds, views))
        ]


def is_static(device: torch.device) -> bool:
    """Whether views are made in the static form there."""
    return device.type not in GROUPED_ON


def _steps(
    transforms: Sequence[Transform], parameters: Sequence[Parameters]
) -> list[tuple[Transform, Parameters]]:
    """The transforms with their parameters. A crop does the flip that comes after it."""
    steps: list[tuple[Transform, Parameters]] = []
    for transform, values in zip(transforms, parameters, strict=True):
        if steps and isinstance(transform, HorizontalFlip):
            before, of_before = steps[-1]
            if isinstance(before, RandomResizedCrop | PadCrop) and "flip" not in of_before:
                steps[-1] = before, {**of_before, **values}
                continue
        steps.append((transform, values))
    return steps


NOTHING = object()


def _rest(transforms: Mapping[str, Transform]) -> dict[str, Transform]:
    return dict(list(transforms.items())[1:])


class _Part(NamedTuple):
    """The same images in some of the views."""

    views: range
    start: int
    stop: int


def _parts(views: range, images_BCHW: Tensor, b: int) -> Iterator[_Part]:
    most = len(views) * b
    if images_BCHW.device.type == "cpu":
        most = int(VALUES_A_THREAD * torch.get_num_threads()) // images_BCHW[:1].numel()
    if len(views) * b <= most:
        yield _Part(views, 0, b)
        return
    for i in range(len(views)):
        for start in range(0, b, max(1, most)):
            yield _Part(views[i : i + 1], start, min(b, start + max(1, most)))


def rows_of(
    parameters: list[list[Parameters]], images: slice | Tensor, count: int
) -> list[list[Parameters]]:
    """What :meth:`Augment.draw` gave for `count` images, for some of them."""
    return [
        [
            {
                name: value.unflatten(0, (-1, count))[:, images].flatten(0, 1)
                for name, value in drawn.items()
            }
            for drawn in of_kind
        ]
        for of_kind in parameters
    ]


def _rows(parameters: Parameters, first: int, count: int, of: int) -> Parameters:
    if count == of:
        return parameters
    return {name: value[first : first + count] for name, value in parameters.items()}
