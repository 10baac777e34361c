"""Which views a step trains on: groups of views, each of one size.

B: images of the global batch; V: views of a group; C, H, W: channels, rows, columns; S: side of the
views.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

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
    size: Callable[[int], int | None]


class ViewPlan:
    """The groups of views of a run. All draws follow from (seed, step)."""

    def __init__(self, groups: Sequence[ViewGroup], *, seed: int) -> None:
        self.groups = tuple(groups)
        self.seed = seed

    @property
    def count(self) -> int:
        """Views of each image."""
        return sum(group.count for group in self.groups)

    def draw(
        self, images_BCHW: Tensor, places_B: Tensor, *, batch_size: int, epoch: int, step: int
    ) -> DrawnViews:
        """Draws for the global batch and keeps what belongs to these images.

        places_B: the images' places in the global batch of `batch_size`.
        """
        drawn = []
        for i, group in enumerate(self.groups):
            augment = group.augment.with_size(group.size(epoch))
            g = generator(self.seed, "augment", step, *([i] if i else []))
            height, width = images_BCHW.shape[2:]
            parameters = augment.draw(batch_size, height, width, views=group.count, generator=g)
            if len(places_B) != batch_size:
                parameters = rows_of(parameters, places_B, batch_size)
            drawn.append((augment, group.count, parameters))
        return DrawnViews(images_BCHW, len(places_B), drawn)


class DrawnViews:
    """Views of images, made when they are asked for, with the same draws each time."""

    def __init__(
        self,
        images_BCHW: Tensor,
        count: int,
        drawn: Sequence[tuple[Augment, int, list[list[Parameters]]]],
    ) -> None:
        self.images_BCHW = images_BCHW
        self.count = count
        self._drawn = drawn

    def of(self, images: slice) -> list[Tensor]:
        """The views of some of the images: for each group (V x images, C, S, S), float32, view
        after view."""
        whole = images == slice(0, self.count)
        result = []
        for augment, views, parameters in self._drawn:
            x_BCHW = self.images_BCHW
            if not whole:
                parameters = rows_of(parameters, images, self.count)
                per_image = x_BCHW.unflatten(0, (-1, self.count))  # cut already: view after view
                x_BCHW = per_image[:, images].flatten(0, 1)
            result.append(augment.apply(x_BCHW, parameters, views=views))
        return result
