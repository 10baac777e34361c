"""Sweeps: a job for each combination, each in a directory and a process of its own.

The fast tests put a stand-in in the place of the processes; the slow ones start them.
"""

from __future__ import annotations

import csv
import json
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

from tcl_train.cli import sweep
from tcl_train.cli.compose import compose_run, hydra_initialized
from tcl_train.cli.overrides import parse_overrides
from tcl_train.run import checkpoint
from tcl_train.run.directory import RunDir
from tcl_train.runtime.signals import STOPPING

RESULT = {"top1": 90.0, "top5": 99.0, "knn_top1": 85.0, "random_encoder_top1": 70.0}
RESULT |= {"images_per_second": 1000.0, "wall_seconds": 2.5}


class Children:
    """Stands in for the processes. Each finishes its run with RESULT, unless `statuses` says
    otherwise for one of the words that it is started with."""

    def __init__(self) -> None:
        self.commands: list[list[str]] = []
        self.statuses: dict[str, int] = {}
        self.signals: list[int] = []
        self.while_it_runs: Callable[[], object] = lambda: None

    def __call__(self, command: list[str], *, start_new_session: bool) -> Children:
        assert start_new_session  # a terminal's signals reach the job through us alone
        self.commands.append(command)
        return self

    def wait(self) -> int:
        self.while_it_runs()
        words = self.commands[-1]
        status = next((s for word, s in self.statuses.items() if word in words), 0)
        if status in (0, 1, 130, 143):  # it came as far as its run directory
            job = understood(words)
            run_dir = RunDir(job.directory)
            if not run_dir.started:
                run_dir.claim(compose_run(job.words).config)
            if status == 0:
                run_dir.result.write_text(json.dumps(RESULT))
        return status

    def send_signal(self, signum: int) -> None:
        self.signals.append(signum)


class Job(NamedTuple):
    """What tcl-train understands of the words that it is started with."""

    words: list[str]
    how: str  # hydra.run.dir or resume
    directory: Path


def understood(command: list[str]) -> Job:
    assert command[:3] == [sys.executable, "-m", "tcl_train"]
    *words, place = command[3:]
    (override,) = parse_overrides([place])
    assert override.key_or_group in ("hydra.run.dir", "resume")
    return Job(words, override.key_or_group, Path(str(override.value())))


@pytest.fixture
def children(monkeypatch: pytest.MonkeyPatch) -> Children:
    children = Children()
    monkeypatch.setattr(sweep.subprocess, "Popen", children)
    return children


@pytest.fixture
def tcl_train(command: Callable[..., Any]) -> Callable[..., Any]:
    """`tcl_train(words)`: a sweep into the directory `sweep`."""
    return lambda *words: command("-m", *words, "hydra.sweep.dir=sweep")


