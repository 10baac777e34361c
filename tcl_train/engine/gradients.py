"""The gradients of the global batch's loss, in one process or several, whole or chunk by chunk.

The loss is a function of all embeddings, and an embedding depends on its image's views only. So
each process embeds its share of the images; the embeddings are put together; every process takes
the whole loss and its gradient by the embeddings (of many rows the work is shared out, see
:mod:`tcl_train.losses.blockwise.sharing`); and each goes backward through its own. With
chunks the embeddings are made twice, first without what a backward pass needs, and then chunk by
chunk with it (Gao et al. 2021, "Scaling deep contrastive learning batch size under memory limited
setup").

B: images of the global batch; P: processes; L = B / P: those of one of them; V: views.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.profiler import record_function

from tcl_train.data.shares import Shares
from tcl_train.data.views import DrawnViews
from tcl_train.losses.blockwise import work_shared
from tcl_train.methods.method import Embeddings, Method, StepOutput, by_view
from tcl_train.runtime.device import Runtime


class Gradients:
    """Takes a step's gradients: `output = gradients(method, views, labels_B, progress=…, step=…)`.

    Afterwards every parameter's `grad` is that of the global batch's loss, in each process.
    """

    def __init__(self, runtime: Runtime, shares: Shares, *, seed: int) -> None:
        self.runtime = runtime
        self.shares = shares
        self.processes = shares.processes
        self.seed = seed
        self._chunks = shares.chunks()
        self._order = None if shares.in_order else shares.order().to(runtime.device)

    def __call__(
        self, method: Method, views: DrawnViews, labels_B: Tensor, *, progress: float, step: int
    ) -> StepOutput:
        method.zero_grad(set_to_none=True)
        if len(self._chunks) == 1:
            own = self._embed(method, views, 0, step)
            leaves = self._leaves(own)
        else:
            own = None
            leaves = self._leaves(self._embed_without_graph(method, views, step))
        ranks = self.processes
        with self.runtime.autocast(), work_shared(ranks.rank, ranks.count, ranks.add_up):
            output = method.compute_loss(leaves, labels_B, progress)
        with record_function("backward"):
            self.runtime.scaled(output.loss).backward()
            self._share_out_what_all_took(method)
            gradients = self._own_part(leaves)
            for i, images in enumerate(self._chunks):
                here = own if own is not None else self._embed(method, views, i, step)
                _go_backward(here, gradients, images)
                own = None
            self.processes.add_up([p.grad for p in method.parameters() if p.grad is not None])
        return output

    def _embed(self, method: Method, views: DrawnViews, chunk: int, step: int) -> Embeddings:
        """Of one chunk of this process's images, with the same draws each time."""
        with record_function("augment"):
            views_of_chunk = views.of(self._chunks[chunk])
        rank = self.processes.rank
        drawing = self.runtime.drawing(self.seed, "layers", step, rank, chunk)
        with drawing, self.runtime.autocast():
            return method.embed(views_of_chunk)

    def _embed_without_graph(self, method: Method, views: DrawnViews, step: int) -> Embeddings:
        with torch.no_grad(), statistics_unchanged(method):
            parts = [self._embed(method, views, i, step) for i in range(len(self._chunks))]
        counts = [images.stop - images.start for images in self._chunks]
        return {
            name: torch.cat(
                [by_view(part[name], n) for part, n in zip(parts, counts, strict=True)], dim=1
            ).flatten(0, 1)
            for name in parts[0]
        }

    def _leaves(self, own: Embeddings) -> Embeddings:
        """The embeddings of the global batch, of which gradients are taken."""
        leaves = {}
        for name, rows in own.items():
            rows_PVL = by_view(self.processes.gather(rows.detach()), self._own_count, dim=1)
            rows_VB = rows_PVL.transpose(0, 1).flatten(1, 2)
            if self._order is not None:
                rows_VB = rows_VB.index_select(1, self._order)
            leaf = rows_VB.flatten(0, 1)
            leaves[name] = leaf.requires_grad_() if leaf.is_floating_point() else leaf
        return leaves

    def _own_part(self, leaves: Embeddings) -> Embeddings:
        """The gradients by this process's embeddings (V, L, ...)."""
        places_L = self.shares.places().to(self.runtime.device, non_blocking=True)
        gradients = {}
        for name, leaf in leaves.items():
            if leaf.grad is not None:
                gradient_VB = by_view(leaf.grad, self.shares.batch_size)
                whole = self.processes.count == 1
                gradients[name] = gradient_VB if whole else gradient_VB.index_select(1, places_L)
        return gradients

    def _share_out_what_all_took(self, method: Method) -> None:
        """Every process has the whole gradient by what only the loss uses; it counts once."""
        gradients = [p.grad for p in method.parameters() if p.grad is not None]
        if self.processes.count > 1 and gradients:
            torch._foreach_div_(gradients, self.processes.count)

    @property
    def _own_count(self) -> int:
        return self.shares.batch_size // self.processes.count


def _go_backward(embeddings: Embeddings, gradients: Embeddings, images: slice) -> None:
    outputs, of_outputs = [], []
    for name, gradient_VL in gradients.items():
        if embeddings[name].requires_grad:
            outputs.append(embeddings[name])
            of_outputs.append(gradient_VL[:, images].flatten(0, 1))
    if outputs:
        torch.autograd.backward(outputs, of_outputs)


@contextmanager
def statistics_unchanged(module: nn.Module) -> Iterator[None]:
    """Normalisation layers use the batch's statistics inside the block, and remember none."""
    layers = [
        part
        for part in module.modules()
        if isinstance(part, nn.modules.batchnorm._BatchNorm) and part.track_running_stats
    ]
    for layer in layers:
        layer.track_running_stats = False
    try:
        yield
    finally:
        for layer in layers:
            layer.track_running_stats = True
