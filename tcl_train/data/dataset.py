"""What a data set is, independent of its source."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tcl_train import checks
from tcl_train.data.holding_out import held_out_rows
from tcl_train.data.images import Images
from tcl_train.errors import few

NO_LABEL = -1
ON_DAMAGED = ("stop", "skip")
DECODERS = ("cpu", "gpu")


@dataclass(frozen=True, kw_only=True)
class ReadOptions:
    """How to read a data set of any kind.

    cache_dir: where decoded images and their statistics are kept.
    cache_limit_gb: what is kept there at most; the files used longest ago go first.
    memory_limit_gb: data sets that would take more are decoded anew by workers each epoch.
    on_damaged: `stop` at a file that cannot be decoded, or `skip` it.
    decode: what decodes JPEG files during training, `cpu` or `gpu`.
    workers: decoding processes or threads.
    supervised: whether pretraining may see labels.
    seed: of the run; decides what is held out where a data set has no test split.
    """

    cache_dir: Path
    memory_limit_gb: float
    workers: int
    supervised: bool
    cache_limit_gb: float = 20
    on_damaged: str = "stop"
    decode: str = "cpu"
    seed: int = 1

    def __post_init__(self) -> None:
        checks.number("data.memory_limit_gb", self.memory_limit_gb, at_least=0)
        checks.number("data.cache_limit_gb", self.cache_limit_gb, at_least=0)
        checks.one_of("data.on_damaged", self.on_damaged, ON_DAMAGED)
        checks.one_of("data.decode", self.decode, DECODERS)
        checks.integer("data.workers", self.workers, at_least=0)


@dataclass(frozen=True)
class Split:
    """Images, and an int64 label for each of them or None; NO_LABEL for an image without one."""

    images: Images
    labels_N: Tensor | None

    def __len__(self) -> int:
        return len(self.images)

    def chosen(self, places_M: Tensor) -> Split:
        """The images at these places, with their labels."""
        labels_M = None if self.labels_N is None else self.labels_N[places_M]
        return Split(self.images.chosen(places_M), labels_M)


@dataclass(frozen=True, kw_only=True)
class DataSet:
    """A data set ready for training.

    pretrain: what pretraining sees; it is `train`, or begins with the images of `train`. train,
    test: labelled, what the evaluation sees; both None for a folder of unlabelled images.
    validation: labelled training images that neither pretraining nor probes see; None: none.
    image_size: the side of the views that encoders take, in pixels (images may be stored larger).
    mean, std: of the pixel values in [0, 1], one per channel. root: the folder that was read, in
    full; None: none was. test_split: where the test images come from, in words; None: the data
    set's own test split. left_out: the damaged files that were skipped, with the reasons.
    """

    pretrain: Split
    train: Split | None
    test: Split | None
    classes: tuple[str, ...]
    image_size: int
    mean: Sequence[float]
    std: Sequence[float]
    root: str | None = None
    test_split: str | None = None
    left_out: tuple[str, ...] = ()
    validation: Split | None = None

    def __post_init__(self) -> None:
        for name in ("mean", "std"):
            values = tuple(checks.several(name, getattr(self, name)))
            object.__setattr__(self, name, values)  # as a frozen dataclass does

    def with_validation(self, share: float, g: torch.Generator) -> DataSet:
        """With a share of the training images, evenly from each class, as `validation`.

        Raises:
            ValueError: they have no labels.
        """
        if share == 0:
            return self
        if self.train is None or self.train.labels_N is None:
            raise ValueError(f"validation={share:g} needs labels and these images have none")
        held_N = held_out_rows(self.train.labels_N, share, g)
        kept_M = (~held_N).nonzero()[:, 0]
        train = self.train.chosen(kept_M)
        pretrain = train
        if self.pretrain is not self.train:
            further = torch.arange(len(self.train), len(self.pretrain))
            pretrain = self.pretrain.chosen(torch.cat([kept_M, further]))
        validation = self.train.chosen(held_N.nonzero()[:, 0])
        return replace(self, pretrain=pretrain, train=train, validation=validation)

    def with_labels_of(self, share: float, g: torch.Generator) -> DataSet:
        """With labels for a share of the pretraining images only, evenly from each class. The
        evaluation still has all.

        Raises:
            ValueError: they have no labels.
        """
        if share == 1:
            return self
        if self.pretrain.labels_N is None:
            raise ValueError(f"labelled={share:g} needs labels and these images have none")
        known_N = held_out_rows(self.pretrain.labels_N, share, g)
        labels_N = self.pretrain.labels_N.where(known_N, NO_LABEL)
        return replace(self, pretrain=Split(self.pretrain.images, labels_N))

    def fingerprint(self) -> dict[str, Any]:
        """What a run can be compared with when it is resumed: classes, counts, size, and a digest
        of images and labels, wherever they lie."""
        splits = {"training images": self.pretrain, "test images": self.test}
        digests = {name: "" if s is None else s.images.digest() for name, s in splits.items()}
        for name, split in (("training labels", self.train), ("test labels", self.test)):
            if split is not None and split.labels_N is not None:
                digests[name] = _digest_of_labels(split.labels_N)
        return {
            "classes": list(self.classes),
            "image size": self.image_size,
            "counts": {name: 0 if s is None else len(s) for name, s in splits.items()},
            "digests": digests,
        }


def _digest_of_labels(labels_N: Tensor) -> str:
    return f"labels:{hashlib.blake2b(labels_N.cpu().numpy().tobytes(), digest_size=16).hexdigest()}"


def difference(
    one: dict[str, Any], other: dict[str, Any], *, at_one: str = "before", at_other: str = "now"
) -> str | None:
    """What differs between two fingerprints, in words; None: nothing does.

    at_one, at_other: when or where the data are so.
    """
    was, has = set(one["classes"]), set(other["classes"])
    parts = []
    if has - was:
        parts.append(f"new classes: {few(sorted(has - was))}")
    if was - has:
        parts.append(f"missing classes: {few(sorted(was - has))}")
    for name, count in one["counts"].items():
        found = other["counts"].get(name, 0)
        if found != count:
            parts.append(f"{count} {name} {at_one}, {found} {at_other}")
    if one["image size"] != other["image size"]:
        parts.append(f"image size {one['image size']} {at_one}, {other['image size']} {at_other}")
    changed = [
        name
        for name, digest in one["digests"].items()
        if _contradicts(digest, other["digests"].get(name, ""))
    ]
    if changed and not parts:
        parts.append(f"other {' and '.join(changed)} than {at_one}")
    return "; ".join(parts) or None


def _contradicts(before: str, now: str) -> bool:
    """Digests of different kinds, of pixels and of files, cannot be compared."""
    return before.partition(":")[0] == now.partition(":")[0] and before != now
