"""Which views a step trains on: groups of views, each of one size.

B: images of the global batch; V: views of a group; C, H, W: channels, rows, columns; S: side of the
views.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

from tcl_train.data.augment import Augment
from tcl_train.data.augment.pipeline import rows_of
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


class ViewPlan:
    """The groups of views of a run. All draws follow from (seed, step)."""

    def __init__(self, groups: Sequence[ViewGroup], *, seed: int) -> None:
        self.groups = tuple(groups)
        self.seed = seed

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
            augment = group.augment.with_size(group.size(epoch))
            g = generator(self.seed, "augment", step, *([i] if i else []))
            height, width = images_BCHW.shape[2:]
            parameters = augment.draw(batch_size, height, width, views=group.count, generator=g)
            if len(places_B) != batch_size:
                parameters = rows_of(parameters, places_B, batch_size)
            drawn.append(_Drawn(images_BCHW, augment, group.count, parameters))
        return DrawnViews(drawn, len(places_B))

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


class DrawnViews:
    """Views of `count` images, made when they are asked for, with the same draws each time."""

    def __init__(self, drawn: Sequence[_Drawn], count: int) -> None:
        self.count = count
        self._drawn = drawn

    def of(self, images: slice) -> list[Tensor]:
        """The views of some of the images: for each group (V x images, C, S, S), float32, view
        after view."""
        whole = images == slice(0, self.count)
        result = []
        for x_BCHW, augment, views, parameters in self._drawn:
            if not whole:
                parameters = rows_of(parameters, images, self.count)
                per_image = x_BCHW.unflatten(0, (-1, self.count))  # cut already: view after view
                x_BCHW = per_image[:, images].flatten(0, 1)
            result.append(augment.apply(x_BCHW, parameters, views=views))
        return result
