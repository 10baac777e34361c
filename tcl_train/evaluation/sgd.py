"""Linear probe by SGD on augmented views, the protocol of the SupCon and TCL papers."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from tcl_train import checks
from tcl_train.data.loader import Loader, cut_where_read
from tcl_train.data.shares import Shares
from tcl_train.data.views import ViewGroup, ViewPlan
from tcl_train.engine.schedule import Cosine
from tcl_train.evaluation.features import accuracy, frozen
from tcl_train.evaluation.probe import ProbeInput, ProbeResult
from tcl_train.runtime.processes import ALONE
from tcl_train.runtime.randomness import derive


class SGDProbe:
    """A linear classifier trained by SGD with momentum and a cosine schedule on fresh augmented
    views of the training images. The encoder stays frozen and in evaluation mode, and the test
    split is scored once, after the last epoch.

    epochs, lr, momentum, weight_decay: of the classifier; floor: the last learning rate as a share
    of the first; batch_size: None takes that of pretraining.
    """

    def __init__(
        self,
        epochs: int = 50,
        lr: float = 0.5,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        floor: float = 1e-3,
        batch_size: int | None = None,
    ) -> None:
        self.epochs = checks.integer("epochs", epochs, at_least=1)
        self.lr = checks.number("lr", lr, above=0)
        self.momentum = checks.number("momentum", momentum, at_least=0, below=1)
        self.weight_decay = checks.number("weight_decay", weight_decay, at_least=0)
        self.schedule = Cosine(floor=floor)
        self.batch_size = batch_size
        if batch_size is not None:
            checks.integer("batch_size", batch_size, at_least=1)

    def __call__(self, given: ProbeInput) -> ProbeResult:
        seed = derive(given.seed, "sgd-probe")
        batch_size = min(self.batch_size or given.batch_size, len(given.train_split))
        cut, groups = cut_where_read([ViewGroup(augment=given.augment, count=1)], given.train_split)
        processes = given.runtime.processes
        divided = batch_size % processes.count == 0  # or each process takes the whole batch
        shares = Shares(batch_size, processes=processes if divided else ALONE)
        loader = Loader(
            given.train_split,
            batch_size=batch_size,
            supervised=True,
            seed=seed,
            device=given.runtime.device,
            cut=cut,
            places=shares.places(),
        )
        views = ViewPlan(groups, seed=seed)
        classifier = nn.Linear(given.train.x_ND.shape[1], given.num_classes)
        nn.init.zeros_(classifier.weight)
        nn.init.zeros_(classifier.bias)
        classifier.to(given.runtime.device)
        optimizer = torch.optim.SGD(
            classifier.parameters(),
            lr=self.lr,
            momentum=self.momentum,
            weight_decay=self.weight_decay,
        )
        step = 0
        for epoch in range(self.epochs):
            for images, labels_B in loader.epoch(epoch):
                factor = self.schedule(step, loader.steps_per_epoch, self.epochs)
                optimizer.param_groups[0]["lr"] = self.lr * factor
                drawn = views.draw(
                    images, loader.places, batch_size=batch_size, epoch=epoch, step=step
                )
                (views_NCHW,) = drawn.of(slice(0, len(loader.places)))
                with frozen(given.encoder), given.runtime.autocast():
                    own_ND = given.encoder(views_NCHW).float()
                features_ND = shares.processes.gather(own_ND).flatten(0, 1)
                loss = F.cross_entropy(classifier(features_ND), labels_B)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                step += 1
        with torch.no_grad():
            score_NK = classifier(given.test.x_ND)
            val = given.validation
            val_top1 = val and accuracy(classifier(val.x_ND), val.y_N)
        return ProbeResult(
            top1=accuracy(score_NK, given.test.y_N),
            top5=accuracy(score_NK, given.test.y_N, top=5),
            val_top1=val_top1,
            protocol={
                "features": "frozen encoder in evaluation mode, fresh augmented views",
                "normalisation": "none",
                "optimiser": (
                    f"SGD, {self.epochs} epochs of batches of {batch_size}, lr {self.lr:g}, "
                    f"momentum {self.momentum:g}, cosine to {self.schedule.floor:g} of lr"
                ),
                "l2": self.weight_decay,
                "l2_chosen_by": "fixed in the config",
            },
        )
