"""Does it matter that the L-BFGS probe chooses its L2 on images that pretraining has seen?

    python scripts/hold_out.py DIR HELD --every 10
    tcl-train dataset=image_folder dataset.root=HELD … hydra.run.dir=RUN
    python scripts/l2_choice.py RUN HELD DIR

HELD/train are the images that pretraining saw, HELD/test those of DIR/train that it did not. For
each L2 of the probe's grid a probe is fitted to the features of 90 % of HELD/train; it is scored on
the other 10 % (seen) and on HELD/test (unseen). Each L2 is then fitted to all of HELD/train and
scored on DIR/test. The stored row has the test accuracy of both choices and the best of any L2,
which nobody could know.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
from bench_record import Table

from tcl_train.building.parts import build_data
from tcl_train.data.holding_out import held_out_rows
from tcl_train.data.normalize import Normalize
from tcl_train.evaluation.features import Features, MirrorMean, accuracy, extract
from tcl_train.evaluation.lbfgs import LBFGSProbe, LinearClassifier, Standardise
from tcl_train.restore import load_encoder
from tcl_train.run.directory import RunDir
from tcl_train.runtime.device import Runtime
from tcl_train.runtime.randomness import generator


def features_of(run: Path, roots: list[Path]) -> list[Features]:
    """Of HELD/train, HELD/test and DIR/test, standardised by the first."""
    config = RunDir(run).read_config()
    encoder = load_encoder(run)
    runtime = Runtime(device=config.device, precision=config.precision, compile=False)
    net = runtime.place(MirrorMean(encoder) if config.mirror_features else encoder)
    found: list[Features] = []
    for root in roots:
        config.dataset.root = str(root)
        data = build_data(config, supervised=True)
        normalize = Normalize(size=data.image_size, mean=encoder.mean, std=encoder.std)
        found += [extract(net, s, normalize, runtime) for s in (data.train, data.test) if s]
    held_train, held_test, _, test = found
    standardise = Standardise(held_train.x_ND)
    return [Features(standardise(f.x_ND), f.y_N) for f in (held_train, held_test, test)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("held", type=Path)
    parser.add_argument("root", type=Path)
    parser.add_argument("--name", default="images", help="of the data set, for the table")
    parser.add_argument("--out", type=Path, default=Path("results/l2_choice.csv"))
    given = parser.parse_args()
    train, unseen, test = features_of(given.run, [given.held, given.root])
    probe = LBFGSProbe()
    held_N = held_out_rows(train.y_N, 0.1, generator(1, "held-out"))
    part = Features(train.x_ND[~held_N], train.y_N[~held_N])
    seen = Features(train.x_ND[held_N], train.y_N[held_N])
    classes = int(train.y_N.max()) + 1
    zero = LinearClassifier(torch.zeros(train.x_ND.shape[1], classes), torch.zeros(classes))
    of_part, of_all = zero, zero
    scores: dict[float, dict[str, float]] = {}
    for l2 in probe.l2:
        of_part = probe.fit(part, l2, of_part)
        of_all = probe.fit(train, l2, of_all)
        scores[l2] = {
            "seen": accuracy(of_part.scores(seen.x_ND), seen.y_N),
            "unseen": accuracy(of_part.scores(unseen.x_ND), unseen.y_N),
            "test": accuracy(of_all.scores(test.x_ND), test.y_N),
        }
        print(f"{l2:g}", scores[l2], flush=True)
    by = {name: max(scores, key=lambda l2: scores[l2][name]) for name in ("seen", "unseen", "test")}
    row: dict[str, Any] = {"data": given.name, "train": len(train.y_N), "test": len(test.y_N)}
    for name, l2 in by.items():
        row |= {f"l2 by {name}": l2, f"top-1 by {name}": scores[l2]["test"]}
    row |= {f"top-1 on {name}": scores[by[name]][name] for name in ("seen", "unseen")}
    Table(given.out, torch.device("cpu")).add(row)


if __name__ == "__main__":
    main()