def table() -> list[dict[str, str]]:
    with Path("sweep/sweep.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def column(name: str) -> list[str]:
    return [row[name] for row in table()]


# ------------------------------------------------------------------ jobs and their table


def test_each_combination_is_a_job_with_a_directory_and_a_row_of_its_own(
    children: Children, tcl_train: Callable[..., Any]
) -> None:
    outcome = tcl_train("loss=ce,tcl", "seed=7", "epochs=1")
    assert (outcome.status, outcome.err) == (0, "")
    jobs = [understood(command) for command in children.commands]
    for job, row, loss in zip(jobs, table(), ("ce", "tcl"), strict=True):
        assert set(job.words) == {f"loss={loss}", "seed=7", "epochs=1"}
        assert job.how == "hydra.run.dir"
        assert job.directory.parent.resolve() == Path("sweep").resolve()
        # Named after what the sweep varies.
        assert loss in job.directory.name
        assert "epochs" not in job.directory.name
        assert (row["loss"], row["seed"], row["epochs"]) == (loss, "7", "1")
        assert row["status"] == "finished"
        assert Path(row["dir"]).resolve() == job.directory.resolve()
        assert {name: float(row[name]) for name in RESULT} == RESULT
    assert jobs[0].directory != jobs[1].directory


@pytest.mark.parametrize("name", ["0_probe.l2-[1,0.1]", "0_loss=ce", "with 'quotes' and space"])
def test_a_job_goes_into_its_directory_whatever_its_name(
    children: Children, tmp_path: Path, name: str
) -> None:
    """Values may be lists, and a user may name the directories otherwise."""
    sweep.run_job(["seed=1"], tmp_path / name, tmp_path)
    assert understood(children.commands[0]).directory == tmp_path / name
    assert RunDir(tmp_path / name).finished


@pytest.mark.parametrize("words", [["loss=ce,bogus"], ["seed=1,2", "epocs=3"]])
def test_a_wrong_word_is_refused_before_the_first_job_starts(
    children: Children, refused: Callable[..., str], words: list[str]
) -> None:
    line = refused("-m", *words, "hydra.sweep.dir=sweep")
    assert words[-1].split("=")[0] in line
    assert not children.commands


def test_jobs_that_are_added_later_join_the_table(tmp_path: Path) -> None:
    """With settings that the earlier ones did not name."""
    for number, words in enumerate((["seed=1"], ["seed=1", "tau=0.5"])):
        sweep._note(tmp_path / "sweep.csv", tmp_path / str(number), words, 0)
    with (tmp_path / "sweep.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["seed"], row["tau"]) for row in rows] == [("1", ""), ("1", "0.5")]
    assert {path.name for path in tmp_path.iterdir()} - {".sweep.csv.lock"} == {"sweep.csv"}


# ------------------------------------------------------------------ names of directories


@pytest.mark.parametrize(
    "words",
    [
        ["dataset.root=../../../a,../../../b"],
        ["dataset.root=/a,/b"],
        ["+loss.tau=0.1,.."],
        ["augment@second_view=crop_flip,none"],
        [f"dataset.root={'x' * 300},{'y' * 300}"],
        ["seed=1,2"],
        ["dataset.root='a b','$HOME'"],
    ],
    ids=lambda words: words[0][:30],
)
def test_every_job_has_a_short_safe_directory_inside_the_sweep(
    children: Children, tmp_path: Path, words: list[str]
) -> None:
    overrides = parse_overrides(words)
    varied = [override.get_key_element() for override in overrides]
    names = sweep.assign_directories(tmp_path, sweep.expand(overrides), varied)
    assert len(names) == len(set(names)) == 2
    for number, name in enumerate(names):
        assert (tmp_path / name).resolve().parent == tmp_path.resolve()
        assert re.fullmatch(r"\d+(_[A-Za-z0-9._-]+)?", name), name
        assert name.split("_")[0] == str(number)
        assert len(name) < 80
        assert not name.startswith(".")
        assert ".." not in name


def test_a_value_that_looks_like_a_way_out_stays_inside_the_sweep(
    children: Children, tcl_train: Callable[..., Any], here: Path
) -> None:
    assert tcl_train("dataset.root=../../../a,../../../b", "dataset=cifar10").status == 0
    for command in children.commands:
        assert understood(command).directory.resolve().parent == (here / "sweep").resolve()
    assert tcl_train("dataset.root=../../../c,../../../d", "dataset=cifar10").status == 0
    assert len(children.commands) == 4


def test_the_name_says_what_the_sweep_varies(tmp_path: Path) -> None:
    jobs = [["loss=ce", "seed=7", "augment@second_view=none"], ["loss=tcl", "seed=7"]]
    names = sweep.assign_directories(tmp_path, jobs, ["loss", "augment@second_view"])
    assert names == ["0_loss-ce_augment-second_view-none", "1_loss-tcl"]


def test_choices_may_be_given_by_a_pattern(
    children: Children, tcl_train: Callable[..., Any]
) -> None:
    assert tcl_train("loss=glob(supcon*)").status == 0
    assert column("loss") == ["supcon", "supcon_in"]


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("loss=glob(nothing*)", "matches no choice of loss"),
        ("tau=interval(0,1)", "give a list or range"),
        ("hydra.run.dir=a,b", "a sweep cannot vary Hydra's own settings"),
        ("hydra/sweeper=basic", "expands sweeps itself"),
        ("hydra.sweep.subdir=x", "names the directories of its jobs"),
        ("hydra.sweeper.n_trials=0", "Could not override"),
    ],
)
def test_what_a_sweep_cannot_do_is_refused_in_one_line(
    children: Children, refused: Callable[..., str], word: str, said: str
) -> None:
    line = refused("-m", "seed=1,2", word, "hydra.sweep.dir=sweep")
    assert word in line
    assert said in line
    assert not children.commands


# ------------------------------------------------------------------ values of an experiment


