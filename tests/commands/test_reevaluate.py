"""tcl-eval: the encoder of a run is probed again, on its own data and on other data."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf

from tcl_train.cli.compose import compose_run, evaluation_config
from tcl_train.cli.main import main_eval
from tcl_train.data.dataset import DataSet
from tcl_train.evaluation import evaluate as evaluation
from tcl_train.evaluation.predictions import Predictions
from tcl_train.run.directory import RunDir


@pytest.fixture
def run_dir(finished: Any, tmp_path: Path) -> RunDir:
    """A finished run, to write into."""
    return RunDir(shutil.copytree(finished.run_dir.path, tmp_path / "run"))


@pytest.fixture
def tcl_eval(command: Callable[..., Any]) -> Callable[..., Any]:
    return partial(command, main=main_eval)


@pytest.fixture
def eval_refused(refused: Callable[..., str]) -> Callable[..., str]:
    return partial(refused, main=main_eval)


def evaluations(run_dir: RunDir) -> dict[str, dict[str, Any]]:
    folder = run_dir.path / "evaluations"
    return {path.name: json.loads(path.read_text()) for path in folder.glob("*.json")}


# ------------------------------------------------------------------ its own data


def test_the_same_encoder_gets_the_same_accuracies_again(
    run_dir: RunDir, tcl_eval: Callable[..., Any]
) -> None:
    outcome = tcl_eval(f"run={run_dir}")
    assert (outcome.status, outcome.err) == (0, "")
    first, again = run_dir.read_result(), evaluations(run_dir)["digits-lbfgs.json"]
    one_image = 100 / 360  # another order of sums may move one that is on the border
    for key in ("top1", "top5", "knn_top1", "random_encoder_top1"):
        assert again[key] == pytest.approx(first[key], abs=1.01 * one_image), key
    for key in ("num_train", "num_test", "num_classes", "precision", "device", "torch_version"):
        assert again[key] == first[key], key
    assert set(again["probe"]) == set(first["probe"])
    assert (again["dataset"], again["step"]) == ("digits", 10)
    path = run_dir.path / "evaluations" / "digits-lbfgs.json"
    assert f"top-1 {again['top1']:.2f} %" in outcome.last_line
    assert "linear probe of frozen features" in outcome.last_line
    assert str(path) in outcome.last_line


def test_both_encoders_lie_in_memory_as_in_training(
    run_dir: RunDir, tcl_eval: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Channels-last, which is faster."""
    seen: list[bool] = []
    extract = evaluation.extract

    def look(encoder: Any, *args: Any) -> Any:
        weight = encoder.layer1[0].conv1.weight
        seen.append(weight.is_contiguous(memory_format=torch.channels_last))
        return extract(encoder, *args)

    monkeypatch.setattr(evaluation, "extract", look)
    assert tcl_eval(f"run={run_dir}").status == 0
    assert seen == [True] * 4


def test_nothing_that_was_there_is_changed(
    run_dir: RunDir, tcl_eval: Callable[..., Any], contents: Callable[..., Any]
) -> None:
    before = contents(run_dir.path)
    assert tcl_eval(f"run={run_dir}").status == 0
    first = contents(run_dir.path)
    assert tcl_eval(f"run={run_dir}", "probe.max_iter=3").status == 0
    second = contents(run_dir.path)
    assert {name: first[name] for name in before} == before
    assert {name: second[name] for name in first} == first
    assert set(second) - set(before) == {
        "evaluations",
        "evaluations/digits-lbfgs.json",
        "evaluations/digits-lbfgs.npz",
        "evaluations/digits-lbfgs-2.json",
        "evaluations/digits-lbfgs-2.npz",
    }
    optimiser = evaluations(run_dir)["digits-lbfgs-2.json"]["probe"]["optimiser"]
    assert "at most 3 iterations" in optimiser


def test_another_probe_can_be_taken(run_dir: RunDir, tcl_eval: Callable[..., Any]) -> None:
    """Although the run said something of its own probe, which the other one lacks."""
    outcome = tcl_eval(f"run={run_dir}", "probe=sgd", "probe.epochs=2")
    assert (outcome.status, outcome.err) == (0, "")
    result = evaluations(run_dir)["digits-sgd.json"]
    assert "SGD, 2 epochs" in result["probe"]["optimiser"]
    assert 10 < result["top1"] <= 100


