"""The Gaussian mechanism on a grid, with noise whose law is exact.

Values are whole multiples of a grid step, a power of two. The noise is a normal variable rounded to
that grid, so values plus noise are the rounding of values plus a normal variable: post-processing
of the Gaussian mechanism on real numbers, which is what the accountants account for. Nothing is
added for the grid, nothing for tails, and low bits tell nothing (Mironov 2012), because there is
no floating-point rounding left: sums on the grid are exact. `docs/noise.md` has the argument.
"""

import math
from dataclasses import dataclass
from decimal import ROUND_FLOOR, Context, Decimal
from fractions import Fraction
from functools import lru_cache

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from privimage.errors import ConfigError
from privimage.privacy.rng import RandomSource

GRID_BITS = 28  # a step is at most 2^-28 of what the grid is made for
EXACT_STEPS = 2**53  # float64 holds all whole numbers up to here
SMALLEST_DEVIATION, LARGEST_DEVIATION = 2.0**10, 2.0**48  # of the noise, in grid steps
_DRAWS_AT_ONCE = 2**14  # what the processor's cache holds
_WORD = 2.0**32
_MARGIN = 2.0**-13  # in 2^-32: a hundred times what float64 can be off by in `_draw`


def grid_step(scale: float) -> float:
    """The power of two that is at most `scale` * 2^-GRID_BITS, and above half of it."""
    if not (scale > 0 and math.isfinite(scale)):
        raise ConfigError(f"the scale of a grid is {scale}; give a finite number above 0")
    return 2.0 ** (math.floor(math.log2(scale)) - GRID_BITS)


def add_gaussian(
    source: RandomSource, values: Float[Tensor, "*shape"], *, standard_deviation: float, step: float
) -> Float[Tensor, "*shape"]:
    """The Gaussian mechanism: values + N(0, standard_deviation^2), rounded to multiples of `step`.

    In float64, on the device of `values`.

    Guarantee:
        For values that are whole multiples of `step` (anything else is refused) the result is
        exactly the rounding to the grid of values + N(0, standard_deviation^2), whatever the values
        are: its privacy is that of the Gaussian mechanism on real numbers, with the L2 sensitivity
        of `values`. Exact means: given independent uniform words from `source`.
    """
    steps = values.double() / step  # exact: a power of two
    if not (torch.equal(steps, steps.round()) and bool((steps.abs() < EXACT_STEPS / 2).all())):
        raise ValueError("noise is added to whole multiples of the grid step, and below 2^52 of it")
    noise = gaussian_steps(source, values.numel(), deviation=standard_deviation / step)
    return (steps + torch.from_numpy(noise).view(steps.shape).to(steps)) * step


def gaussian_steps(
    source: RandomSource, num: int, *, deviation: float
) -> Int64[np.ndarray, " num"]:
    """`num` independent draws of N(0, deviation^2), each rounded to the nearest whole number."""
    if not SMALLEST_DEVIATION <= deviation <= LARGEST_DEVIATION:
        raise ConfigError(
            f"noise with a standard deviation of {deviation:g} grid steps; give noise between "
            f"{SMALLEST_DEVIATION:g} and {LARGEST_DEVIATION:g} steps"
        )
    cells = _cells(deviation)
    drawn = np.empty(num, dtype=np.int64)
    done = 0
    while done < num:
        found = _draw(source, cells, min(_DRAWS_AT_ONCE, num - done))
        drawn[done : done + len(found)] = found
        done += len(found)
    return drawn


@dataclass(frozen=True, eq=False)
class _Cells:
    """[0, infinity) cut into cells of `width` steps: where the rejection sampler proposes.

    A cell k is proposed with probability proportional to the density at its lower end. `floors` are
    the cumulative probabilities times 2^32, rounded down, up to the first that reaches 2^32 - 1.
    """

    deviation: float  # in steps
    width_bits: int
    floors: np.ndarray

    @property
    def width(self) -> int:
        return 2**self.width_bits


@lru_cache(maxsize=16)
def _cells(deviation: float) -> _Cells:
    width_bits = math.floor(math.log2(deviation)) - 6  # 64 to 128 cells a deviation: few rejections
    floors = []
    for bound in _cumulative(deviation, width_bits, digits=60):
        scaled = Fraction(bound) * 2**32
        floors.append(math.floor(scaled))
        # known to within 1e-45, and no whole number is as near: the floor is right
        assert Fraction(1, 10**40) < scaled - floors[-1] < 1 - Fraction(1, 10**40)
        if floors[-1] == 2**32 - 1:
            break
    return _Cells(deviation, width_bits, np.array(floors, dtype=np.uint32))


