"""Weights from elsewhere: from the layouts in which others store an encoder to the keys of ours.

Known are plain state dicts with torchvision's or timm's keys, runs of this program, and checkpoints
of SupContrast (`model` with `encoder.module.`, shortcuts by that name), of solo-learn and lightly
(`state_dict` with `backbone.`, which may be an `nn.Sequential` of a ResNet's children) and of MoCo
(`encoder_q.`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from itertools import takewhile
from typing import Any

import torch
from torch import Tensor, nn

State = dict[str, Tensor]

DEEPEST = 5  # a dictionary in a dictionary
CONTAINERS = ("state_dict", "model", "method", "model_state_dict")
WRAPPERS = ("module", "_orig_mod")  # of torch's parallel and compiled modules, at any depth
PREFIXES = ("", "encoder.", "backbone.", "encoder_q.", "model.")
CHILDREN = {  # of torchvision's ResNet; those without weights are left out
    "0": "conv1",
    "1": "bn1",
    "4": "layer1",
    "5": "layer2",
    "6": "layer3",
    "7": "layer4",
}
LAYERS = r"(conv1|layer\d|blocks|stages)\."  # never a part of a head
COUNTER = "num_batches_tracked"  # of batches; it changes no output, and old files lack it


def _of_children(key: str) -> str:
    first, dot, rest = key.partition(".")
    return f"{CHILDREN.get(first, first)}{dot}{rest}"


RENAMED: tuple[Callable[[str], str], ...] = (
    lambda key: key,
    lambda key: key.replace("shortcut.", "downsample."),
    _of_children,
)


def encoder_state(stored: Mapping[str, Any], wanted: Collection[str]) -> tuple[State, list[str]]:
    """The values of an encoder under its keys, and the stored keys that are no part of it, in the
    layout in which most of the `wanted` keys are found.

    Raises:
        ValueError: there are no tensors, or none of an encoder.
    """
    tensors = _tensors(stored)
    layouts = [_layout(tensors, prefix, rename) for prefix in PREFIXES for rename in RENAMED]
    best = max(layouts, key=lambda layout: len(layout.keys() & set(wanted)))
    if not best.keys() & set(wanted):
        names = list(tensors) or list(stored) or ["nothing"]
        raise ValueError(f"there is no encoder in it, only {_first(names)}")
    state = {key: tensors[name] for key, name in best.items()}
    used = {name for key, name in best.items() if key in wanted}
    return state, [name for name in tensors if name not in used]


def _tensors(stored: Mapping[str, Any]) -> State:
    for _ in range(DEEPEST):
        inner = next((stored[name] for name in CONTAINERS if _is_dict(stored.get(name))), None)
        if inner is None:
            break
        stored = inner
    return {str(key): x for key, x in stored.items() if isinstance(x, Tensor)}


def _is_dict(value: Any) -> bool:
    return isinstance(value, dict)  # no config, which may look up what it holds


def _layout(tensors: State, prefix: str, rename: Callable[[str], str]) -> dict[str, str]:
    """The stored name of each key."""
    unwrapped = {name: _unwrapped(name) for name in tensors}
    return {
        rename(key.removeprefix(prefix)): name
        for name, key in unwrapped.items()
        if key.startswith(prefix)
    }


def _unwrapped(name: str) -> str:
    return ".".join(part for part in name.split(".") if part not in WRAPPERS)


def load_weights(encoder: nn.Module, stored: Mapping[str, Any]) -> list[str]:
    """Loads what was stored in any known layout into the encoder; gives the stored keys that it has
    no place for.

    Raises:
        ValueError: a value is missing or of another shape; the message says which, and what would
            fit.
    """
    own = encoder.state_dict()
    state, skipped = encoder_state(stored, own.keys())
    problem = next(_problems(own, state), None)
    if problem is not None:
        fitting = (
            what_fits(state, padded=is_padded(stored))
            or "the encoder and the stem that it was trained with"
        )
        raise ValueError(f"{problem}; give {fitting}")
    with torch.no_grad():
        for key, x in own.items():
            if key in state:
                x.copy_(state[key])
    return skipped


def by_part(keys: Sequence[str]) -> list[str]:
    """The keys of a state, in their order; more than two of one part as `projector.* (6 keys)`,
    with what all of them begin with."""
    parts: dict[str, list[str]] = {}
    for key in keys:
        parts.setdefault(_unwrapped(key).partition(".")[0], []).append(key)
    texts: list[str] = []
    for of_part in parts.values():
        few = len(of_part) <= 2
        texts += of_part if few else [f"{_shared(of_part)}.* ({len(of_part)} keys)"]
    return texts


def _shared(keys: Sequence[str]) -> str:
    levels = zip(*(_unwrapped(key).split(".")[:-1] for key in keys), strict=False)
    return ".".join(names[0] for names in takewhile(lambda names: len({*names}) == 1, levels))


def is_padded(stored: Mapping[str, Any]) -> bool:
    """Whether these are weights of solo-learn for small images, by their names: its first
    convolution of 3x3 has a padding of two pixels, which no shape shows."""
    tensors = _tensors(stored)
    first = tensors.get("backbone.conv1.weight")
    return first is not None and first.shape[2:] == (3, 3) and "classifier.weight" in tensors


def _problems(own: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> Iterator[str]:
    missing = [key for key in own if key not in state and not key.endswith(COUNTER)]
    if missing:
        yield f"it lacks {_first(missing)} of this encoder"
    for key, x in own.items():
        if key in state and state[key].shape != x.shape:
            yield f"{key} is {tuple(state[key].shape)} there and {tuple(x.shape)} here"
    unknown = [key for key in state if key not in own and re.match(LAYERS, key)]
    if unknown:
        yield f"it has {_first(unknown)}, which this encoder lacks"


def _first(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"


# ------------------------------------------------------------------ what would fit

WIDE: dict[
    tuple[bool, tuple[int, ...]], str
] = {  # by whether blocks are bottlenecks, and their numbers
    (False, (2, 2, 2, 2)): "resnet18",
    (False, (3, 4, 6, 3)): "resnet34",
    (True, (3, 4, 6, 3)): "resnet50",
    (True, (3, 4, 23, 3)): "resnet101",
}
STEM_OF_SIDE = {7: "imagenet", 4: "patch", 3: "small"}


def what_fits(state: Mapping[str, Tensor], *, padded: bool = False) -> str | None:
    """The words that choose the ResNet with these keys and shapes; None: it is none of ours.

    padded: whether a first convolution of 3x3 is that of the stem `padded`.
    """
    blocks = [
        len({key.split(".")[1] for key in state if key.startswith(f"layer{stage}.")})
        for stage in (1, 2, 3, 4)
    ]
    bottleneck = "layer1.0.conv3.weight" in state
    name = WIDE.get((bottleneck, tuple(blocks)))
    words = [] if name is None else [f"encoder={name}"]
    if name is None and blocks[0] and blocks == [*[blocks[0]] * 3, 0]:
        width = state["layer1.0.conv1.weight"].shape[0] if "layer1.0.conv1.weight" in state else 16
        words = [f"encoder=resnet{6 * blocks[0] + 2}", f"encoder.width={width}"]
    if not words:
        return None
    first = state.get("conv1.weight")
    if first is not None and first.ndim == 4 and first.shape[-1] in STEM_OF_SIDE:
        stem = STEM_OF_SIDE[first.shape[-1]]
        words.append(f"encoder.stem={'padded' if padded and stem == 'small' else stem}")
    if "bn1.weight" in state and "bn1.running_mean" not in state:
        words.append("encoder.norm=group")
    return " ".join(words)
