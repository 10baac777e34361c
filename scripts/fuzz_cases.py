"""Random command lines for scripts/fuzz_commands.py: each kind is a strategy of hypothesis."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from fuzz_inputs import HOW, LAYOUTS, Damage, Images, Stored
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from omegaconf import DictConfig, OmegaConf

from tcl_train.cli.choices import choices, config_dir, groups

Words = list[str]
Draw = Callable[[Any], Any]


@dataclass(frozen=True)
class Case:
    """A command line and what it finds in its folder."""

    kind: str
    words: tuple[str, ...]
    program: str = "tcl-train"
    images: Images | None = None
    stored: Stored | None = None


# ------------------------------------------------------------------ words

TINY = (
    *("epochs=1", "device=cpu", "precision=fp32", "random_encoder_baseline=false"),
    *("data.workers=0", "log_every=1"),
)
FOLDER = ("dataset=image_folder", "dataset.root=images", "batch_size=12")
DIGITS = ("dataset=digits", "batch_size=256")
THIN = ("encoder=resnet8", "encoder.width=4")
QUICK_PROBE = {"lbfgs": "probe.l2=[1e-3]", "sgd": "probe.epochs=1"}
RUN_DIR = "hydra.run.dir=run"

VALUES = (
    *("", "null", "true", "false", "nan", "inf", "-inf", "-1", "-0", "0", "1", "2", "0.5", "1.0"),
    *("1e-300", "1e300", "1e999", str(10**9), str(10**19), "9" * 400, "-" + "9" * 400),
    *("[]", "[1]", "[1,2,3]", "[0.5,0.5,0.5]", "[[0,8],[1,4]]", "[null]", "[[]]", "[a,b]"),
    *("[nan,nan,nan]", "[-1,2]", "[0,0]", "{}", "{a:1}", "{0:4,1:8}", "{0:nan}", "{a:{b:c}}"),
    *("abc", "'a b'", '"q"', "é", "图像", "🙂", "a b", "[", "]", "{", "}", "'", '"', "\\", ","),
    *("${seed}", "${nothing}", "${", "${oc.env:HOME}", "${oc.env:NOT_SET}", "${.seed}", "${tau}"),
    *("${hydra:runtime.cwd}", "${share_of_run:2}", "${seed", "${a:b:c}", "\\${seed}", "$HOME"),
    *("???", "0x10", "1_000", "010", "+1", "1.", ".5", "1e", "TRUE", "None", "~", "*", "a=b"),
    *("%s", "%", "#", "\n", "\t", "a\nb", "x" * 300, "x" * 5000, "[" * 200, "auto", "all", "none"),
    *("glob(*)", "choice(1,2)", "range(3)", "interval(0,1)", "shuffle(1,2)", "sort(3,2)"),
    *("tag(a,1)", "int(2.5)", "str(1)", "float(x)", "bool(2)", "extend_list(1)", "1,2", "a:b"),
    *(os.fsdecode(b"\xff\xfe"), "\u2028", "\x1b[31m", "../x", "-", "--help", "images", "stored"),
)
# Large values of these take long as they should, and say nothing.
LONG = ("epochs", "num_ops", "newton_schulz_steps", "depth", "n_trials", "k1_warmup_epochs")
# Those that are only somewhat large, of these.
SIZES = ("views", "width", "size", "dim", "copies", "kernel", "padding", "batch_size")
UNUSED = {"compile": ("true",)}  # the compiler takes half a minute


def bounded(key: str, value: str) -> bool:
    """Whether a run with this value is a short one, or none."""
    name = key.split(".")[-1]
    try:
        size = max(int(part) for part in value.strip("[]{}").replace(":", ",").split(","))
    except ValueError:
        return value not in UNUSED.get(name, ())
    if any(name.endswith(long) for long in LONG):
        return size <= 3
    return not any(word in name for word in SIZES) or size <= 64 or size >= 10**9


ODD_LETTERS = "abz01=,.:[]{}()'\"\\$~+@#%&*!?<>|;/- \t\n\x01\x1béß图🙂\u202e\u2028"
texts = st.text(st.sampled_from(ODD_LETTERS), max_size=12)
any_bytes = st.binary(max_size=6).filter(lambda b: b"\0" not in b).map(os.fsdecode)
NUMBERS = [value for value in VALUES if value.lstrip("-")[:1].isdigit() or "inf" in value]
values = st.one_of(
    *[st.sampled_from(VALUES)] * 4,
    *[st.sampled_from(NUMBERS)] * 3,
    texts,
    any_bytes,
    st.floats(width=32).map(repr),
    st.integers(-3, 70).map(str),
)


def keys_of(group: str, choice: str) -> list[str]:
    """The keys that a choice brings, in dotted form."""
    path = config_dir() / group / f"{choice}.yaml"
    at_root = path.read_text(encoding="utf-8").startswith("# @package _global_")
    return _dotted(OmegaConf.load(path), "" if at_root else f"{group}.")


def _dotted(config: Any, prefix: str) -> list[str]:
    found = []
    for name in config:
        if name == "defaults":
            continue
        found.append(f"{prefix}{name}")
        node = config._get_node(name)
        if isinstance(node, DictConfig) and not node._is_interpolation():
            found += _dotted(node, f"{prefix}{name}.")
    return found


CHOSEN = [group for group in groups() if choices(group) and group not in ("dataset", "experiment")]
ROOT_KEYS = _dotted(OmegaConf.load(config_dir() / "train.yaml"), "")
USUAL = {  # what TINY and its data set choose
    "dataset": "image_folder",
    "loss": "tcl",
    "augment": "simaug",
    "encoder/family": "thin",
    "method": "contrastive",
    "projector": "mlp",
    "optimizer": "sgd",
    "scheduler": "cosine",
    "probe": "lbfgs",
}
KEYS = list(
    dict.fromkeys(
        [*ROOT_KEYS, *(key for g in groups() for c in choices(g) for key in keys_of(g, c))]
    )
)


def usable_keys(words: Sequence[str]) -> list[str]:
    """The keys of a command line that chooses with these words."""
    chosen = USUAL | dict(word.split("=") for word in words)
    keys = [key for group, choice in chosen.items() for key in keys_of(group, choice)]
    return [*ROOT_KEYS, *(key.replace("encoder/family", "encoder") for key in keys)]


SMALL_ENCODERS = ("resnet8", "resnet20", "resnet32", "resnet56")
PLAUSIBLE = (
    *("views=1", "views=3", "supervised=false", "supervised=true", "validation=0.2", "seed=7"),
    *("chunk_size=5", "view_size=6", "view_size=[[0,4],[1,8]]", "mirror_features=true", "epochs=2"),
    *("data.sampler=classes", "data.sampler=balanced", "data.images_per_class=3", "tau=0.5"),
    *("data.memory_limit_gb=0", "data.on_damaged=skip", "data.workers=2", "on_collapse=stop"),
    *("on_nonfinite=skip", "precision=bf16", "precision=auto", "lr=1e-3", "lr=1e20", "k1=100"),
    *("checkpoint.every=2", "checkpoint.keep=all", "checkpoint.every_minutes=1e-5", "k2=0"),
    *("random_encoder_baseline=true", "deterministic=true", "log_every=3", "dataset.image_size=5"),
    *("dataset.mean=[0.5,0.5,0.5]", "dataset.std=[0.2,0.2,0.2]", "dataset.test_fraction=0.3"),
    *("augment@second_view=byol", "encoder.stem=patch", "encoder.norm=group", "batch_size=7"),
    *("projector.out_dim=3", "optimizer.momentum=0", "scheduler.warmup_epochs=1", "profile=true"),
    *("loss.label_smoothing=0.1", "k1_warmup_epochs=1", "alpha=0.9", "margin=0.1", "lam=0.5"),
    *("probe.held_out=0.3", "probe.batch_size=4", "data.cache_dir=cached", "data.cache_limit_gb=0"),
)


@st.composite
def choices_of_groups(draw: Draw, most: int = 5) -> Words:
    """Some groups with one of their choices."""
    words = []
    for group in draw(st.lists(st.sampled_from(CHOSEN), max_size=most, unique=True)):
        names = SMALL_ENCODERS if group == "encoder" else choices(group)
        words.append(f"{group}={draw(st.sampled_from(names))}")
    return words


@st.composite
def settings_with_values(draw: Draw, chosen: Words, least: int = 1, most: int = 3) -> Words:
    """Keys that are there, with any value."""
    words = []
    for _ in range(draw(st.integers(least, most))):
        key = draw(st.sampled_from(usable_keys(chosen)))
        words.append(f"{key}={draw(values.filter(partial(bounded, key)))}")
    return words


def tiny(words: Sequence[str], *, folder: bool = True) -> Words:
    """A short run with these words. A word comes before those that say otherwise."""
    given = {word.split("=")[0] for word in words}
    base = [*(FOLDER if folder else DIGITS), *THIN, *TINY, RUN_DIR]
    probe = next((w.split("=")[1] for w in words if w.startswith("probe=")), "lbfgs")
    base.append(QUICK_PROBE.get(probe, "seed=1"))
    return [*(word for word in base if word.split("=")[0] not in given), *words]


plausible = st.lists(st.sampled_from(PLAUSIBLE), max_size=4, unique=True)


# ------------------------------------------------------------------ kinds


@st.composite
def of_choices(draw: Draw) -> Case:
    words = [*draw(choices_of_groups()), *draw(plausible)]
    folder = draw(st.integers(0, 3)) > 0
    return Case("choices", tuple(tiny(words, folder=folder)), images=Images() if folder else None)


@st.composite
def of_values(draw: Draw) -> Case:
    words = draw(choices_of_groups(2))
    words += draw(settings_with_values(words))
    return Case("values", tuple(tiny(words)), images=Images())


@st.composite
def odd_word(draw: Draw) -> str:
    """A word whose key is wrong, or set in an unusual way."""
    key, other = draw(st.sampled_from(KEYS)), draw(st.sampled_from(KEYS))
    group = draw(st.sampled_from(CHOSEN))
    choice = draw(st.sampled_from([*choices(group), "null", "none", "x"]))
    value = draw(values.filter(lambda value: bounded(key, value) and bounded(other, value)))
    at = draw(st.integers(0, len(key)))
    return draw(
        st.sampled_from(
            [
                f"{key[:at]}{key[at + 1 :]}={value}",
                f"{key[:at]}x{key[at:]}={value}",
                f"{key[:at]}.{key[at:]}={value}",
                f"{key.upper()}={value}",
                f"{group}.{other}={value}",
                f"{key}.{other}={value}",
                f"{other.split('.')[-1]}={value}",
                f"~{key}",
                f"~{key}={value}",
                f"+{key}={value}",
                f"++{key}={value}",
                f"+{group}.new={value}",
                f"+new={value}",
                f"++new.key={value}",
                f"~{group}",
                f"~{group}={choice}",
                f"+{group}={choice}",
                f"{group}@{other}={choice}",
                f"{group}@_global_={choice}",
                f"{group}={value}",
                f"{group}/{choice}={value}",
                f"{group}=[{choice},{choice}]",
                f"{key}",
                f"{key}@={value}",
                f"{key}[0]={value}",
                f"hydra.{other}={value}",
                f"hydra/{group}={choice}",
                f"hydra.searchpath={value}",
                f"hydra.run.dir={value}",
                f"hydra/launcher={choice}",
                f"hydra.job.num={value}",
                f"resume={value}",
                f"resume_extend={value}",
                f"trust={value}",
                f"experiment={value}",
                f"recipe={value}",
                f"encoder/family={value}",
            ]
        )
    )


@st.composite
def of_keys(draw: Draw) -> Case:
    words = draw(st.lists(odd_word(), min_size=1, max_size=2))
    words += draw(settings_with_values([], 0, 1))
    if draw(st.integers(0, 3)) == 0:
        words += [words[0]]
    return Case("keys", (*tiny([]), *words), images=Images())


@st.composite
def of_text(draw: Draw) -> Case:
    word = st.one_of(
        texts, any_bytes, st.sampled_from(VALUES), st.builds("{}={}".format, texts, texts)
    )
    words = draw(st.lists(word, min_size=1, max_size=3))
    base = tiny([])
    at = draw(st.integers(0, len(base)))
    return Case("text", (*base[:at], *words, *base[at:]), images=Images())


FLAGS = (
    *("--cfg", "-c", "--cfg=job", "--cfg=all", "--cfg=hydra", "job", "all", "hydra", "--resolve"),
    *("-p", "--package", "--package=loss", "-p=", "augment.crop", "loss", "hydra.sweep", "tau"),
    *("-h", "--help", "--version", "-sc", "-sc=", "install=bash", "install=fish", "query=bash"),
    *("-m", "--multirun", "--", "-", "--info", "-cjob", "-mh", "--c", "uninstall=zsh"),
)


@st.composite
def of_flags(draw: Draw) -> Case:
    flags = draw(st.lists(st.sampled_from(FLAGS), min_size=1, max_size=4))
    words = draw(choices_of_groups(2))
    words += draw(settings_with_values(words, 0, 1))
    words = [*flags, *tiny(words)]
    if draw(st.booleans()):
        words = list(draw(st.permutations(words)))
    return Case("flags", tuple(words), images=Images())


def damages(how: Sequence[str]) -> Any:
    place = st.floats(0, 1, exclude_max=True)
    value = st.sampled_from([*VALUES, ""])
    return st.builds(Damage, file=place, how=st.sampled_from(how), place=place, value=value)


def is_name(text: str) -> bool:
    return "/" not in text and text not in ("", ".", "..") and len(os.fsencode(text)) < 200


class_names = st.one_of(
    st.just(""),
    st.sampled_from([value for value in VALUES if is_name(value)]),
    texts.filter(is_name),
    any_bytes.filter(is_name),
)
IMAGE_DAMAGES = [how for how in HOW if how != "line"]
MODES = {"png": ("RGB", "L", "1", "P", "RGBA", "I;16", "LA"), "jpg": ("RGB", "L", "CMYK")}
MODES |= {"gif": ("P",), "bmp": ("RGB", "1"), "webp": ("RGB", "RGBA"), "tiff": ("RGB", "F")}
OF_IMAGES = (
    *("supervised=false", "data.on_damaged=skip", "data.memory_limit_gb=0", "data.workers=2"),
    *("dataset.image_size=6", "dataset.test_fraction=0.5", "validation=0.3", "loss=ntxent"),
    *("batch_size=4", "data.sampler=classes", "loss=ce", "dataset.root=images/train"),
    *("dataset.root=images/../images/", "dataset=digits"),
    *("dataset=cifar10 probe=lbfgs", "dataset=mnist probe=lbfgs", "dataset.root=${oc.env:HOME}"),
)


@st.composite
def image_folders(draw: Draw) -> Images:
    suffix = draw(st.sampled_from(["png", "png", "png", *MODES]))
    mode = draw(st.sampled_from(MODES[suffix]))
    return Images(
        layout=draw(st.sampled_from(["split", "split", "classes", *LAYOUTS])),
        side=draw(st.sampled_from([8, 8, 8, 1, 2, 13])),
        mode="RGB" if mode == "I;16" else mode,
        suffix=suffix,
        renamed_class=draw(class_names),
        damages=tuple(draw(st.lists(damages(IMAGE_DAMAGES), max_size=3))),
    )


@st.composite
def of_images(draw: Draw) -> Case:
    more = draw(st.lists(st.sampled_from(OF_IMAGES), max_size=3, unique=True))
    words = [word for few in more for word in few.split()]
    return Case("images", tuple(tiny(words)), images=draw(image_folders()))


RUNS = ("finished", "unfinished", "finished", "unfinished", "only config", "foreign", "empty")
OF_RUN = ("config.yaml", "last.pt", "*.pt", "result.json", "metrics.jsonl", "train.log", "*.*")


@st.composite
def stored_runs(draw: Draw) -> Stored:
    run = draw(st.sampled_from(RUNS))
    found = []
    for _ in range(draw(st.sampled_from([0, 1, 1, 1, 2]))):
        pattern = draw(st.sampled_from([*OF_RUN, "config.yaml", "last.pt"]))
        how = list(HOW) if pattern in ("config.yaml", "result.json") else IMAGE_DAMAGES
        if pattern == "config.yaml":
            how += ["line"] * 6
        found.append((pattern, draw(damages(how))))
    return Stored(run, tuple(found))


WITH_RESUME = (
    *("device=cpu", "epochs=2", "epochs=3", "resume_extend=true", "lr=5", "seed=1", "loss=supcon"),
    *("hydra.run.dir=stored", "hydra.run.dir=run", "log_every=2", "data.workers=2", "trust=os"),
    *("checkpoint.keep=all", "dataset.root=images", "dataset.root=nowhere", "resume=nowhere"),
    *("data.sampler=classes", "encoder=resnet20", "profile=true", "data.on_damaged=skip"),
)


@st.composite
def of_resume(draw: Draw) -> Case:
    words = ["resume=stored", *draw(st.lists(st.sampled_from(WITH_RESUME), max_size=2))]
    words += draw(settings_with_values([], 0, 1)) if draw(st.integers(0, 2)) == 0 else []
    if draw(st.integers(0, 3)) == 0:
        words = ["resume=stored", "resume_extend=true", "epochs=3"]
    if draw(st.integers(0, 9)) == 0:
        words = [*tiny([]), "hydra.run.dir=stored"]
    images = Images(damages=tuple(draw(st.lists(damages(IMAGE_DAMAGES), max_size=1))))
    images = images if draw(st.integers(0, 4)) == 0 else Images()
    return Case("resume", tuple(words), images=images, stored=draw(stored_runs()))


WITH_EVAL = (
    *("dataset=digits", "probe=lbfgs", "probe.l2=[1e-2]", "device=cpu", "seed=3", "batch_size=5"),
    *("dataset=image_folder dataset.root=images", "dataset.root=nowhere", "precision=bf16"),
    *("trust=os", "lr=1", "run=stored", "--help", "data.memory_limit_gb=0", "probe.held_out=0.5"),
    *("probe=sgd probe.epochs=1", "dataset.image_size=5", "encoder=resnet20", "loss=ce", "epocs=1"),
)


@st.composite
def of_eval(draw: Draw) -> Case:
    words = ["run=stored"]
    for more in draw(st.lists(st.sampled_from(WITH_EVAL), max_size=2)):
        words += more.split()
    if draw(st.integers(0, 2)) == 0:
        words += draw(settings_with_values([], 0, 1))
    if draw(st.integers(0, 9)) == 0:
        words = [f"run={draw(values)}", *words[1:]]
    if draw(st.integers(0, 9)) == 0:
        words.append(draw(st.one_of(odd_word(), texts)))
    stored, images = draw(stored_runs()), draw(st.one_of(st.just(Images()), image_folders()))
    return Case("eval", tuple(words), "tcl-eval", images=images, stored=stored)


SWEPT = (
    *("seed=1,2", "loss=tcl,supcon", "epochs=0,1", "lr=0.1,x", "batch_size=8,5000", "tau=0,1"),
    *("seed=range(1,3)", "loss=glob(s*)", "loss=glob(q*)", "lr=interval(0,1)", "seed=choice(1,2)"),
    *("hydra/launcher=basic", "hydra/launcher=nothing", "hydra.sweep.subdir=x", "hydra/sweeper=x"),
    *("augment=none,x", "encoder.width=4,0", "views=1,[2]", "hydra.run.dir=a,b", "seed='1,2',3"),
    *("hydra/sweeper=optuna hydra.sweeper.n_trials=2 validation=0.2 lr=interval(0.01,0.1)",),
    *("hydra/sweeper=optuna seed=1,2", "hydra.sweeper.n_trials=0", "augment@second_view=byol,none"),
)


@st.composite
def of_sweeps(draw: Draw) -> Case:
    words: Words = []
    for more in draw(st.lists(st.sampled_from(SWEPT), min_size=1, max_size=2, unique=True)):
        words += more.split()
    if draw(st.integers(0, 3)) == 0:
        words += draw(settings_with_values([], 0, 1))
    base = [word for word in tiny(words) if word != RUN_DIR]
    return Case("sweep", ("-m", *base, "hydra.sweep.dir=sweep"), images=Images())


KINDS: dict[str, tuple[Any, int]] = {  # with how many of a hundred command lines are of each
    "choices": (of_choices(), 16),
    "values": (of_values(), 27),
    "keys": (of_keys(), 11),
    "text": (of_text(), 5),
    "flags": (of_flags(), 4),
    "images": (of_images(), 13),
    "resume": (of_resume(), 12),
    "eval": (of_eval(), 10),
    "sweep": (of_sweeps(), 2),
}


def draw_case(number: int, of_seed: int) -> Case:
    """The command line of this number; with the same seed always the same."""
    kinds = [kind for kind, (_, share) in KINDS.items() for _ in range(share)]
    random.Random(of_seed).shuffle(kinds)
    found: list[Case] = []

    # Hypothesis starts with the simplest example and then varies earlier ones.
    @seed(of_seed * 10**6 + number)
    @settings(
        max_examples=2,
        phases=[Phase.generate],
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(KINDS[kinds[number % len(kinds)]][0])
    def keep(case: Case) -> None:
        found.append(case)

    keep()
    return found[-1]