@lru_cache(maxsize=16)
def _cumulative(deviation: float, width_bits: int, *, digits: int) -> tuple[Decimal, ...]:
    """Probability of cells 0 to k for each k, to within 10^(5 - digits), as far as they differ."""
    context = Context(prec=digits)
    width = context.divide(Decimal(2**width_bits), Decimal(deviation))
    halved_square = context.divide(context.multiply(width, width), Decimal(2))
    smallest, total, sums = Decimal(10) ** -digits, Decimal(0), []
    weight, k = Decimal(1), 0
    while weight > smallest:
        total = context.add(total, weight)
        sums.append(total)
        k += 1
        weight = context.exp(context.multiply(halved_square, Decimal(-k * k)))
    return tuple(context.divide(partial, total) for partial in sums)


def _draw(source: RandomSource, cells: _Cells, num: int) -> np.ndarray:
    """`num` proposals, those that are accepted; at most one in a hundred is not.

    A proposal is a cell k, a place in it and a sign. It is accepted with the ratio of the density
    at |y| to that at the cell's lower end. Each comparison of a uniform number with a real one is
    made on the number's first 32 bits, where these decide: beyond any rounding of float64. Where
    they do not (about one draw in ten million), `_draw_exactly` looks at further bits.
    """
    words = source.uniform_words(2 * num)
    cell_words, accept_words = words[:num] >> np.uint64(32), words[:num] & np.uint64(2**32 - 1)
    signs, places = words[num:] & np.uint64(1), words[num:] >> np.uint64(1)
    fraction_bits = 63 - cells.width_bits

    k = cells.floors.searchsorted(cell_words.astype(np.uint32))
    undecided = cells.floors[k] == cell_words
    z = places * (2.0**-fraction_bits / cells.deviation)  # in deviations, from the cell's lower end
    ratio = np.exp(-z * (k * (cells.width / cells.deviation) + z / 2)) * _WORD
    accepted = accept_words + 1.0 <= ratio - _MARGIN
    undecided |= ~accepted & (accept_words < ratio + _MARGIN)

    nearest = ((places >> np.uint64(fraction_bits - 1)) + np.uint64(1)) >> np.uint64(1)
    drawn = nearest.astype(np.int64) + (k << cells.width_bits)
    np.negative(drawn, out=drawn, where=signs.astype(bool))
    accepted &= ~undecided
    for i in undecided.nonzero()[0]:
        exact = _draw_exactly(source, cells, int(words[i]), int(words[num + i]))
        if exact is not None:
            drawn[i], accepted[i] = exact, True
    return drawn[accepted]


class _Uniform:
    """A uniform number in [0, 1) whose first bits are known; the others are drawn when needed."""

    def __init__(self, source: RandomSource, known: int, *, num_bits: int) -> None:
        self._source, self._known, self._num_bits = source, known, num_bits

    def bounds(self) -> tuple[Fraction, Fraction]:
        unit = Fraction(1, 2**self._num_bits)
        return self._known * unit, (self._known + 1) * unit

    def refine(self) -> None:
        self._known = (self._known << 64) | int(self._source.uniform_words(1)[0])
        self._num_bits += 64


def _draw_exactly(
    source: RandomSource, cells: _Cells, first_word: int, second_word: int
) -> int | None:
    """The same proposal from the same words, decided in numbers of any length; None: rejected."""
    k = _exact_cell(_Uniform(source, first_word >> 32, num_bits=32), cells)
    place = _Uniform(source, second_word >> 1, num_bits=63)
    if not _is_accepted(_Uniform(source, first_word % 2**32, num_bits=32), place, k, cells):
        return None
    nearest = math.floor(place.bounds()[0] * cells.width + Fraction(1, 2))
    magnitude = k * cells.width + nearest
    return -magnitude if second_word & 1 else magnitude


def _exact_cell(uniform: _Uniform, cells: _Cells) -> int:
    digits = 60
    while True:
        bounds = _cumulative(cells.deviation, cells.width_bits, digits=digits)
        error = Fraction(10) ** (5 - digits)
        low, high = uniform.bounds()
        below = Fraction(0)
        for k, bound in enumerate(map(Fraction, bounds)):
            if below <= low and high <= bound - error:
                return k
            below = bound + error
        uniform.refine()
        digits += 20


def _is_accepted(uniform: _Uniform, place: _Uniform, k: int, cells: _Cells) -> bool:
    digits = 60
    while True:
        nearer, farther = (
            _density_ratio(k, bound, cells, digits=digits) for bound in place.bounds()
        )
        error = Fraction(10) ** (5 - digits)
        low, high = uniform.bounds()
        if high <= farther - error:
            return True
        if low >= nearer + error:
            return False
        uniform.refine()
        place.refine()
        digits += 20


def _density_ratio(k: int, place: Fraction, cells: _Cells, *, digits: int) -> Fraction:
    """Density at `place` (a share of the cell) over that at the lower end of cell k."""
    lower, y = Fraction(k * cells.width), (k + place) * cells.width
    exponent = (lower * lower - y * y) / (2 * Fraction(cells.deviation) ** 2)
    context = Context(prec=digits, rounding=ROUND_FLOOR)
    quotient = context.divide(Decimal(exponent.numerator), Decimal(exponent.denominator))
    return Fraction(context.exp(quotient))
