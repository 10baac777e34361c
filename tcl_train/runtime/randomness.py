"""Randomness as a function: every random draw of a run uses a fresh generator, derived from the
run's seed and a name for the draw.

    order_N = torch.randperm(n, generator=generator(seed, "order", epoch))

Nothing keeps a random state, so a run that was interrupted, or that is spread over more
processes, draws the same numbers. Generators live on the CPU: the draws are small, and they are
then the same on every device.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

_PLAIN_WORD = re.compile(r"[A-Za-z][\w-]*", re.ASCII)


DRAWS = 2  # the version of how draws follow from the seed, as configs store it


class EarlierSeed(int):
    """The seed of a run that was begun when generators took 32 bits of a derived seed: with it they
    still do, so that such a run is resumed to the same end."""


def derive(seed: int, *name: str | int) -> int:
    """A 63-bit seed that depends on every part of the name, and on where one part ends."""
    words = "/".join(map(_unmistakable, (int(seed), *name)))
    value = int.from_bytes(hashlib.blake2b(words.encode(), digest_size=8).digest(), "big") >> 1
    return EarlierSeed(value) if isinstance(seed, EarlierSeed) else value


def _unmistakable(part: str | int) -> str:
    """Numbers and plain words as they are, any other text in quotes: so no two names are written
    alike."""
    plain = isinstance(part, int) or _PLAIN_WORD.fullmatch(part)
    return str(part) if plain else json.dumps(part)


def generator(seed: int, *name: str | int) -> torch.Generator:
    """A fresh CPU generator for one named draw."""
    fresh = torch.Generator()
    fresh.set_state(_state(derive(seed, *name)))
    return fresh


@contextmanager
def seeded(seed: int, *name: str | int) -> Iterator[None]:
    """For library code that draws from torch's global CPU generator (parameter initialisation):
    seeds it inside the block and restores it after."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.set_state(_state(derive(seed, *name)))
        yield


# Where the 624 words of the Mersenne twister stand in the state that torch gives: after the seed,
# two counters and the place of the next word.
_WORDS = slice(24, 24 + 624 * 8)


def _state(seed: int) -> torch.Tensor:
    """A state that depends on all bits of the seed, where torch's manual_seed uses 32 of them: two
    of some hundred thousand draws would be the same."""
    if isinstance(seed, EarlierSeed):
        return torch.Generator().manual_seed(seed).get_state()
    state = torch.Generator().manual_seed(0).get_state()
    words = np.random.SeedSequence(seed).generate_state(624).astype(np.uint64)
    state[_WORDS] = torch.from_numpy(words.view(np.uint8))
    return state
