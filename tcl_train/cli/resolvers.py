"""What a config may ask of the machine and of the run.

    epochs: ${in_half_precision:30,12}

is 30 where the run computes in half precision and 12 elsewhere. `precision=auto` takes half
precision only where it is the faster one, so that a recipe that promises a time can keep it on both
kinds of machine. `${share_of_run:5}` is 5 epochs as a share of the run's, `${smaller:10,${epochs}}`
the smaller number, and `${of_dataset:digits,20,100}` is 20 for dataset=digits and 100 for all
others. `${epochs_of_views:12,2,32}` is as many epochs as show the encoder as many pixels as 12
epochs of 2 views of 32 x 32. The resolved values are what `config.yaml` and `result.json` hold.
"""

from __future__ import annotations

from typing import Any

from omegaconf import DictConfig, OmegaConf

from tcl_train.errors import RequestError


def register() -> None:
    """Makes the resolvers known to OmegaConf."""
    OmegaConf.register_new_resolver("in_half_precision", in_half_precision, replace=True)
    OmegaConf.register_new_resolver("share_of_run", share_of_run, replace=True)
    OmegaConf.register_new_resolver("of_dataset", of_dataset, replace=True)
    OmegaConf.register_new_resolver("smaller", smaller, replace=True)
    OmegaConf.register_new_resolver("epochs_of_views", epochs_of_views, replace=True)


def in_half_precision(yes: Any, no: Any, *, _root_: DictConfig) -> Any:
    """`yes` where the config's `precision` on its `device` means bf16 or fp16, else `no`."""
    from tcl_train.runtime.device import (  # torch, when it is asked for
        choose_device,
        choose_precision,
    )

    try:
        precision, _ = choose_precision(_root_.precision, choose_device(_root_.device))
    except RequestError:  # building the run reports these words
        return no
    return yes if precision in ("bf16", "fp16") else no


def share_of_run(epochs: Any, *, _root_: DictConfig) -> Any:
    """So many epochs as a share of the config's `epochs`; what is no number stays as it is."""
    try:
        return float(epochs) / float(_root_.epochs)
    except (TypeError, ValueError, ZeroDivisionError):  # building the run reports these words
        return epochs


def smaller(one: Any, other: Any) -> Any:
    """The smaller number; what is no number stays as it is."""
    numbers = all(isinstance(value, int | float) for value in (one, other))
    return min(one, other) if numbers else one


def of_dataset(*given: Any, _root_: DictConfig) -> Any:
    """Names of data sets, each followed by its value, and last the value of all others."""
    *pairs, others = given
    values = dict(zip(pairs[::2], pairs[1::2], strict=True))
    return values.get(_root_.names.dataset, others)


def epochs_of_views(epochs: Any, views: Any, side: Any, *, _root_: DictConfig) -> Any:
    """As many epochs as show the encoder as many pixels as `epochs` of `views` views of `side`
    pixels: fewer where the config has more views of an image, or small ones beside them."""
    try:
        pixels = float(_root_.views)
        for group in (_root_.get("multicrop") or {}).values():
            own = group["size"]  # null: half the side of the others
            pixels += group["count"] * (0.5 if own is None else own / side) ** 2
        return max(1, round(epochs * views / pixels))
    except (TypeError, ValueError, ZeroDivisionError):  # building the run reports these words
        return epochs
