"""Fine-tuning: a copy of the encoder is trained together with a linear classifier."""

from __future__ import annotations

import copy
import logging

import torch.nn.functional as F

from tcl_train import checks
from tcl_train.engine.schedule import Cosine
from tcl_train.evaluation.labelled_views import LabelledViews
from tcl_train.evaluation.probe import Classifier, ProbeInput
from tcl_train.evaluation.sgd import linear_classifier
from tcl_train.runtime.optim import SGD

log = logging.getLogger(__name__)

FINE_TUNING = "fine-tuning"  # with which the protocol's optimiser begins


class FineTuneProbe:
    """SGD with momentum and a cosine schedule on fresh augmented views of the training images, of
    a copy of the encoder and a linear classifier behind it. The given encoder stays as it is.

    lr: of the encoder; classifier_lr: of the classifier, which begins at zero; epochs, momentum,
    weight_decay: of both; floor: the last learning rate as a share of the first; batch_size: None
    takes that of pretraining. With few training images an epoch has few steps: min_steps is the
    least number of steps, for which there are more epochs.
    """

    def __init__(
        self,
        epochs: int = 10,
        lr: float = 0.02,
        classifier_lr: float = 0.2,
        momentum: float = 0.9,
        weight_decay: float = 1e-4,
        floor: float = 1e-3,
        batch_size: int | None = 128,
        min_steps: int = 200,
    ) -> None:
        self.epochs = checks.integer("epochs", epochs, at_least=1)
        self.lr = checks.number("lr", lr, above=0)
        self.classifier_lr = checks.number("classifier_lr", classifier_lr, above=0)
        self.momentum = checks.number("momentum", momentum, at_least=0, below=1)
        self.weight_decay = checks.number("weight_decay", weight_decay, at_least=0)
        self.schedule = Cosine(floor=floor)
        self.min_steps = checks.integer("min_steps", min_steps, at_least=0)
        self.batch_size = batch_size
        if batch_size is not None:
            checks.integer("batch_size", batch_size, at_least=2)

    def __call__(self, given: ProbeInput) -> Classifier:
        # Several processes would have to share gradients: each trains on whole batches instead.
        views = LabelledViews(given, batch_size=self.batch_size, name="fine-tuning", divided=False)
        encoder, classifier = copy.deepcopy(given.encoder), linear_classifier(given)
        encoder.train().requires_grad_(True)
        groups = [(encoder, self.lr), (classifier, self.classifier_lr)]
        optimizer = SGD(
            [{"params": list(part.parameters()), "lr": lr} for part, lr in groups],
            momentum=self.momentum,
            weight_decay=self.weight_decay,
        )
        epochs = max(self.epochs, -(-self.min_steps // views.steps_per_epoch))
        log.info("fine-tuning: %d epochs of %d steps", epochs, views.steps_per_epoch)
        step = 0
        for epoch in range(epochs):
            for views_NCHW, labels_B in views.epoch(epoch):
                factor = self.schedule(step, views.steps_per_epoch, epochs)
                for group, (_, lr) in zip(optimizer.param_groups, groups, strict=True):
                    group["lr"] = lr * factor
                with given.runtime.drawing(given.seed, "fine-tuning-dropout", step):
                    with given.runtime.autocast():
                        features_ND = encoder(views_NCHW).float()
                    loss = F.cross_entropy(classifier(features_ND), labels_B)
                optimizer.zero_grad()
                given.runtime.scaled(loss).backward()
                given.runtime.update(optimizer)
                step += 1
        return Classifier(
            encoder=encoder.eval().requires_grad_(False),
            head=classifier,
            protocol={
                "features": "encoder trained with the classifier, fresh augmented views",
                "normalisation": "none",
                "optimiser": (
                    f"{FINE_TUNING} by SGD, {epochs} epochs of batches of {views.batch_size}, lr "
                    f"{self.lr:g} (classifier {self.classifier_lr:g}), momentum "
                    f"{self.momentum:g}, cosine to {self.schedule.floor:g} of lr"
                ),
                "l2": self.weight_decay,
                "l2_chosen_by": "fixed in the config",
            },
        )
