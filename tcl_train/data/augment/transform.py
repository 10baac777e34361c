"""What a transform is: drawing its parameters and applying them are two steps.

Parameters are drawn on the CPU for all images of the global batch at once, so that every device
and any number of processes see the same ones; each process applies those of its rows. Which
images an operation changes is decided on the CPU too, from the parameters: nothing here waits for
the device.

There are two forms. On the CPU, where arithmetic is what costs, `apply` picks out the images that
an operation changes. On accelerators, where starting a kernel is what costs, `apply_static` carries
out every operation on all images, with numbers or masks that leave some as they are: shapes depend
on no draw, and all parameters come in one copy (:mod:`tcl_train.data.augment.block`). Both give the
same images.

N: views x images; M: some of them; C: channels (1 or 3); H, W: rows and columns; S: side of the
output.
"""

from __future__ import annotations

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

Parameters = dict[str, Tensor]


class Transform(ABC):
    """`draw` gives tensors whose first dimension is N; `apply` uses them on N images, which are
    uint8, or float32 in [0, 1], which it does not change.

    p: the probability that an image is changed, for transforms that have one; a list holds one per
    view and is repeated for further views.
    """

    p: float | tuple[float, ...] = 1.0

    def of_view(self, view: int) -> Transform:
        """With this view's probability."""
        if not isinstance(self.p, tuple):
            return self
        mine = copy.copy(self)
        mine.p = self.p[view % len(self.p)]
        return mine

    def output_size(self, height: int, width: int, size: int) -> tuple[int, int]:  # noqa: ARG002
        """The (height, width) that images of `height` x `width` have afterwards.

        Raises:
            ValueError: they cannot be transformed.
        """
        return height, width

    @abstractmethod
    def draw(self, count: int, height: int, width: int, g: torch.Generator) -> Parameters:
        """For `count` images of `height` x `width`."""

    @abstractmethod
    def apply(self, x_NCHW: Tensor, parameters: Parameters, size: int) -> Tensor:
        """`size` is the side of the output, for transforms that crop. The parameters are on the
        host, or where the images are."""

    def columns(self, parameters: Parameters, height: int, width: int, size: int) -> Parameters:  # noqa: ARG002
        """What :meth:`apply_static` takes of images of `height` x `width`, worked out on the host
        from what :meth:`draw` gave. Whole numbers below 2^24 in size."""
        return parameters

    def apply_static(self, x_NCHW: Tensor, columns: Parameters, size: int) -> Tensor:
        """The same as :meth:`apply`, with the same kernels for all parameters; the columns are
        where the images are."""
        return self.apply(x_NCHW, columns, size)


class OfChosen(Transform):
    """A transform that changes the images which its parameter `choice` (N,) chooses, and leaves the
    others as they are."""

    choice: str
    takes_levels = False  # uint8 as well, else they are made floats before

    @abstractmethod
    def change(self, x_NCHW: Tensor, parameters: Parameters, size: int) -> Tensor:
        """Changes every image. The parameters are where the images are."""

    def apply(self, x_NCHW: Tensor, parameters: Parameters, size: int) -> Tensor:
        def changed(x_MCHW: Tensor, *values: Tensor) -> Tensor:
            return self.change(x_MCHW, dict(zip(others, values, strict=True)), size)

        others = {name: value for name, value in parameters.items() if name != self.choice}
        return apply_to_chosen(
            self._taken(x_NCHW), parameters[self.choice], changed, *others.values()
        )

    def apply_static(self, x_NCHW: Tensor, columns: Parameters, size: int) -> Tensor:
        x_NCHW = self._taken(x_NCHW)
        changed_NCHW = self.change(x_NCHW, columns, size)
        return torch.where(by_image(columns[self.choice]), changed_NCHW, x_NCHW)

    def _taken(self, x_NCHW: Tensor) -> Tensor:
        return x_NCHW if self.takes_levels else as_float(x_NCHW)


def by_image(value_N: Tensor) -> Tensor:
    """One value an image, for all of its pixels: (N, 1, 1, 1)."""
    return value_N[:, None, None, None]


def uniform(g: torch.Generator, low: float, high: float, *shape: int) -> Tensor:
    return between(torch.rand(shape, generator=g), low, high)


def between(u: Tensor, low: float, high: float) -> Tensor:
    """Numbers from [0, 1) spread over [low, high)."""
    return u * (high - low) + low


