"""Where every random draw that privacy rests on takes its bits: Poisson sampling, query noise,
gradient noise.

One code path, two sources of 64-bit words: the kernel's generator (secure), or a seeded one for
reproduction, which marks all that it touches as insecure: anyone who knows the seed can subtract
the noise. torch's generators are not used: not cryptographic, and 32 bits of seed on the CPU. What
is made of the words has its law exactly: coins here, normal noise in `privimage.privacy.noise`.
"""

import os

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor

from privimage.errors import ConfigError


class RandomSource:
    """A stream of random 64-bit words; made by `secure_source` or `insecure_source` only."""

    def __init__(self, *, seed: int | None, use: str = "", index: int = 0) -> None:
        self.name = "os" if seed is None else "seeded"
        self.insecure = seed is not None
        self._seed = seed
        if seed is not None:
            key = (index, *use.encode())
            self._seeded = np.random.PCG64(np.random.SeedSequence(seed, spawn_key=key))

    def stream(self, use: str, index: int = 0) -> "RandomSource":
        """The words of one use of a mechanism.

        From the secure source always fresh ones. From a seeded one the same for the same (seed,
        use, index), whatever was drawn before: a step that is done again is the very same step.
        """
        return RandomSource(seed=self._seed, use=use, index=index)

    def uniform_words(self, num: int) -> np.ndarray:
        """`num` independent uniform words (uint64)."""
        if self._seed is not None:
            return self._seeded.random_raw(num)
        return np.frombuffer(os.urandom(8 * num), dtype=np.uint64)


def secure_source() -> RandomSource:
    """Words from the operating system's cryptographic generator; no seed, no replay."""
    return RandomSource(seed=None)


def insecure_source(seed: int, *, insecure_for_reproduction: bool) -> RandomSource:
    """Words from PCG64(seed): the same on every machine, and NO protection against whoever knows
    the seed.
    """
    if not insecure_for_reproduction:
        raise ConfigError(
            f"seed {seed} for private noise was given without insecure_for_reproduction: true; "
            "set that to accept a run without a privacy guarantee, or leave the seed out"
        )
    return RandomSource(seed=seed)


def bernoulli(source: RandomSource, num: int, *, rate: float) -> Bool[Tensor, " num"]:
    """`num` independent coins that are true with probability `rate` (rounded down to a multiple
    of 2^-53).
    """
    if not 0 <= rate <= 1:
        raise ConfigError(f"rate is {rate:g}; give a probability between 0 and 1")
    threshold = np.uint64(int(rate * 2**53))
    return torch.from_numpy((source.uniform_words(num) >> np.uint64(11)) < threshold)