@pytest.fixture
def write_experiment(tmp_path: Path) -> Callable[..., str]:
    """`write_experiment("mine", k1="0,5")`: an experiment that goes over these values; the word
    that says where it is."""

    def write(name: str, **params: Any) -> str:
        path = tmp_path / "configs" / "experiment" / f"{name}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        config = {"epochs": 3, "hydra": {"sweeper": {"params": params}}}
        path.write_text("# @package _global_\n" + json.dumps(config))
        return f"hydra.searchpath=[{tmp_path / 'configs'}]"

    return write


def of_jobs(children: Children) -> list[list[str]]:
    """What each job was started with, but for where its configs and its directory are."""
    return [
        [word for word in command[3:] if not word.startswith(("hydra.", "resume="))]
        for command in children.commands
    ]


def test_an_experiment_brings_the_values_that_a_sweep_goes_over(
    children: Children, tcl_train: Callable[..., Any], write_experiment: Callable[..., str]
) -> None:
    place = write_experiment("of/mine", tau="range(0.1,0.3,0.1)", lr=0.2)
    outcome = tcl_train("experiment=of/mine", "seed=7", place)
    assert (outcome.status, outcome.err) == (0, "")
    fixed = ["experiment=of/mine", "seed=7"]
    assert of_jobs(children) == [[*fixed, f"tau={tau}", "lr=0.2"] for tau in ("0.1", "0.2")]
    assert (column("tau"), column("lr")) == (["0.1", "0.2"], ["0.2"] * 2)
    assert [Path(place).name for place in column("dir")] == ["0_tau-0.1", "1_tau-0.2"]
    again = tcl_train("experiment=of/mine", "seed=7", place)
    assert again.out.count("already finished, skipped") == 2


def test_what_is_typed_replaces_the_values_of_an_experiment(
    children: Children, tcl_train: Callable[..., Any], write_experiment: Callable[..., str]
) -> None:
    place = write_experiment("mine", k1="0,5", k2="1,2")
    assert tcl_train("experiment=mine", "k1=7", "seed=1,2", place).status == 0
    assert of_jobs(children) == [
        ["experiment=mine", "k1=7", f"seed={seed}", f"k2={k2}"] for seed in "12" for k2 in "12"
    ]


def test_each_of_several_experiments_brings_its_own_values(
    children: Children, tcl_train: Callable[..., Any], write_experiment: Callable[..., str]
) -> None:
    write_experiment("one", k1="0,5")
    write_experiment("two", tau="0.1,0.2", seed="3")
    place = write_experiment("three")
    outcome = tcl_train("experiment=one,three,two", place, "lr=1")
    assert outcome.status == 0, outcome.err
    by_experiment = {
        "one": [["k1=0"], ["k1=5"]],
        "three": [[]],
        "two": [["tau=0.1", "seed=3"], ["tau=0.2", "seed=3"]],
    }
    expected = [[f"experiment={e}", "lr=1", *m] for e, more in by_experiment.items() for m in more]
    assert of_jobs(children) == expected
    assert Path(table()[0]["dir"]).name == "0_experiment-one_k1-0"


@pytest.mark.parametrize(
    ("params", "words", "said"),
    [
        ({"tau": "interval(0,1)"}, [], "tau=interval(0,1): an interval has no end of values"),
        ({"hydra.job.num": "1,2"}, [], "a sweep cannot vary Hydra's own settings"),
        ({"k1": "0,5"}, ["loss=supcon"], "k1=0: the chosen loss has no k1"),
        ({"loss": "glob(x*)"}, [], "loss=glob(x*): matches no choice of loss"),
        ({"kk": "0,5"}, [], "kk: no such key"),
        ({"k1": "{"}, [], "k1={: cannot be read"),
    ],
)
def test_values_of_an_experiment_that_no_sweep_can_go_over_are_refused(
    children: Children,
    refused: Callable[..., str],
    write_experiment: Callable[..., str],
    params: dict[str, str],
    words: list[str],
    said: str,
) -> None:
    place = write_experiment("mine", **params)
    line = refused("-m", "experiment=mine", *words, place, "hydra.sweep.dir=sweep")
    assert said in line
    assert not children.commands


def test_without_m_an_experiment_of_several_runs_says_so(
    refused: Callable[..., str], write_experiment: Callable[..., str]
) -> None:
    place = write_experiment("mine", k1="0,5", tau="0.1,0.2")
    line = refused("experiment=mine", "tau=0.1", place)
    assert line == (
        "experiment=mine goes over k1=0,5; add the flag -m, which trains once for each, or give "
        "one value"
    )


