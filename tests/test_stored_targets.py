"""What stored configs name must stay where it is: run directories of earlier versions are resumed,
evaluated and loaded by these names, with these keys."""

from __future__ import annotations

import inspect

import pytest
from hydra.utils import get_object
from omegaconf import DictConfig, OmegaConf

from tcl_train.cli.choices import choices, config_dir, groups

THIN = {"stem", "width", "shortcut", "feature_dim"}
TEACHER = {"momentum", "momentum_end"}
DECAY = {"weight_decay", "decay_bias_and_norm"}
IMAGES = {"root", "image_size", "mean", "std"}

STORED = {
    "tcl_train.data.augment.AutoAugment": {"policy"},
    "tcl_train.data.augment.ColorJitter": {"brightness", "contrast", "saturation", "hue", "p"},
    "tcl_train.data.augment.GaussianBlur": {"sigma", "kernel", "p"},
    "tcl_train.data.augment.HorizontalFlip": {"p"},
    "tcl_train.data.augment.PadCrop": {"padding"},
    "tcl_train.data.augment.RandAugment": {"num_ops", "magnitude", "operations"},
    "tcl_train.data.augment.RandomErasing": {"p", "scale", "ratio"},
    "tcl_train.data.augment.RandomGrayscale": {"p"},
    "tcl_train.data.augment.RandomResizedCrop": {"scale", "ratio"},
    "tcl_train.data.augment.Solarize": {"threshold", "p"},
    "tcl_train.data.augment.TrivialAugment": {"operations"},
    "tcl_train.data.digits.digits": IMAGES,
    "tcl_train.data.folder.image_folder": {*IMAGES, "classes"},
    "tcl_train.data.named.cifar10": {"root"},
    "tcl_train.data.named.cifar100": {"root"},
    "tcl_train.data.named.fashion_mnist": {"root"},
    "tcl_train.data.named.mnist": {"root"},
    "tcl_train.data.named.stl10": {"root", "unlabelled"},
    "tcl_train.data.named.svhn": {"root"},
    "tcl_train.engine.muon.muon": {
        *("momentum", "newton_schulz_steps", "fixed_norm", "vector_lr", "vector_momentum")
    },
    "tcl_train.engine.optimizers.adamw": {"betas", "eps", *DECAY},
    "tcl_train.engine.optimizers.lars": {"momentum", "trust", *DECAY},
    "tcl_train.engine.optimizers.sgd": {"momentum", "nesterov", *DECAY},
    "tcl_train.engine.schedule.Constant": {"warmup_epochs"},
    "tcl_train.engine.schedule.Cosine": {"warmup_epochs", "floor"},
    "tcl_train.engine.schedule.Linear": {"warmup_epochs", "floor"},
    "tcl_train.engine.schedule.Step": {"milestones", "gamma", "warmup_epochs"},
    "tcl_train.evaluation.finetune.FineTuneProbe": {
        *("epochs", "lr", "classifier_lr", "momentum", "weight_decay", "floor", "batch_size"),
        "min_steps",
    },
    "tcl_train.evaluation.lbfgs.LBFGSProbe": {"l2", "held_out", "max_iter", "tolerance"},
    "tcl_train.evaluation.sgd.SGDProbe": {
        *("epochs", "lr", "momentum", "weight_decay", "floor", "batch_size")
    },
    "tcl_train.losses.CrossEntropy": {"label_smoothing"},
    "tcl_train.losses.HardContrastive": {"tau", "alpha"},
    "tcl_train.losses.LossOfMethod": set(),
    "tcl_train.losses.NPairs": set(),
    "tcl_train.losses.NTXent": {"tau"},
    "tcl_train.losses.SimpleContrastive": {"lam", "alpha"},
    "tcl_train.losses.SupCon": {"tau", "form"},
    "tcl_train.losses.TCL": {"tau", "k1", "k2"},
    "tcl_train.losses.Triplet": {"margin"},
    "tcl_train.methods.barlow_twins.BarlowTwins": {"lam", "scale"},
    "tcl_train.methods.byol.BYOL": {"predictor_hidden_dim", *TEACHER},
    "tcl_train.methods.class_rows.ClassRows": {"copies"},
    "tcl_train.methods.contrastive.Contrastive": set(),
    "tcl_train.methods.cross_entropy.CrossEntropyClassifier": set(),
    "tcl_train.methods.dino.DINO": {
        *("prototypes", "tau", "teacher_tau_start", "teacher_tau", "teacher_tau_warmup"),
        *("centre_momentum", "frozen_until", *TEACHER),
    },
    "tcl_train.methods.mocov2.MoCoV2": {"tau", "queue", "own_statistics", *TEACHER},
    "tcl_train.methods.nnclr.NNCLR": {"tau", "queue", "predictor_hidden_dim"},
    "tcl_train.methods.simsiam.SimSiam": {"predictor_hidden_dim"},
    "tcl_train.methods.swav.SwAV": {
        *("prototypes", "tau", "epsilon", "iterations", "queue", "queue_from", "frozen_until")
    },
    "tcl_train.methods.vicreg.VICReg": {"invariance", "variance", "covariance"},
    "tcl_train.models.linear": {"out_dim"},
    "tcl_train.models.mlp": {"out_dim", "hidden_dim", "depth"},
    "tcl_train.models.none": set(),
    "tcl_train.models.resnet101": {"stem"},
    "tcl_train.models.resnet18": {"stem"},
    "tcl_train.models.resnet20": THIN,
    "tcl_train.models.resnet32": THIN,
    "tcl_train.models.resnet34": {"stem"},
    "tcl_train.models.resnet50": {"stem"},
    "tcl_train.models.resnet56": THIN,
    "tcl_train.models.resnet8": THIN,
    "tcl_train.models.timm_encoder": {"name", "stem"},
}


@pytest.mark.parametrize("target", STORED)
def test_a_stored_name_is_found_and_takes_its_keys(target: str) -> None:
    assert STORED[target] <= set(inspect.signature(get_object(target)).parameters)


def targets(node: DictConfig) -> set[str]:
    found = {node._target_} if "_target_" in node else set()
    parts = (node._get_node(key) for key in node)
    return found.union(*(targets(part) for part in parts if isinstance(part, DictConfig)))


def test_every_name_that_a_config_stores_is_in_the_list() -> None:
    """A new one is added to it; none is ever taken out."""
    stored = set()
    for group in groups():
        for name in choices(group):
            config = OmegaConf.load(config_dir() / group / f"{name}.yaml")
            assert isinstance(config, DictConfig)
            stored |= targets(config)
    assert stored <= STORED.keys()