def test_the_probe_is_the_one_of_the_run_s_recipe() -> None:
    """A method's recipe chooses it, too."""
    stored = compose_run(["dataset=cifar100", "method=simclr"]).config
    assert stored.names.probe == "lbfgs"
    assert evaluation_config(stored, []).names.probe == "lbfgs"
    assert evaluation_config(stored, ["dataset=cifar10"]).names.probe == "sgd"


def test_features_of_mirror_images_can_be_added(
    run_dir: RunDir, tcl_eval: Callable[..., Any]
) -> None:
    assert tcl_eval(f"run={run_dir}", "mirror_features=true").status == 0
    assert evaluations(run_dir)["digits-lbfgs.json"]["probe"]["mirror_features"] is True


def test_an_interrupted_run_can_be_evaluated(run_dir: RunDir, tcl_eval: Callable[..., Any]) -> None:
    run_dir.result.unlink()
    assert tcl_eval(f"run={run_dir}").status == 0
    assert not run_dir.finished
    assert "digits-lbfgs.json" in evaluations(run_dir)


# ------------------------------------------------------------------ other data


def test_the_encoder_is_evaluated_on_an_image_folder(
    run_dir: RunDir, two_classes: Path, tcl_eval: Callable[..., Any]
) -> None:
    words = ["dataset=image_folder", f"dataset.root={two_classes}"]
    outcome = tcl_eval(f"run={run_dir}", *words)
    assert (outcome.status, outcome.err) == (0, "")
    result = evaluations(run_dir)["image_folder-lbfgs.json"]
    assert (result["dataset"], result["num_classes"]) == ("image_folder", 2)
    assert (result["num_train"], result["num_test"]) == (24, 12)
    assert result["top1"] == 100  # colours are easy
    assert "image_folder" in outcome.last_line


def test_the_encoder_is_evaluated_on_images_of_another_size(
    run_dir: RunDir,
    tmp_path: Path,
    write_images: Callable[..., Path],
    tcl_eval: Callable[..., Any],
) -> None:
    counts = {"train/a": 8, "train/b": 8, "val/a": 4, "val/b": 4}
    root = write_images(tmp_path / "large", counts, size=80)
    outcome = tcl_eval(f"run={run_dir}", "dataset=image_folder", f"dataset.root={root}")
    assert (outcome.status, outcome.err) == (0, "")
    assert evaluations(run_dir)["image_folder-lbfgs.json"]["top1"] == 100


def test_an_encoder_that_was_trained_on_grey_images_sees_colour_and_another_size(
    run_dir: RunDir, two_classes: Path, tcl_eval: Callable[..., Any]
) -> None:
    """And says that they are of another size, with what to do."""
    words = ["dataset=image_folder", f"dataset.root={two_classes}", "dataset.image_size=16"]
    outcome = tcl_eval(f"run={run_dir}", *words, "random_encoder_baseline=false")
    assert (outcome.status, outcome.err) == (0, "")
    assert "trained on images of 8 x 8 pixels; these are 16 x 16" in outcome.out
    assert "dataset.image_size=8" in outcome.out
    result = evaluations(run_dir)["image_folder-lbfgs.json"]
    assert (result["image_size"], result["encoder_image_size"]) == (16, 8)


def test_the_images_of_pretraining_are_known_at_another_size(
    run_dir: RunDir, tcl_eval: Callable[..., Any]
) -> None:
    words = ["random_encoder_baseline=false", "dataset.image_size=6"]
    assert tcl_eval(f"run={run_dir}", *words).status == 0
    (result,) = evaluations(run_dir).values()
    assert "pretraining saw these images" in result["probe"]["l2_chosen_by"]


def test_of_weights_from_elsewhere_nobody_knows_what_they_have_seen(
    run_dir: RunDir, tmp_path: Path, tcl_eval: Callable[..., Any]
) -> None:
    encoder = ["encoder=resnet8", "encoder.width=4", f"encoder.weights={run_dir}"]
    words = ["dataset=digits", "random_encoder_baseline=false", f"out={tmp_path / 'out'}"]
    assert tcl_eval(*encoder, *words).status == 0
    chosen_by = RunDir(tmp_path / "out").read_result()["probe"]["l2_chosen_by"]
    assert "whether pretraining saw these images is not known" in chosen_by


