"""Linear probe by L-BFGS: multinomial logistic regression on frozen features.

N: rows; D: features; K: classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from tcl_train import checks
from tcl_train.data.holding_out import held_out_rows
from tcl_train.evaluation.features import Features, accuracy
from tcl_train.evaluation.probe import Classifier, ProbeInput
from tcl_train.runtime.optim import LBFGS
from tcl_train.runtime.randomness import generator

# Powers of ten would be too far apart: see docs/cpu20.md.
HALF_DECADES = (1, 0.3, 0.1, 0.03, 0.01, 3e-3, 1e-3, 3e-4, 1e-4, 3e-5, 1e-5, 3e-6, 1e-6)
PATIENCE = 3
SMALLEST_CHANGE = 0.0
HISTORY = 30  # with 10, rounding in float32 ends fits with weak L2 too early

# What a result says of the images that L2 was chosen on.
SEEN = {
    True: "pretraining saw these images",
    False: "pretraining did not see these images",
    None: "whether pretraining saw these images is not known",
}


class LinearClassifier(NamedTuple):
    w_DK: Tensor
    b_K: Tensor

    def scores(self, x_ND: Tensor) -> Tensor:
        return torch.addmm(self.b_K, x_ND, self.w_DK)


class LBFGSProbe:
    """Logistic regression whose L2 strength is chosen on a held-out part of the training features.

    Features are standardised by the training split's mean and standard deviation. For each
    strength, from the strongest to the weakest and each starting from the last, the probe is
    fitted to the rest and scored on the held-out part; the search stops when three strengths in
    a row score below the best. The best one (of equals the strongest) is fitted again to all
    training features.

    l2: strengths to choose from, of  mean cross-entropy + l2/2 |W|^2  (the bias is free); None:
    half decades from 1 to 1e-6;
    held_out: share of the training rows, taken evenly from each class;
    max_iter: L-BFGS iterations a fit at most; tolerance: a fit ends when no entry of the gradient
    is larger than this share of the largest one at zero weights.
    """

    def __init__(
        self,
        l2: Sequence[float] | None = None,
        held_out: float = 0.1,
        max_iter: int = 200,
        tolerance: float = 1e-4,
    ) -> None:
        strengths = checks.several("l2", HALF_DECADES if l2 is None else l2)
        self.l2 = sorted((checks.number("l2", x, above=0) for x in strengths), reverse=True)
        self.held_out = checks.number("held_out", held_out, above=0, below=1)
        self.max_iter = checks.integer("max_iter", max_iter, at_least=1)
        self.tolerance = checks.number("tolerance", tolerance, at_least=0)

    def __call__(self, given: ProbeInput) -> Classifier:
        standardise = Standardise(given.train.x_ND)
        train = Features(standardise(given.train.x_ND), given.train.y_N)
        l2, held_out_top1, weights = self.choose_l2(train, given.num_classes, given.seed)
        fitted = self.fit(train, l2, weights)
        return Classifier(
            encoder=given.encoder,
            head=lambda x_ND: fitted.scores(standardise(x_ND)),
            protocol={
                "features": "frozen encoder in evaluation mode, no augmentation",
                "normalisation": "standardised by the training features",
                "optimiser": f"L-BFGS, at most {self.max_iter} iterations",
                "l2": l2,
                "l2_chosen_by": (
                    f"top-1 on {100 * self.held_out:g} % of the training features, held out "
                    f"({held_out_top1:.2f} %; {SEEN[given.seen]}), then fitted again to all; "
                    "candidates " + ", ".join(f"{value:g}" for value in self.l2)
                ),
            },
        )

    def choose_l2(
        self, train: Features, num_classes: int, seed: int
    ) -> tuple[float, float, LinearClassifier]:
        """The best strength, its held-out top-1 in percent, and the weights it gave."""
        held_N = held_out_rows(train.y_N, self.held_out, generator(seed, "held-out"))
        fitted = Features(train.x_ND[~held_N], train.y_N[~held_N])
        scored = Features(train.x_ND[held_N], train.y_N[held_N])
        dim = train.x_ND.shape[1]
        weights = LinearClassifier(
            train.x_ND.new_zeros(dim, num_classes), train.x_ND.new_zeros(num_classes)
        )
        best: tuple[float, float, LinearClassifier] | None = None
        since_best = 0
        for l2 in self.l2:
            weights = self.fit(fitted, l2, weights)
            top1 = accuracy(weights.scores(scored.x_ND), scored.y_N)
            if best is None or top1 > best[1]:
                best, since_best = (l2, top1, weights), 0
            elif top1 < best[1]:
                since_best += 1
                if since_best == PATIENCE:
                    break
        assert best is not None
        return best

    def fit(self, train: Features, l2: float, start: LinearClassifier) -> LinearClassifier:
        """Minimises the objective from the given weights, which stay as they are."""
        w_DK = start.w_DK.clone().requires_grad_()
        b_K = start.b_K.clone().requires_grad_()
        optimizer = LBFGS(
            [w_DK, b_K],
            max_iter=self.max_iter,
            history_size=HISTORY,
            tolerance_grad=self.tolerance * _largest_slope_at_zero(train, start.b_K.shape[0]),
            # torch compares this with the square of the gradient, too: any larger value would end a
            # fit with weak L2 before it has begun.
            tolerance_change=SMALLEST_CHANGE,
            line_search_fn="strong_wolfe",
        )

        def objective() -> Tensor:
            optimizer.zero_grad()
            score_NK = torch.addmm(b_K, train.x_ND, w_DK)
            value = F.cross_entropy(score_NK, train.y_N) + 0.5 * l2 * w_DK.square().sum()
            value.backward()
            return value

        with torch.enable_grad():
            optimizer.step(objective)
        return LinearClassifier(w_DK.detach(), b_K.detach())


def _largest_slope_at_zero(train: Features, num_classes: int) -> float:
    """The largest entry of the cross-entropy's gradient at zero weights:
    x^T (1/K - one-hot(y)) / N, and its mean over the rows for the bias."""
    difference_NK = 1 / num_classes - F.one_hot(train.y_N, num_classes).to(train.x_ND.dtype)
    of_weights = (train.x_ND.T @ difference_NK).abs().amax() / len(train.y_N)
    of_bias = difference_NK.mean(0).abs().amax()
    return torch.maximum(of_weights, of_bias).item()


class Standardise:
    """(x - mean) / standard deviation, feature by feature; a constant feature becomes 0."""

    def __init__(self, x_ND: Tensor) -> None:
        self.mean_D = x_ND.mean(0)
        std_D = x_ND.std(0, correction=0)
        self.scale_D = torch.where(std_D > 1e-8, 1 / std_D.clamp(min=1e-8), 0)

    def __call__(self, x_ND: Tensor) -> Tensor:
        return (x_ND - self.mean_D) * self.scale_D