def test_a_pattern_finds_experiments_in_folders() -> None:
    with hydra_initialized() as loader:
        find = sweep._AllChoices(loader, [])
        jobs = sweep.expand(parse_overrides(["experiment=glob(paper/k*)"], config_loader=find))
    assert jobs == [["experiment=paper/k1"], ["experiment=paper/k2"]]


@pytest.mark.parametrize("words", [["experiment=paper/k9"], ["-m", "experiment=paper/k9,cpu20"]])
def test_an_experiment_that_is_not_there_is_answered_with_those_that_are(
    refused: Callable[..., str], write_experiment: Callable[..., str], words: list[str]
) -> None:
    line = refused(*words, write_experiment("of/mine"))
    assert "no such experiment, did you mean paper/k2?" in line
    assert ", paper/k1, " in line
    assert line.endswith(", of/mine")


# ------------------------------------------------------------------ failing, and once more


def test_a_job_that_fails_is_seen_stops_no_other_and_is_run_again_with_the_sweep(
    children: Children, tcl_train: Callable[..., Any]
) -> None:
    children.statuses = {"seed=1": 1}
    outcome = tcl_train("seed=1,2")
    assert outcome.status == 1
    assert len(children.commands) == 2
    assert column("status") == ["failed", "finished"]
    assert column("top1") == ["", "90.0"]

    finished = RunDir(column("dir")[1]).result
    before = finished.stat().st_mtime_ns
    children.commands, children.statuses = [], {}
    outcome = tcl_train("seed=1,2")
    assert outcome.status == 0
    assert outcome.out.count("already finished, skipped") == 1
    (again,) = map(understood, children.commands)
    assert ("seed=1" in again.words, again.how) == (True, "resume")
    assert column("status") == ["finished"] * 2
    assert column("seed") == ["1", "2"]
    assert finished.stat().st_mtime_ns == before


def test_a_job_that_was_refused_left_nothing_to_go_on_with_and_starts_anew(
    children: Children, tmp_path: Path
) -> None:
    children.statuses = {"seed=1": 2}
    assert sweep.run_job(["seed=1"], tmp_path / "0", tmp_path) == 2
    assert "bad request" in (tmp_path / "sweep.csv").read_text()
    children.statuses = {}
    assert sweep.run_job(["seed=1"], tmp_path / "0", tmp_path) == 0
    assert [understood(command).how for command in children.commands] == ["hydra.run.dir"] * 2


def test_a_sweep_in_another_order_and_with_more_values_trains_only_what_is_new(
    children: Children, tcl_train: Callable[..., Any]
) -> None:
    assert tcl_train("loss=supcon,tcl", "seed=2").status == 0
    assert tcl_train("seed=1,2", "loss=ce,tcl,supcon").status == 0
    jobs = [understood(command) for command in children.commands]
    trained = [tuple(sorted(job.words)) for job in jobs]
    assert len(trained) == len(set(trained)) == 6
    assert len({job.directory for job in jobs}) == 6
    assert column("status") == ["finished"] * 6
    assert [path.name.split("_")[0] for path in sorted(Path("sweep").glob("*_*"))] == list("012345")


def test_a_value_is_the_same_however_it_is_written(
    children: Children, tcl_train: Callable[..., Any]
) -> None:
    """A sweep writes the numbers that it goes over in a way of its own."""
    assert tcl_train("seed=1,2", "lr=1e-2", "augment.crop.scale=[0.2, 1]").status == 0
    assert tcl_train("seed=1,2", "lr=1e-2,5e-3", "augment.crop.scale=[0.2,1]").status == 0
    assert len(children.commands) == 4
    assert column("status") == ["finished"] * 4


def test_a_job_that_is_killed_has_the_status_that_a_shell_gives_it(children: Children) -> None:
    children.statuses = {"x": -9}
    assert sweep._run(["x"]) == 137


# ------------------------------------------------------------------ stopping


@pytest.mark.parametrize("status", [130, 143])
def test_an_interrupted_job_ends_the_sweep_in_good_order(
    children: Children, tcl_train: Callable[..., Any], one_line: Callable[[str], str], status: int
) -> None:
    children.statuses = {"seed=1": status}
    outcome = tcl_train("seed=1,2")
    assert len(children.commands) == 1  # the other is not started
    assert column("status") == ["interrupted"]
    assert outcome.status == status
    assert one_line(outcome.err).endswith("run the same sweep again with hydra.sweep.dir=sweep")


@pytest.mark.parametrize("signum", STOPPING)
def test_a_signal_is_passed_on_and_the_job_waited_for(children: Children, signum: int) -> None:
    children.statuses = {"x": 2}
    children.while_it_runs = lambda: signal.raise_signal(signum)
    assert sweep._run(["x"]) == 2
    assert children.signals == [signum]


