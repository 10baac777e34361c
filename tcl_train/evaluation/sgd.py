"""Linear probe by SGD on augmented views, the protocol of the SupCon and TCL papers."""

from __future__ import annotations

import torch.nn.functional as F
from torch import nn

from tcl_train import checks
from tcl_train.engine.schedule import Cosine
from tcl_train.evaluation.features import frozen
from tcl_train.evaluation.labelled_views import LabelledViews
from tcl_train.evaluation.probe import Classifier, ProbeInput
from tcl_train.runtime.optim import SGD


class SGDProbe:
    """A linear classifier trained by SGD with momentum and a cosine schedule on fresh augmented
    views of the training images. The encoder stays frozen and in evaluation mode.

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

    def __call__(self, given: ProbeInput) -> Classifier:
        views = LabelledViews(given, batch_size=self.batch_size, name="sgd-probe", divided=True)
        classifier = linear_classifier(given)
        optimizer = SGD(
            classifier.parameters(),
            lr=self.lr,
            momentum=self.momentum,
            weight_decay=self.weight_decay,
        )
        step = 0
        for epoch in range(self.epochs):
            for views_NCHW, labels_B in views.epoch(epoch):
                factor = self.schedule(step, views.steps_per_epoch, self.epochs)
                optimizer.param_groups[0]["lr"] = self.lr * factor
                with frozen(given.encoder), given.runtime.autocast():
                    own_ND = given.encoder(views_NCHW).float()
                features_ND = views.processes.gather(own_ND).flatten(0, 1)
                loss = F.cross_entropy(classifier(features_ND), labels_B)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                step += 1
        return Classifier(
            encoder=given.encoder,
            head=classifier,
            protocol={
                "features": "frozen encoder in evaluation mode, fresh augmented views",
                "normalisation": "none",
                "optimiser": (
                    f"SGD, {self.epochs} epochs of batches of {views.batch_size}, lr {self.lr:g}, "
                    f"momentum {self.momentum:g}, cosine to {self.schedule.floor:g} of lr"
                ),
                "l2": self.weight_decay,
                "l2_chosen_by": "fixed in the config",
            },
        )


def linear_classifier(given: ProbeInput) -> nn.Linear:
    """Of the encoder's features, with zero weights."""
    classifier = nn.Linear(given.train.x_ND.shape[1], given.num_classes)
    nn.init.zeros_(classifier.weight)
    nn.init.zeros_(classifier.bias)
    return classifier.to(given.runtime.device)
