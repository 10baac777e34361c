"""Fresh augmented views of labelled images, for probes that train on them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from torch import Tensor

from tcl_train.data.loader import Loader, cut_where_read
from tcl_train.data.shares import Shares
from tcl_train.data.views import ViewGroup, ViewPlan
from tcl_train.evaluation.probe import ProbeInput
from tcl_train.runtime.processes import ALONE
from tcl_train.runtime.randomness import derive


class LabelledBatch(NamedTuple):
    """A view of each image that this process takes, (B / processes, 3, S, S), and the labels of the
    whole batch (B,)."""

    views_NCHW: Tensor
    labels_B: Tensor


class LabelledViews:
    """A view of each training image an epoch, in batches. All draws follow from the seed and
    `name`.

    batch_size: None takes that of pretraining; no batch is larger than the training split. divided:
    whether the processes of the run share a batch, where it can be divided; else each takes all.
    """

    def __init__(
        self, given: ProbeInput, *, batch_size: int | None, name: str, divided: bool
    ) -> None:
        self.batch_size = min(batch_size or given.batch_size, len(given.train_split))
        self.device = given.runtime.device
        cut, groups = cut_where_read([ViewGroup(augment=given.augment, count=1)], given.train_split)
        processes = given.runtime.processes
        divided = divided and self.batch_size % processes.count == 0
        self.processes = processes if divided else ALONE
        seed = derive(given.seed, name)
        self._loader = Loader(
            given.train_split,
            batch_size=self.batch_size,
            supervised=True,
            seed=seed,
            device=self.device,
            cut=cut,
            places=Shares(self.batch_size, processes=self.processes).places(),
        )
        self._views = ViewPlan(groups, seed=seed)
        self.steps_per_epoch = self._loader.steps_per_epoch

    def epoch(self, epoch: int) -> Iterator[LabelledBatch]:
        places = self._loader.places
        first = epoch * self.steps_per_epoch
        for step, (images, labels_B) in enumerate(self._loader.epoch(epoch), start=first):
            drawn = self._views.draw(
                images, places, batch_size=self.batch_size, epoch=epoch, step=step
            )
            (views_NCHW,) = drawn.of(slice(0, len(places)))
            yield LabelledBatch(views_NCHW, labels_B)