# ------------------------------------------------------------------ with real processes


@pytest.mark.slow
def test_a_sweep_trains_once_for_each_combination(
    tcl_train: Callable[..., Any], tiny_words: Callable[..., list[str]], contents: Any
) -> None:
    words = [word for word in tiny_words() if not word.startswith("probe")]
    outcome = tcl_train(*words, "loss=ce,tcl", "seed=1,2")
    assert (outcome.status, outcome.err) == (0, "")
    assert column("status") == ["finished"] * 4
    results = [RunDir(row["dir"]).read_result() for row in table()]
    assert [(r["loss"]["name"], r["seed"]) for r in results] == [
        ("ce", 1),
        ("ce", 2),
        ("tcl", 1),
        ("tcl", 2),
    ]
    assert [float(row["top1"]) for row in table()] == [r["top1"] for r in results]
    before = contents(Path("sweep"))
    assert tcl_train(*words, "loss=ce,tcl", "seed=1,2").status == 0
    after = contents(Path("sweep"))
    changed = {name for name in after if after[name] != before.get(name)}
    assert changed <= {"sweep.csv", "multirun.yaml"}


@pytest.mark.parametrize(
    ("launcher", "said"),
    [
        ("ray", "not installed; pip install hydra-ray-launcher"),
        ("submitit_slrm", "no such launcher; those that are installed: basic, "),
        ("slurm", "no such launcher; those that are installed: basic, "),
    ],
)
def test_a_launcher_that_is_not_there_is_answered_with_what_to_install(
    launcher: str, said: str, refused: Callable[..., str]
) -> None:
    line = refused("-m", "seed=1,2", f"hydra/launcher={launcher}")
    assert line.startswith(f"hydra/launcher={launcher}: ")
    assert said in line


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["joblib", "submitit_local"])
def test_another_launcher_starts_the_jobs(
    tcl_train: Callable[..., Any], tiny_words: Callable[..., list[str]], launcher: str
) -> None:
    """At the same time, in processes of its own; submitit_local is submitit_slurm without Slurm."""
    words = [*tiny_words("seed=1,2"), f"hydra/launcher={launcher}"]
    assert tcl_train(*words).status == 0
    assert column("status") == ["finished"] * 2
    assert column("seed") == ["1", "2"]
    assert tcl_train(*words).status == 0


@pytest.mark.slow
def test_a_job_that_cannot_run_is_seen_and_the_next_one_finishes(
    tcl_train: Callable[..., Any],
    tiny_words: Callable[..., list[str]],
) -> None:
    assert tcl_train(*tiny_words(), "tau=0,0.1").status == 2
    assert column("status") == ["bad request", "finished"]


