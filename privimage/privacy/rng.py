"""Every random draw that privacy rests on: Poisson sampling, query noise, gradient noise.

One code path, two sources of 64-bit words: the kernel's generator (secure), or a seeded one for
reproduction, which marks all that it touches as insecure, for who knows the seed can subtract the
noise. torch's generators are not used: not cryptographic, and 32 bits of seed on the CPU.
Floating point (Mironov 2012): noise is rounded to a grid that the deviation alone fixes, and so are
values before noise is added; the low bits of a sum tell nothing. Not done: a proof for the math
library's log, sin and cos; constant time; tails beyond 8.57 deviations (below 2e-16 per draw).
"""

import math
import os

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from privimage.errors import ConfigError

GRID_BITS = 34  # a grid step is below 2^-34 deviations, and sums stay exact up to 2^18 deviations


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


def gaussian(
    source: RandomSource, shape: tuple[int, ...], *, standard_deviation: float
) -> Float[Tensor, "..."]:
    """Independent N(0, standard_deviation^2) draws in float64 on the CPU, rounded to the fixed
    grid.
    """
    step = _grid_step(standard_deviation)
    num = math.prod(shape)
    normals = _standard_normals(source, num) * standard_deviation
    return torch.from_numpy(np.rint(normals / step) * step).view(shape)


def add_gaussian(
    source: RandomSource, values: Float[Tensor, "*shape"], *, standard_deviation: float
) -> Float[Tensor, "*shape"]:
    """The Gaussian mechanism: values + N(0, standard_deviation^2), in float64 on the device of
    `values`.

    The rounding of values to the grid moves the sensitivity by at most sqrt(number of values) grid
    steps, a relative 1e-7 for a million values. Converting the result to float32 afterwards is
    post-processing.
    """
    step = _grid_step(standard_deviation)
    noise = gaussian(source, tuple(values.shape), standard_deviation=standard_deviation)
    return (values.double() / step).round() * step + noise.to(values.device)


def bernoulli(source: RandomSource, num: int, *, rate: float) -> Bool[Tensor, " num"]:
    """`num` independent coins that are true with probability `rate` (rounded down to a multiple
    of 2^-53).
    """
    if not 0 <= rate <= 1:
        raise ConfigError(f"rate is {rate:g}; give a probability between 0 and 1")
    threshold = np.uint64(int(rate * 2**53))
    return torch.from_numpy((source.uniform_words(num) >> np.uint64(11)) < threshold)


def _standard_normals(source: RandomSource, num: int) -> np.ndarray:
    """Box and Muller (1958): two uniforms with 53 bits give two normals."""
    num_pairs = (num + 1) // 2
    fractions = (source.uniform_words(2 * num_pairs) >> np.uint64(11)).astype(np.float64)
    radius = np.sqrt(-2.0 * np.log((fractions[:num_pairs] + 1.0) * 2.0**-53))  # never log(0)
    angle = fractions[num_pairs:] * (2.0 * math.pi * 2.0**-53)
    return np.concatenate([radius * np.cos(angle), radius * np.sin(angle)])[:num]


def _grid_step(standard_deviation: float) -> float:
    """A power of two, so that rounding to its multiples and adding them is exact in float64."""
    if not (standard_deviation > 0 and math.isfinite(standard_deviation)):
        raise ConfigError(
            f"standard_deviation is {standard_deviation}; give a finite number above 0"
        )
    return 2.0 ** (math.floor(math.log2(standard_deviation)) - GRID_BITS)
