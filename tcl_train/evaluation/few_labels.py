"""How accurate a probe is that is fitted to few labelled images."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from statistics import mean, stdev
from typing import Any

import torch

from tcl_train import checks
from tcl_train.data.dataset import DataSet
from tcl_train.data.holding_out import few_rows
from tcl_train.errors import RequestError
from tcl_train.evaluation.features import Features, accuracy
from tcl_train.evaluation.measure import Evaluated
from tcl_train.runtime.randomness import generator

log = logging.getLogger(__name__)


class FewLabels:
    """The measure `few_labels`: the probe, whichever was chosen, is fitted to some of the training
    images and scored on the whole test split; mean and standard deviation over draws of them.

    amounts: below 1 (or as `10%`) a share of the training images of each class, else a whole number
    of images of each class. draws: how many times images are drawn.
    """

    def __init__(self, amounts: float | str | Sequence[float | str], draws: int = 5) -> None:
        given = [amounts] if isinstance(amounts, int | float | str) else amounts
        several = map(_amount, checks.several("few_labels", given, what="amounts"))
        self.amounts = list(dict.fromkeys(several))
        self.draws = checks.integer("few_labels.draws", draws, at_least=1)

    def check(self, data: DataSet) -> None:
        """Raises RequestError where a class has fewer training images than are asked for."""
        assert data.train is not None
        assert data.train.labels_N is not None
        count_K = torch.bincount(data.train.labels_N.cpu(), minlength=len(data.classes))
        fewest, label = count_K.min(0)
        if max(self.amounts) > fewest and max(self.amounts) >= 1:
            raise RequestError(
                f"few_labels={max(self.amounts)}: class {data.classes[label]} has {fewest} "
                f"training images; give at most {fewest}, or a share below 1"
            )

    def __call__(self, of: Evaluated) -> Iterator[tuple[str, Any]]:
        yield "few_labels", {str(amount): self._of_amount(of, amount) for amount in self.amounts}
        yield (
            "few_labels_protocol",
            "the probe fitted to images drawn evenly from each class and scored on the whole test "
            "split; below 1 a share of each class (at least one image), else images of each class; "
            "standard deviation over the draws",
        )

    def _of_amount(self, of: Evaluated, amount: float) -> dict[str, Any]:
        top1 = []
        for draw in range(self.draws):
            y_N = of.given.train.y_N
            rows_M = few_rows(y_N, amount, generator(of.given.seed, "few", str(amount), draw))
            here = rows_M.to(y_N.device)
            given = replace(
                of.given,
                train=Features(of.given.train.x_ND[here], y_N[here]),
                train_split=of.given.train_split.chosen(rows_M),
            )
            classifier = of.probe(given)
            score_NK = classifier.scores(given, of.test_split, of.test.x_ND)
            top1.append(accuracy(score_NK, of.test.y_N))
        log.info("few labels, %s: top-1 %.2f %% in %d draws", amount, mean(top1), self.draws)
        return {
            "images": len(rows_M),
            "top1": mean(top1),
            "top1_std": stdev(top1) if len(top1) > 1 else None,
            "top1_of_draws": top1,
        }


def _amount(value: Any) -> float:
    """A share in (0, 1), or a whole number."""
    number: Any = value
    if isinstance(value, str) and value.endswith("%"):
        with suppress(ValueError):
            number = float(value[:-1]) / 100
    wanted = "few_labels must be shares below 1 and whole numbers of images of each class, got"
    try:
        number = checks.number("few_labels", number, above=0)
    except TypeError:
        raise TypeError(f"{wanted} {value!r}") from None
    if number >= 1 and (number != int(number) or number != value):
        raise ValueError(f"{wanted} {value}")
    return int(number) if number >= 1 else number