def printed_by(*words: str) -> tuple[int, list[str]]:
    """`tcl-train WORDS` in a new process: its exit status, and the lines of both its streams in the
    order in which they were written."""
    done = subprocess.run(
        [sys.executable, "-m", "tcl_train", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=240,
    )
    assert "Traceback" not in done.stdout, done.stdout
    return done.returncode, done.stdout.splitlines()


def same_weights(one: RunDir, other: RunDir) -> bool:
    """Bit for bit."""
    a, b = (checkpoint.load(run.last_checkpoint)["method"] for run in (one, other))
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def numbers(run_dir: RunDir) -> dict[str, Any]:
    """Those of the result that do not depend on the clock."""
    names = ("top1", "top5", "knn_top1", "image_views_seen", "probe")
    return {name: run_dir.read_result()[name] for name in names}


@pytest.mark.slow
def test_one_of_six_jobs_fails_while_it_trains(
    here: Path, tiny_words: Callable[..., list[str]], contents: Any
) -> None:
    rates = ["0.05", "0.1", "0.2", "1e+30", "0.3", "0.4"]
    fixed = tiny_words("scheduler=constant", "epochs=2")
    words = ["-m", *fixed, f"lr={','.join(rates)}", "hydra.sweep.dir=sweep"]
    status, lines = printed_by(*words)
    assert status == 1

    # Said at once: after the failing job's line, before the next one starts.
    titles = [line for line in lines if line.startswith("--- ") and "the other jobs" not in line]
    assert [line.split("lr=")[1].split()[0] for line in titles] == rates
    (said,) = (line for line in lines if line.startswith("tcl-train: "))
    assert "try a lower lr" in said
    (noted,) = (line for line in lines if line.endswith("failed; the other jobs still run"))
    places = [lines.index(line) for line in (titles[3], said, noted, titles[4])]
    assert places == sorted(places)

    assert column("lr") == rates
    assert column("status") == [*["finished"] * 3, "failed", *["finished"] * 2]
    assert [bool(top1) for top1 in column("top1")] == [rate != "1e+30" for rate in rates]
    jobs = [RunDir(place) for place in column("dir")]
    assert [job.finished for job in jobs] == [rate != "1e+30" for rate in rates]
    assert "Traceback" in jobs[3].log.read_text()

    # A job shares nothing with those before it.
    alone = RunDir("alone")
    assert printed_by(*fixed, "lr=0.2", f"hydra.run.dir={alone}")[0] == 0
    assert same_weights(jobs[2], alone)
    assert numbers(jobs[2]) == numbers(alone)

    before = [contents(job.path) for job in jobs]
    status, lines = printed_by(*words)
    assert status == 1
    assert len([line for line in lines if line.endswith("already finished, skipped")]) == 5
    assert len([line for line in lines if line.startswith("tcl-train: ")]) == 1
    after = [contents(job.path) for job in jobs]
    assert [a == b for a, b in zip(after, before, strict=True)] == [r != "1e+30" for r in rates]
    assert column("status") == [*["finished"] * 3, "failed", *["finished"] * 2]


@pytest.mark.slow
def test_a_failed_job_finishes_with_the_sweep_when_its_cause_is_gone(
    here: Path,
    tiny_words: Callable[..., list[str]],
    write_images: Callable[..., Path],
    contents: Any,
) -> None:
    """The images of the second job vanish while it trains, and are put back."""
    counts = {"train/red": 20, "train/blue": 20, "test/red": 4, "test/blue": 4}
    for name in ("a", "b", "c"):
        write_images(here / name, counts)
    fixed = tiny_words(
        *("dataset=image_folder", "data.memory_limit_gb=0", "data.workers=1"),
        *("batch_size=8", "epochs=12"),
    )
    words = ["-m", *fixed, "dataset.root=a,b,c", "hydra.sweep.dir=sweep"]
    title = ""
    with subprocess.Popen(
        [sys.executable, "-m", "tcl_train", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            title = line if line.startswith("--- ") else title
            if "dataset.root=b" in title and line.startswith("epoch 2/"):
                (here / "b" / "train").rename(here / "away")
    assert process.returncode == 1
    assert column("status") == ["finished", "failed", "finished"]

    (here / "away").rename(here / "b" / "train")
    jobs = [RunDir(place) for place in column("dir")]
    before = [contents(job.path) for job in jobs]
    status, lines = printed_by(*words)
    assert status == 0
    assert column("status") == ["finished"] * 3
    assert len([line for line in lines if "resuming at step" in line]) == 1
    after = [contents(job.path) for job in jobs]
    assert [a == b for a, b in zip(after, before, strict=True)] == [True, False, True]
    alone = RunDir("alone")
    assert printed_by(*fixed, "dataset.root=b", f"hydra.run.dir={alone}")[0] == 0
    assert same_weights(jobs[1], alone)
    assert numbers(jobs[1]) == numbers(alone)


@pytest.mark.slow
def test_a_sweep_that_is_interrupted_stops_and_goes_on_when_it_is_run_again(
    start: Callable[..., subprocess.Popen[str]],
    tiny_words: Callable[..., list[str]],
    tmp_path: Path,
) -> None:
    words = [*tiny_words("epochs=8"), "seed=1,2", f"hydra.sweep.dir={tmp_path / 'sweep'}"]
    process = start("tcl-train", "-m", *words)
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("epoch 1/8"):
            process.send_signal(signal.SIGINT)  # to the parent alone, as `kill` does
            break
    out, err = process.communicate(timeout=120)
    assert process.returncode == 128 + signal.SIGINT
    assert "Traceback" not in err
    assert f"hydra.sweep.dir={tmp_path / 'sweep'}" in err.splitlines()[-1]
    assert "seed=2" not in out
    (first,) = (path for path in (tmp_path / "sweep").iterdir() if path.is_dir())
    assert RunDir(first).started
    assert not RunDir(first).finished
    again = start("tcl-train", "-m", *words)
    out, err = again.communicate(timeout=240)
    assert (again.returncode, err) == (0, "")
    assert "resuming at step" in out
    assert RunDir(first).finished