def test_another_seed_scores_the_validation_images_that_pretraining_did_not_see(
    run_dir: RunDir, tcl_eval: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = run_dir.read_config()
    config.validation = 0.1
    OmegaConf.save(config, run_dir.config)
    kept_out: list[torch.Tensor] = []
    before = DataSet.with_validation

    def with_validation(data: DataSet, share: float, g: torch.Generator) -> DataSet:
        divided = before(data, share, g)
        assert divided.validation is not None
        assert divided.validation.labels_N is not None
        kept_out.append(divided.validation.labels_N)
        return divided

    monkeypatch.setattr(DataSet, "with_validation", with_validation)
    for seed in (config.seed, config.seed + 1):
        words = ["random_encoder_baseline=false", f"seed={seed}"]
        assert tcl_eval(f"run={run_dir}", *words).status == 0
    assert torch.equal(*kept_out)


def test_images_that_the_encoder_cannot_take_are_refused(
    run_dir: RunDir, eval_refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a transformer cannot take any other size than its own."""

    def forward(self: Any, x_NCHW: torch.Tensor) -> torch.Tensor:
        raise AssertionError("Input height (8) doesn't match model (224).")

    monkeypatch.setattr("tcl_train.models.resnet.ThinResNet.forward", forward)
    line = eval_refused(f"run={run_dir}")
    assert "the encoder takes no images of 8 x 8 pixels (Input height (8)" in line
    assert "dataset.image_size=N" in line


# ------------------------------------------------------------------ what else is measured

QUICK = ("probe.l2=[1e-3]", "random_encoder_baseline=false")


def test_further_measures_stand_beside_the_others(
    run_dir: RunDir, tcl_eval: Callable[..., Any]
) -> None:
    words = ["knn.k=[1,20]", "knn.temperature=0.1", "few_labels=[10%,3]", "few_labels.draws=2"]
    words += ["corruption=[fog,contrast]", "corruption.severity=5"]
    outcome = tcl_eval(f"run={run_dir}", *QUICK, *words)
    assert (outcome.status, outcome.err) == (0, "")
    result = evaluations(run_dir)["digits-lbfgs.json"]
    assert result["random_encoder_top1"] is None
    assert (result["knn"]["k"], result["knn"]["temperature"]) == (1, 0.1)
    assert result["knn_top1"] == result["knn"]["top1_by_k"]["1"]
    assert {name: len(v["top1_of_draws"]) for name, v in result["few_labels"].items()} == {
        "0.1": 2,
        "3": 2,
    }
    assert list(result["corruption"]["top1"]) == ["fog", "contrast"]
    assert list(result["corruption"]["top1"]["fog"]) == ["5"]
    assert 0 <= result["calibration_error"] <= 100
    assert set(result["geometry"]) == {"alignment", "uniformity", "tolerance", "rankme"}
    found = Predictions.load(run_dir.evaluations / "digits-lbfgs.npz")
    assert 100 * (found.predicted == found.labels).mean() == pytest.approx(result["top1"])
    for part in ("few labels, 3:", "corrupted", "kNN"):
        assert part in outcome.last_line


def test_what_training_measures_is_what_evaluation_measures(run_dir: RunDir) -> None:
    result = run_dir.read_result()
    found = Predictions.load(run_dir.predictions)
    assert 100 * (found.predicted == found.labels).mean() == pytest.approx(result["top1"])
    assert list(result["per_class_top1"]) == found.classes.tolist()
    assert 0 < result["geometry"]["alignment"] < 4


def test_before_and_behind_the_projector(run_dir: RunDir, tcl_eval: Callable[..., Any]) -> None:
    assert tcl_eval(f"run={run_dir}", "features=projector", "probe.l2=[1e-3]").status == 0
    result = evaluations(run_dir)["digits-lbfgs-projector.json"]
    assert result["features"] == "projector"
    found = Predictions.load(run_dir.evaluations / "digits-lbfgs-projector.npz")
    assert found.sample_features.shape == (360, 128)


def test_any_checkpoint_that_was_kept(run_dir: RunDir, tcl_eval: Callable[..., Any]) -> None:
    state = torch.load(run_dir.last_checkpoint, weights_only=True)
    state.pop("checksum")
    state["step"] = 5
    torch.save(state, run_dir.checkpoints / "epoch-00001.pt")
    for name in ("epoch-00001", "epoch-00001.pt"):
        assert tcl_eval(f"run={run_dir}", f"checkpoint={name}", *QUICK).status == 0
    found = evaluations(run_dir)
    assert set(found) == {"digits-lbfgs-epoch-00001.json", "digits-lbfgs-epoch-00001-2.json"}
    assert all((r["step"], r["checkpoint"]) == (5, "epoch-00001.pt") for r in found.values())


def test_fine_tuning_leaves_the_run_as_it_is(
    run_dir: RunDir, tcl_eval: Callable[..., Any], contents: Callable[..., Any]
) -> None:
    before = contents(run_dir.path)
    words = ["probe=finetune", "probe.epochs=1", "probe.min_steps=0", QUICK[1]]
    outcome = tcl_eval(f"run={run_dir}", *words)
    assert (outcome.status, outcome.err) == (0, "")
    assert "fine-tuned encoder" in outcome.last_line
    assert before.items() <= contents(run_dir.path).items()


# ------------------------------------------------------------------ several runs


@pytest.fixture
def three_runs(run_dir: RunDir) -> Path:
    """A folder with 10_c, 2_b and one that has lost its checkpoint; and one that is no run."""
    folder = run_dir.path.with_name("sweep")
    for name in ("10_c", "2_b", "3_broken"):
        shutil.copytree(run_dir.path, folder / name)
    shutil.rmtree(folder / "3_broken" / "checkpoints")
    (folder / "notes").mkdir()
    return folder


@pytest.mark.parametrize("written", ["glob", "words", "list"])
def test_one_that_fails_is_said_and_the_others_are_evaluated(
    three_runs: Path, tcl_eval: Callable[..., Any], written: str
) -> None:
    runs = [str(three_runs / name) for name in ("2_b", "3_broken", "10_c")]
    words = {
        "glob": [f"run={three_runs}/*"],
        "words": [f"run={run}" for run in runs],
        "list": [f"run=[{', '.join(runs)}]"],
    }[written]
    outcome = tcl_eval(*words, *QUICK)
    assert outcome.status == 2
    (line,) = outcome.err.splitlines()
    assert line.startswith(f"tcl-eval: {runs[1]}: ")
    assert "there is no checkpoint" in line
    table = outcome.out.splitlines()[-3:]
    assert table[0].split() == ["run", "dataset", "top-1", "kNN", "ECE"]
    assert [row.split()[:2] for row in table[1:]] == [[runs[0], "digits"], [runs[2], "digits"]]
    assert len({row.index("digits") for row in table[1:]} | {table[0].index("dataset")}) == 1
    assert all(len(evaluations(RunDir(runs[i]))) == 1 for i in (0, 2))


def test_where_all_succeed_the_status_is_0(three_runs: Path, tcl_eval: Callable[..., Any]) -> None:
    shutil.rmtree(three_runs / "3_broken")
    outcome = tcl_eval(f"run={three_runs}/*", *QUICK)
    assert (outcome.status, outcome.err) == (0, "")


def test_a_failure_that_nobody_foresaw_stops_no_other_run(
    three_runs: Path, tcl_eval: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.rmtree(three_runs / "3_broken")
    measure = evaluation.Evaluator.measure
    failures = iter([True, False])

    def fail_once(self: Any, encoder: Any) -> Any:
        if next(failures):
            raise ZeroDivisionError("division by zero")
        return measure(self, encoder)

    monkeypatch.setattr(evaluation.Evaluator, "measure", fail_once)
    outcome = tcl_eval(f"run={three_runs}/*", *QUICK)
    assert outcome.status == 1
    assert f"{three_runs}/2_b: ZeroDivisionError: division by zero" in outcome.err
    assert len(outcome.err.splitlines()) == 1
    assert len(evaluations(RunDir(three_runs / "10_c"))) == 1


# ------------------------------------------------------------------ encoders without a run


def test_an_encoder_is_evaluated_without_a_run(here: Path, tcl_eval: Callable[..., Any]) -> None:
    words = ["encoder=resnet8", "encoder.width=4", "dataset=digits", "device=cpu", *QUICK]
    outcome = tcl_eval(*words, "out=found")
    assert (outcome.status, outcome.err) == (0, "")
    result = RunDir("found").read_result()
    assert (result["encoder"], result["encoder_parameters"]["width"]) == ("resnet8", 4)
    assert (result["epochs"], result["loss"]["name"]) == (0, "none")
    assert 10 < result["top1"] < 100
    assert len(Predictions.load(RunDir("found").predictions).labels) == result["num_test"]
    again = tcl_eval(*words, "out=found")
    assert again.status == 2
    assert "out=found: already contains a result" in again.err
    for _ in range(2):
        assert tcl_eval(*words).status == 0
    folders = sorted(path.name for path in (here / "outputs" / "evaluations").iterdir())
    assert folders == ["digits-resnet8", "digits-resnet8-2"]


def test_an_encoder_with_weights_has_their_accuracy_and_an_untrained_one_beside_it(
    run_dir: RunDir, tcl_eval: Callable[..., Any]
) -> None:
    """Those of a run, which has evaluated them itself."""
    words = ["encoder=resnet8", "encoder.width=4", f"encoder.weights={run_dir}", "dataset=digits"]
    outcome = tcl_eval(*words, "device=cpu", "precision=fp32", QUICK[0], "out=found")
    assert (outcome.status, outcome.err) == (0, "")
    result, of_run = RunDir("found").read_result(), run_dir.read_result()
    for name in ("top1", "knn_top1", "random_encoder_top1"):
        assert result[name] == pytest.approx(of_run[name], abs=1.01 * 100 / 360), name
    assert result["encoder_parameters"]["weights"] == str(run_dir)
    (line,) = [line for line in outcome.out.splitlines() if "normalised" in line]
    assert re.match(r"images are normalised with dataset\.mean=\[0\.\d+\S*\] dataset\.std=", line)


def test_weights_that_do_not_fit_are_refused(
    run_dir: RunDir, eval_refused: Callable[..., str]
) -> None:
    words = ["encoder=resnet8", "encoder.width=8", f"encoder.weights={run_dir}", "dataset=digits"]
    assert f"encoder.weights={run_dir}" in eval_refused(*words, "device=cpu")


# ------------------------------------------------------------------ what is refused


def test_without_words_it_says_what_it_does(tcl_eval: Callable[..., Any]) -> None:
    for words in ([], ["--help"]):
        outcome = tcl_eval(*words)
        assert (outcome.status, outcome.err) == (0, "")
        assert "tcl-eval run=DIR" in outcome.out


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["dataset=digits"], ["run is not set", "tcl-eval run=DIR"]),
        (["run=nowhere"], ["nowhere", "contains no run", "config.yaml"]),
        (["run=RUN", "run=RUN"], ["given twice"]),
        (["run=RUN", "run=RUN/../run"], ["given twice"]),
        (["run="], ["run=: nothing is given"]),
        (["run=[]"], ["run=[]: nothing is given"]),
        (["encoder=resnet8", "dataset=digits", "out="], ["out=: nothing is given"]),
        (["run=nowhere/*"], ["run=nowhere/*", "matches no run"]),
        (["run=RUN", "checkpoint=epoch-3"], ["checkpoint=epoch-3", "last.pt", "checkpoint.keep"]),
        (["run=RUN", "checkpoint=../last"], ["checkpoint=../last", "name of a file"]),
        (["run=RUN", "features=head"], ["features", "encoder, projector"]),
        (["run=RUN", "few_labels=[0]"], ["few_labels", "> 0"]),
        (["run=RUN", "few_labels=1000"], ["few_labels=1000", "training images", "share below 1"]),
        (["run=RUN", "few_labels.draws=2"], ["few_labels.draws=2", "goes with few_labels="]),
        (["run=RUN", "corruption=smog"], ["corruption", "fog"]),
        (["run=RUN", "corruption=fog", "corruption.severity=9"], ["severity", "1, 2, 3, 4, 5"]),
        (["run=RUN", "corruption=fog", "corruption=snow"], ["corruption is given twice"]),
        (["run=RUN", "knn.k=0"], ["knn.k", ">= 1"]),
        (["run=RUN", "random_encoder_baseline=3"], ["random_encoder_baseline", "true or false"]),
        (["run=RUN", "out=x"], ["out=x"]),
        (["encoder=bogus", "dataset=digits"], ["encoder=bogus", "resnet8"]),
        (["encoder=resnet8", "features=projector"], ["features", "run=DIR"]),
        (["encoder=resnet8", "epochs=2"], ["epochs=2", "encoder, dataset, probe"]),
        (["run=RUN", "epochs=3"], ["epochs=3", "dataset, probe"]),
        (["run=RUN", "bogus=3"], ["bogus=3"]),
        (["run=RUN", "--bogus"], ["--bogus"]),
        (["run=RUN", "dataset=bogus"], ["dataset=bogus", "cifar10"]),
        (["run=RUN", "probe.bogus=1"], ["probe.bogus"]),
        (["run=RUN", "probe.max_iter=0"], ["probe", "max_iter", ">= 1"]),
        (["run=RUN", "dataset=image_folder", "probe=lbfgs"], ["dataset.root"]),
        (["run=RUN", "device=cpu", "precision=fp16"], ["precision=fp16", "CPU"]),
    ],
    ids=lambda value: " ".join(value) if "=" in value[0] else "",
)
def test_a_bad_request_is_refused_in_one_line_and_nothing_is_written(
    run_dir: RunDir, eval_refused: Callable[..., str], words: list[str], named: list[str]
) -> None:
    line = eval_refused(*(word.replace("RUN", str(run_dir)) for word in words))
    missing = [part for part in named if part not in line]
    assert not missing, line


def test_a_folder_without_labels_is_refused(
    run_dir: RunDir,
    tmp_path: Path,
    write_images: Callable[..., Path],
    eval_refused: Callable[..., str],
) -> None:
    root = write_images(tmp_path, {"images": 3}) / "images"
    line = eval_refused(f"run={run_dir}", "dataset=image_folder", f"dataset.root={root}")
    assert str(root) in line


def test_a_folder_that_cannot_be_made_is_refused_before_anything_is_computed(
    run_dir: RunDir, tmp_path: Path, eval_refused: Callable[..., str], monkeypatch: Any
) -> None:
    monkeypatch.setattr(evaluation.Evaluator, "measure", None)
    out = tmp_path / "file" / "out"
    out.parent.write_text("")
    line = eval_refused("encoder=resnet8", "encoder.width=4", "dataset=digits", f"out={out}")
    assert f"out={out}: cannot be written" in line
    run_dir.evaluations.write_text("")
    assert f"run={run_dir.evaluations}: cannot be written" in eval_refused(f"run={run_dir}")


def test_a_run_without_a_checkpoint_is_refused(
    run_dir: RunDir, eval_refused: Callable[..., str]
) -> None:
    shutil.rmtree(run_dir.checkpoints)
    assert "last.pt: there is no checkpoint" in eval_refused(f"run={run_dir}")


def test_a_broken_checkpoint_is_refused(run_dir: RunDir, eval_refused: Callable[..., str]) -> None:
    path = run_dir.checkpoints / "last.pt"
    path.write_bytes(path.read_bytes()[:1000])
    assert f"{path}: not a whole checkpoint" in eval_refused(f"run={run_dir}")


def test_a_directory_of_another_program_is_refused(
    tmp_path: Path, eval_refused: Callable[..., str]
) -> None:
    (tmp_path / "config.yaml").write_text("learning_rate: 3\n")
    assert "config.yaml" in eval_refused(f"run={tmp_path}")


def test_a_run_directory_may_have_any_name(
    run_dir: RunDir, tmp_path: Path, tcl_eval: Callable[..., Any]
) -> None:
    moved = run_dir.path.rename(tmp_path / "0_seed=1, k1=5")
    assert tcl_eval(f"run={moved}", "probe.max_iter=2").status == 0
    assert (moved / "evaluations" / "digits-lbfgs.json").is_file()
