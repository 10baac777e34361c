"""Which views a step trains on: groups of views, each of one size.

B: images of the global batch; V: views of a group; C, H, W: channels, rows, columns; S: side of the
views.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import NamedTuple

import torch
from torch import Tensor

from tcl_train.data.augment import Augment
from tcl_train.data.augment.block import Block, on_device
from tcl_train.data.augment.pipeline import is_static, rows_of
from tcl_train.data.augment.transform import Parameters
from tcl_train.runtime.randomness import generator


@dataclass(frozen=True, kw_only=True)
class ViewGroup:
    """`count` views of each image, `size` pixels wide, by epoch; None: as the augmentation says."""

    augment: Augment
    count: int
    size: Callable[[int], int | None] = lambda _: None
    name: str = "views"

    @property
    def title(self) -> str:
        return self.name if self.name == "views" else f"further views ({self.name})"

    def side(self, epoch: int) -> int:
        return self.size(epoch) or self.augment.normalize.size


MakeViews = Callable[..., Tensor]  # with the arguments of Augment.apply_static


class ViewPlan:
    """The groups of views of a run. All draws follow from (seed, step).

    compiled: what compiles :meth:`Augment.apply_static`, if anything does, once for each size.
    """

    def __init__(
        self,
        groups: Sequence[ViewGroup],
        *,
        seed: int,
        compiled: Callable[[MakeViews], MakeViews] = lambda make: make,
    ) -> None:
        self.groups = tuple(groups)
        self.seed = seed
        self._compiled = compiled
        self._of_sizes: dict[tuple[int, int | None], tuple[Augment, MakeViews]] = {}

    @property
    def count(self) -> int:
        """Views of each image."""
        return sum(group.count for group in self.groups)

    def pixels(self, epoch: int) -> int:
        """Of all views of an image, what encoding them is about proportional to."""
        return sum(group.count * group.side(epoch) ** 2 for group in self.groups)

    def draw(
        self, images: Sequence[Tensor], places_B: Tensor, *, batch_size: int, epoch: int, step: int
    ) -> DrawnViews:
        """Draws for the global batch and keeps what belongs to these images.

        images: (B, C, H, W) of which all views are made, or for each group its views, cut out
        already. places_B: the images' places in the global batch of `batch_size`.
        """
        drawn = []
        for i, (group, images_BCHW) in enumerate(self.with_images(images)):
            augment, make = self._of_size(i, group.size(epoch), images_BCHW.device)
            g = generator(self.seed, "augment", step, *([i] if i else []))
            height, width = images_BCHW.shape[2:]
            parameters = augment.draw(batch_size, height, width, views=group.count, generator=g)
            if len(places_B) != batch_size:
                parameters = rows_of(parameters, places_B, batch_size)
            drawn.append(_Drawn(images_BCHW, augment, group.count, parameters, make))
        if is_static(images_BCHW.device):
            drawn = _copied(drawn, len(places_B), images_BCHW.device)
        return DrawnViews(drawn, len(places_B))

    def _of_size(self, i: int, size: int | None, device: torch.device) -> tuple[Augment, MakeViews]:
        """The augmentation of a group for views of this size, and what makes them in the static
        form."""
        if (i, size) not in self._of_sizes:
            augment = self.groups[i].augment.with_size(size)
            augment.normalize.constants(device)  # else the compiler meets them at the second step
            self._of_sizes[i, size] = augment, self._compiled(augment.apply_static)
        return self._of_sizes[i, size]

    def with_images(self, images: Sequence[Tensor]) -> Iterator[tuple[ViewGroup, Tensor]]:
        """Each group with what its views are made of."""
        each = images if len(images) == len(self.groups) else [*images] * len(self.groups)
        return zip(self.groups, each, strict=True)


class _Drawn(NamedTuple):
    """A group of views that are not made yet."""

    images_BCHW: Tensor
    augment: Augment
    views: int
    parameters: list[list[Parameters]]
    make: MakeViews
    blocks: Sequence[Block] | None = None  # the parameters on the device, in the static form

    def of(self, images: slice, count: int) -> Tensor:
        """The views of some of the `count` images."""
        x_BCHW, parameters, blocks = self.images_BCHW, self.parameters, self.blocks
        if images != slice(0, count):
            per_image = x_BCHW.unflatten(0, (-1, count))  # cut already: view after view
            x_BCHW = per_image[:, images].flatten(0, 1)
            if blocks is None:
                parameters = rows_of(parameters, images, count)
            else:
                blocks = [block.of(images) for block in blocks]
        if blocks is None:
            return self.augment.apply(x_BCHW, parameters, views=self.views)
        return self.make(x_BCHW, blocks, views=self.views)


def _copied(drawn: Sequence[_Drawn], count: int, device: torch.device) -> list[_Drawn]:
    """The same for the static form: the parameters of all groups go to the device in one copy."""
    of_groups = [
        d.augment.blocks(d.parameters, count, *d.images_BCHW.shape[2:], views=d.views)
        for d in drawn
    ]
    copies = iter(on_device([block for blocks in of_groups for block in blocks], device))
    return [
        d._replace(blocks=list(islice(copies, len(blocks))))
        for d, blocks in zip(drawn, of_groups, strict=True)
    ]


class DrawnViews:
    """Views of `count` images, made when they are asked for, with the same draws each time."""

    def __init__(self, drawn: Sequence[_Drawn], count: int) -> None:
        self.count = count
        self._drawn = drawn

    def of(self, images: slice) -> list[Tensor]:
        """The views of some of the images: for each group (V x images, C, S, S), float32, view
        after view."""
        return [drawn.of(images, self.count) for drawn in self._drawn]