def random_sides(
    g: torch.Generator,
    count: int,
    tries: int,
    *,
    area: int,
    scale: Sequence[float],
    ratio: Sequence[float],
) -> tuple[Tensor, Tensor]:
    """Two sides in whole pixels of `tries` boxes for each image, (count, tries): with a share from
    `scale` of the area, and the first side over the second from `ratio` (log-uniform)."""
    u_NT, v_NT = torch.rand(count, tries, generator=g), torch.rand(count, tries, generator=g)
    return sides_of(u_NT, v_NT, area=area, scale=scale, ratio=ratio)


def sides_of(
    u_NT: Tensor,
    v_NT: Tensor,
    *,
    area: int | Tensor,
    scale: Sequence[float],
    ratio: Sequence[float],
) -> tuple[Tensor, Tensor]:
    """The same from numbers that are uniform in [0, 1); `area`: of all images, or (N, 1)."""
    area_NT = between(u_NT, *scale) * area
    ratio_NT = between(v_NT, math.log(ratio[0]), math.log(ratio[1])).exp()
    return (area_NT * ratio_NT).sqrt().round(), (area_NT / ratio_NT).sqrt().round()


def draw_chosen(g: torch.Generator, p: float | tuple[float, ...], count: int) -> Tensor:
    """Which of `count` images are changed: each with probability p."""
    return torch.rand(count, generator=g) < (p[0] if isinstance(p, tuple) else p)


def as_float(x_NCHW: Tensor) -> Tensor:
    """float32 in [0, 1]."""
    return x_NCHW.float().div_(255) if x_NCHW.dtype == torch.uint8 else x_NCHW


def as_uint8(x_NCHW: Tensor) -> Tensor:
    """uint8 in [0, 255]."""
    return x_NCHW if x_NCHW.dtype == torch.uint8 else truncated(as_levels(x_NCHW))


def as_levels(x_NCHW: Tensor) -> Tensor:
    """float32, whole numbers in [0, 255]."""
    return x_NCHW.float() if x_NCHW.dtype == torch.uint8 else (x_NCHW * 255).round_()


def truncated(x_NCHW: Tensor) -> Tensor:
    """float32 in [0, 255] cut to uint8. By way of int16, for which the CPU has vector
    instructions: an eighth of the time."""
    return x_NCHW.to(torch.int16).to(torch.uint8)


def to_numpy(value: Tensor) -> np.ndarray:
    """A CPU parameter as a NumPy array, for decisions on the host. (Tensor.numpy would do, but not
    under a
    FakeTensorMode, which is how tests see that `apply` asks nothing of the device.)"""
    return np.array(value.tolist())


def to_device(array: np.ndarray, device: torch.device) -> Tensor:
    """An array made on the CPU, on the images' device."""
    return torch.as_tensor(array).to(device, non_blocking=True)


def apply_to_chosen(
    x_NCHW: Tensor,
    chosen_N: Tensor,
    function: Callable[..., Tensor],
    *values: Tensor,
) -> Tensor:
    """`function(images, *values)` for the chosen images, given their rows of the values; the others
    are unchanged."""
    group_N = to_numpy(chosen_N).astype(np.int64)
    if not group_N.any():
        return x_NCHW
    return apply_by_group(x_NCHW, group_N, [None, function], *values)


def apply_by_group(
    x_NCHW: Tensor,
    group_N: np.ndarray,
    functions: Sequence[Callable[..., Tensor] | None],
    *values: Tensor,
) -> Tensor:
    """`functions[group](images, *values)` for the images of each group, given their rows of the
    values; None leaves them unchanged.

    Images are sorted by group, so that each group is a slice, and sorted back: two indices go to
    the device, however many groups there are. The slices are copies, which a function may write to.
    """
    order_N = np.argsort(group_N, kind="stable")
    counts = np.bincount(group_N, minlength=len(functions)).tolist()
    device = x_NCHW.device
    there_N, back_N = to_device(np.stack([order_N, np.argsort(order_N)]), device).unbind(0)
    split = [
        value.to(device, non_blocking=True).index_select(0, there_N).split(counts)
        for value in (x_NCHW, *values)
    ]
    parts = [
        part[0] if function is None else function(*part)
        for function, count, part in zip(functions, counts, zip(*split, strict=True), strict=True)
        if count
    ]
    return torch.cat(parts).index_select(0, back_N)
