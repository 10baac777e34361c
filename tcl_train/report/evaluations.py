"""What an evaluation by `tcl-eval` has evaluated, in a few words."""

from __future__ import annotations

import re
from collections.abc import Mapping

from tcl_train.report.measures import MEASURES
from tcl_train.report.protocols import in_words
from tcl_train.report.run_files import Evaluation, Run

# Of an evaluation: what is measured, or of the machine, and does not say what was evaluated.
NOT_TELLING = {
    *(measure.key.partition("/")[0] for measure in MEASURES),
    *("per_class_top1", "probe", "knn", "dataset", "dataset_root", "left_out", "run", "seed"),
    *("num_train", "num_validation", "num_test", "num_classes", "test_split", "device"),
    *("torch_version", "tcl_train_version", "git_commit", "overrides", "step"),
    *("image_size", "encoder_image_size", "precision"),
}
USUAL = {"features": "encoder", "checkpoint": "last.pt"}  # not worth a word


def what_was_evaluated(evaluation: Evaluation, run: Run) -> str:
    """What was evaluated, the same for the runs of a group: the file's name without the number that
    keeps it from another one's, and what is stated beside the measures."""
    parts = [re.sub(r"-\d{1,2}$", "", evaluation.name)]
    for key, value in evaluation.content.items():
        told = key not in NOT_TELLING and not key.endswith("_protocol")
        if told and isinstance(value, (str, int, bool)) and USUAL.get(key) != value:
            parts.append(f"{in_words(key)} {value}")
    corrupted = evaluation.content.get("corruption")
    if isinstance(corrupted, Mapping) and isinstance(corrupted.get("top1"), Mapping):
        of_kinds = [kind for kind in corrupted["top1"].values() if isinstance(kind, Mapping)]
        strengths = {str(s) for kind in of_kinds for s in kind}
        kinds = f"{len(corrupted['top1'])} kinds of corruption"
        parts.append(f"{kinds} in strengths {', '.join(sorted(strengths))}")
    size, trained = (evaluation.content.get(f"{of}image_size") for of in ("", "encoder_"))
    if size is not None and size != trained:
        parts.append(f"images of {size} x {size}")
    precision = evaluation.content.get("precision")
    if precision is not None and precision != (run.result or {}).get("precision"):
        parts.append(f"precision {precision}")
    step, last = evaluation.content.get("step"), (run.result or {}).get("steps")
    if step is not None and step != last:
        parts.append(f"step {step}")
    return ", ".join(parts)
