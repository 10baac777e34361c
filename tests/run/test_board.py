"""What TensorBoard reads of a run."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from google.protobuf import text_format
from PIL import Image

from tcl_train.commands.show import embeddings_of, hyperparameters, show_result
from tcl_train.evaluation.predictions import Predictions
from tcl_train.run.board import FINAL, GROUPS, Board, tag
from tcl_train.run.directory import RunDir
from tcl_train.run.projector import MOST_DIMENSIONS, leading_directions, sprite_of
from tcl_train.run.sink import Sink, UnwrittenSink

DRAWN = {"loss": 1.5, "positive_similarity": 0.5, "gradient_from_positives": 0.1}
ALL = {"scalars": 0, "histograms": 0, "images": 0, "tensors": 0}
RESULT = {"steps": 10, "top1": 90.0, "knn_top1": 80.0, "val_top1": None, "probe": {"l2": 0.1}}


@pytest.fixture
def run_dir(tmp_path: Path) -> RunDir:
    run_dir = RunDir(tmp_path / "run")
    run_dir.path.mkdir()
    return run_dir


def events_of(run_dir: RunDir) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TensorBoard's own, about its dependencies
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        events = EventAccumulator(str(run_dir.tensorboard), size_guidance=ALL)
        return events.Reload()


def row(run_dir: RunDir) -> dict[str, Any]:
    """Of the HParams tab."""
    from tensorboard.plugins.hparams import metadata

    content = events_of(run_dir).SummaryMetadata(metadata.SESSION_START_INFO_TAG).plugin_data
    started = metadata.parse_session_start_info_plugin_data(content.content)
    values = started.hparams.items()
    return {name: getattr(value, value.WhichOneof("kind")) for name, value in values}


def level(run_dir: RunDir, name: str) -> list[tuple[int, float]]:
    """The points of a final number, which has a description and so is stored as a tensor."""
    from tensorboard.util.tensor_util import make_ndarray

    events = events_of(run_dir).Tensors(f"eval/{name}")
    return [(event.step, float(make_ndarray(event.tensor_proto))) for event in events]


def long_ago(run_dir: RunDir) -> None:
    """TensorBoard orders files by the second in which they were begun."""
    for path in run_dir.tensorboard.glob("events.out.tfevents.[1-9]*"):
        path.rename(path.with_name("events.out.tfevents.0000000001.here.1.0"))


# ------------------------------------------------------------------ curves


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("loss", "train/loss"),
        ("lr", "train/lr"),
        ("a_new_one", "train/a_new_one"),
        ("positive_similarity", "geometry/positive_similarity"),
        ("alignment", "geometry/alignment"),
        ("effective_dimensions", "geometry/effective_dimensions"),
        ("gradient_from_negatives", "grad/gradient_from_negatives"),
        ("images_per_second", "speed/images_per_second"),
        ("data_wait_percent", "speed/data_wait_percent"),
        ("monitor/rankme", "monitor/rankme"),
    ],
)
def test_every_scalar_gets_a_group(name: str, expected: str) -> None:
    assert tag(name) == expected


def test_a_finished_run_has_grouped_curves_and_no_empty_chart(finished: Any) -> None:
    events = events_of(finished.run_dir)
    names = events.Tags()["scalars"]
    assert {name.split("/")[0] for name in names} == set(GROUPS)
    assert {"train/loss", "geometry/alignment", "grad/gradient_from_positives"} <= set(names)
    for name in names:
        assert [event.step for event in events.Scalars(name)] == list(range(1, 11)), name
    lines = map(json.loads, finished.run_dir.metrics.read_text().splitlines())
    losses = [line["loss"] for line in lines if "loss" in line]
    drawn = [event.value for event in events.Scalars("train/loss")]
    assert drawn == pytest.approx(losses)
    for name in events.Tags()["histograms"]:
        assert [event.step for event in events.Histograms(name)] == [5, 10]
    assert set(events.Tags()["histograms"]) == {
        "similarity/negative_pairs",
        "similarity/positive_pairs",
    }
    assert events.Tags()["images"] == ["views"]


def test_a_finished_run_has_its_numbers_as_lines_metrics_and_a_table(finished: Any) -> None:
    result = finished.run_dir.read_result()
    for name in ("top1", "knn_top1"):
        value = pytest.approx(result[name])
        assert level(finished.run_dir, name) == [(0, value), (10, value)]
    events = events_of(finished.run_dir)
    assert "one number" in events.SummaryMetadata("eval/top1").summary_description.lower()
    assert [name for name in events.Tags()["tensors"] if name.startswith("eval/")] == [
        "eval/top1",
        "eval/knn_top1",
    ]
    (table,) = events.Tensors("evaluation/text_summary")
    (text,) = table.tensor_proto.string_val
    assert f"top1 | {result['top1']:.4g}" in text.decode()
    assert "probe.optimiser | L-BFGS" in text.decode()
    (start,) = events.Tensors("run/text_summary")
    assert "tcl-train dataset=digits" in start.tensor_proto.string_val[0].decode()
    assert row(finished.run_dir)["loss"] == "tcl"
    assert row(finished.run_dir)["encoder.width"] == 4
    assert events.SummaryMetadata("_hparams_/session_end_info").plugin_data.content


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_is_no_chart(run_dir: RunDir, value: float) -> None:
    with Board(run_dir.tensorboard) as board:
        board.scalars(1, {"loss": 1.0, "negative_similarity": value})
    assert events_of(run_dir).Tags()["scalars"] == ["train/loss"]


def test_counts_are_a_histogram_and_no_pairs_are_none(run_dir: RunDir) -> None:
    with Board(run_dir.tensorboard) as board:
        board.histogram(3, "similarity/positive_pairs", [1, 0, 2, 5], low=-1, high=1)
        board.histogram(3, "similarity/negative_pairs", [0, 0, 0, 0], low=-1, high=1)
    events = events_of(run_dir)
    assert events.Tags()["histograms"] == ["similarity/positive_pairs"]
    (event,) = events.Histograms("similarity/positive_pairs")
    found = event.histogram_value
    assert (found.min, found.max, found.num) == (-1, 1, 8)
    assert found.bucket_limit == [-0.5, 0, 0.5, 1]
    assert found.bucket == [1, 0, 2, 5]


# ------------------------------------------------------------------ resuming


def test_a_resumed_run_has_one_row_with_what_it_is_now(run_dir: RunDir) -> None:
    Sink(run_dir, hyperparameters={"epochs": 2, "loss": "tcl"}).close()
    long_ago(run_dir)
    Sink(run_dir, first_step=5, hyperparameters={"epochs": 4, "loss": "tcl"}).close()
    assert row(run_dir) == {"epochs": 4, "loss": "tcl"}


def test_an_extended_run_has_a_line_for_each_part(run_dir: RunDir) -> None:
    with Sink(run_dir) as sink:
        sink.write(10, 0, DRAWN)
        show_result(RESULT, None, sink.board, run_dir)
    long_ago(run_dir)
    (run_dir.path / "result-1-epochs.json").touch()
    with Sink(run_dir, first_step=10) as sink:
        sink.write(20, 1, DRAWN)
        show_result({**RESULT, "steps": 20, "top1": 95.0}, None, sink.board, run_dir)
    assert level(run_dir, "top1") == [(0, 90), (10, 90), (11, 95), (20, 95)]


def test_a_run_of_an_earlier_version_is_drawn_anew_under_the_new_names(run_dir: RunDir) -> None:
    """It had all curves below `train`."""
    from torch.utils.tensorboard import SummaryWriter

    lines = [{"step": step, "epoch": 0, **DRAWN} for step in (1, 2, 3)]
    run_dir.metrics.write_text("".join(json.dumps(line) + "\n" for line in lines))
    with SummaryWriter(str(run_dir.tensorboard)) as writer:
        for line in lines:
            for name in DRAWN:
                writer.add_scalar(f"train/{name}", line[name], line["step"])
    long_ago(run_dir)
    with Sink(run_dir, first_step=2) as sink:
        assert sink.board.is_new
        sink.write(3, 0, DRAWN)
    events = events_of(run_dir)
    for name in map(tag, DRAWN):
        assert [event.step for event in events.Scalars(name)] == [1, 2, 3]
    assert not events.Scalars("train/positive_similarity")


def test_a_process_that_is_not_the_first_draws_nothing(tmp_path: Path) -> None:
    with UnwrittenSink() as sink:
        assert not sink.board.writes
        assert not sink.board.is_new
        sink.board.scalars(1, DRAWN)
        sink.board.histogram(1, "similarity/positive_pairs", [1], low=0, high=1)
        sink.board.text(1, "run", "text")
        show_result(RESULT, None, sink.board, RunDir(tmp_path))
    assert list(tmp_path.iterdir()) == []


# ------------------------------------------------------------------ hyper-parameters


def test_the_row_has_the_main_choices_and_whatever_else_was_typed(compose_tiny: Any) -> None:
    words = ("loss=hard", "optimizer.weight_decay=1e-3", "augment@second_view=crop")
    found = hyperparameters(compose_tiny(*words, "dataset.root=x", "data.workers=1"))
    assert (found["loss"], found["dataset"], found["encoder"]) == ("hard", "digits", "resnet8")
    assert (found["batch_size"], found["seed"], found["tau"]) == (256, "1", 0.5)
    assert (found["optimizer.weight_decay"], found["probe.l2"]) == (1e-3, "[0.001]")
    assert found["augment@second_view"] == "crop"
    assert not {"k1", "dataset.root", "data.workers", "device", "log_every"} & found.keys()
    assert {type(value) for value in found.values()} <= {str, int, float, bool}


def test_a_name_that_is_no_text_is_shown_as_far_as_it_is(run_dir: RunDir) -> None:
    name = "a\udcff"
    with Board(run_dir.tensorboard, hyperparameters={"encoder.weights": name}) as board:
        board.text(0, "run", name)
    assert row(run_dir) == {"encoder.weights": "a?"}


# ------------------------------------------------------------------ the projector


def test_features_stand_in_the_projector_with_classes_and_pictures(run_dir: RunDir) -> None:
    from tensorboard.plugins.projector.projector_config_pb2 import ProjectorConfig

    rng = np.random.default_rng(0)
    found = Predictions(
        labels=np.array([0, 0, 0, 1, 1, 1]),
        predicted=np.array([0, 0, 0, 0, 1, 1]),
        confidence=np.ones(6, np.float32),
        classes=np.array(["a\tcat", "Grüße"]),
        sample=np.array([5, 0, 3]),
        sample_features=rng.normal(size=(3, 5)).astype(np.float16),
        thumbnails=np.full((3, 4, 4, 3), 7, np.uint8),
    )
    with Board(run_dir.tensorboard) as board:
        show_result(RESULT, found, board, run_dir)
    config = ProjectorConfig()
    text_format.Parse((run_dir.tensorboard / "projector_config.pbtxt").read_text(), config)
    (shown,) = config.embeddings
    assert shown.tensor_name == "features"
    x_nD = np.loadtxt(run_dir.tensorboard / shown.tensor_path, delimiter="\t")
    assert x_nD == pytest.approx(embeddings_of(found).rows["features"], rel=1e-3)
    lines = (run_dir.tensorboard / shown.metadata_path).read_text(encoding="utf-8").splitlines()
    assert lines == [
        "class\tpredicted\timage",
        "Grüße\tGrüße\t5",
        "a cat\ta cat\t0",
        "Grüße\ta cat\t3",
    ]
    with Image.open(run_dir.tensorboard / shown.sprite.image_path) as sprite:
        assert sprite.size == (8, 8)
    assert list(shown.sprite.single_image_dim) == [4, 4]


def test_a_sprite_has_its_pictures_row_by_row() -> None:
    pictures = np.stack([np.full((2, 2, 3), value, np.uint8) for value in range(5)])
    sprite = np.asarray(sprite_of(pictures))
    assert sprite.shape == (6, 6, 3)
    assert sprite[::2, ::2, 0].tolist() == [[0, 1, 2], [3, 4, 255], [255, 255, 255]]


@pytest.mark.parametrize(("n", "d"), [(4, 3), (300, 200), (50, 400)])
def test_many_dimensions_are_cut_and_angles_stay(n: int, d: int) -> None:
    rng = np.random.default_rng(0)
    x_nD = rng.normal(size=(n, min(d, 100))) @ rng.normal(size=(min(d, 100), d))
    cut_nD = leading_directions(x_nD)
    assert cut_nD.shape[1] <= min(d, MOST_DIMENSIONS)
    assert cut_nD @ cut_nD.T == pytest.approx(x_nD @ x_nD.T, rel=1e-3, abs=0.1)


def test_all_final_numbers_are_explained() -> None:
    assert {"top1", "knn_top1", "val_top1"} == set(FINAL)
