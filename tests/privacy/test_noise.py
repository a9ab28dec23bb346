"""The Gaussian mechanism on a grid: its law, bit for bit, and an attack that broke an older one."""

import math
from decimal import Decimal
from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy import integrate, stats

from privimage.errors import ConfigError
from privimage.privacy import noise as module
from privimage.privacy.noise import _cells, _draw, add_gaussian, gaussian_steps, grid_step
from privimage.privacy.rng import RandomSource, insecure_source, secure_source

COARSE = 3000.5  # a deviation in steps that lets single steps be counted


@pytest.fixture
def source():
    return insecure_source(1, insecure_for_reproduction=True)


class Fixed(RandomSource):
    """Gives the words it was made with, then those of a seeded source."""

    def __init__(self, words):
        super().__init__(seed=7)
        self.waiting = np.asarray(words, dtype=np.uint64)

    def uniform_words(self, num):
        given, self.waiting = self.waiting[:num], self.waiting[num:]
        more = num - len(given)
        return np.concatenate([given, super().uniform_words(more)]) if more else given


def words_of(*, cells, accepts, places, signs):
    """The two words of each proposal, as `_draw` cuts them up."""
    first = (np.asarray(cells, dtype=np.uint64) << np.uint64(32)) | np.asarray(accepts, np.uint64)
    second = (np.asarray(places, dtype=np.uint64) << np.uint64(1)) | np.asarray(signs, np.uint64)
    return np.concatenate([first, second])


# the law


def test_every_cell_has_the_weight_of_the_normal_law_and_so_have_its_tails():
    # proposals times acceptance, integrated, against the normal distribution function
    cells = _cells(COARSE)
    width = cells.width / COARSE
    sums = [Decimal(0), *module._cumulative(COARSE, cells.width_bits, digits=60)]
    proposed = np.array([float(after - before) for before, after in pairwise(sums)])
    lower = np.arange(len(proposed)) * width

    def accepted(z, at):
        return math.exp(-z * (at + z / 2))

    shares = [integrate.quad(accepted, 0, width, args=(at,))[0] / width for at in lower]
    weights = proposed * shares / (proposed * shares).sum()
    expected = 2 * (stats.norm.sf(lower) - stats.norm.sf(lower + width))
    seen = proposed > 1e-50  # the sums have 60 digits
    np.testing.assert_allclose(weights[seen], expected[seen], rtol=1e-9)
    assert lower[seen][-1] > 14


def test_single_steps_have_the_probability_of_a_rounded_normal_variable(source):
    num, reach = 4_000_000, 60
    drawn = gaussian_steps(source, num, deviation=COARSE)
    counts = np.bincount(drawn[abs(drawn) <= reach] + reach, minlength=2 * reach + 1)
    steps = np.arange(-reach, reach + 1)
    expected = num * (
        stats.norm.cdf((steps + 0.5) / COARSE) - stats.norm.cdf((steps - 0.5) / COARSE)
    )
    assert stats.chi2.sf(((counts - expected) ** 2 / expected).sum(), len(steps)) > 1e-4


def test_low_bits_are_uniform_in_the_middle_and_in_the_tails(source):
    drawn = gaussian_steps(source, 2_000_000, deviation=2.0**28 * 1.37)
    for part in (drawn, drawn[abs(drawn) > 3 * 2**28 * 1.37]):
        counts = np.bincount(part & 63, minlength=64)
        assert stats.chisquare(counts).pvalue > 1e-4


@pytest.mark.parametrize("deviation", [2.0**10, 12345.678, 2.0**28 * 20.3, 2.0**48])
def test_draws_pass_kolmogorov_smirnov_and_have_the_moments(source, deviation):
    draws = gaussian_steps(source, 400_000, deviation=deviation) / deviation
    assert stats.kstest(draws, stats.norm.cdf).pvalue > 1e-4
    # of n draws, these estimates have deviations sqrt(1/n), sqrt(2/n), sqrt(15/n), sqrt(96/n)
    for power, moment, variance in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)):
        assert abs((draws**power).mean() - moment) < 4.5 * (variance / len(draws)) ** 0.5


def test_draws_are_independent_of_their_neighbours(source):
    draws = gaussian_steps(source, 200_000, deviation=2.0**30) / 2.0**30
    half = len(draws) // 2
    for a, b in ((draws[:half], draws[half:]), (draws[1:], draws[:-1])):
        for left, right in ((a, b), (a**2, b**2)):
            assert abs(np.corrcoef(left, right)[0, 1]) < 4.5 / half**0.5


def test_what_numbers_of_any_length_decide_is_what_float64_decides(source, monkeypatch):
    words = source.uniform_words(4000)
    quick = _draw(Fixed(words), _cells(2.0**30 * 1.1), 2000)
    monkeypatch.setattr(module, "_MARGIN", 2.0**33)  # float64 decides nothing any more
    exact = _draw(Fixed(words), _cells(2.0**30 * 1.1), 2000)
    np.testing.assert_array_equal(quick, exact)


def test_words_at_a_border_are_decided_by_further_bits():
    # a cell word that holds the border between cells 3 and 4: both come out, by the next bits
    cells = _cells(2.0**30)
    border = int(cells.floors[3])
    num = 400
    words = words_of(cells=[border] * num, accepts=[0] * num, places=[0] * num, signs=[0] * num)
    drawn = _draw(Fixed(words), cells, num)
    bound = Fraction(module._cumulative(2.0**30, cells.width_bits, digits=60)[3]) * 2**32
    share = float(bound - border)  # of the word's interval that belongs to cell 3
    assert set(drawn) == {3 * cells.width, 4 * cells.width}
    found = (drawn == 3 * cells.width).sum()
    assert abs(found - num * share) < 4.5 * (num * share * (1 - share)) ** 0.5


def test_the_last_word_reaches_beyond_any_fixed_tail():
    cells = _cells(2.0**30)
    num = 300
    words = words_of(cells=[2**32 - 1] * num, accepts=[0] * num, places=[0] * num, signs=[0] * num)
    reached = _draw(Fixed(words), cells, num) / 2.0**30
    # a share 2^-32 of all proposals: from 6.2 deviations on, and a thousandth of them beyond 7.2
    assert reached.min() > 6.0
    assert len(set(reached)) > 5


@pytest.mark.parametrize(
    ("place", "nearest"),
    [(0, 0), (2**63 - 1, 1), (2**62, 0.5), (2**62 - 1, 0.5)],
)
def test_a_place_is_rounded_to_the_nearest_step(place, nearest):
    cells = _cells(2.0**30)
    words = words_of(cells=[0, 0], accepts=[0, 0], places=[place, place], signs=[0, 1])
    up, down = _draw(Fixed(words), cells, 2)
    assert up == -down == round(nearest * cells.width)


# the mechanism


def test_values_and_noise_are_whole_steps_and_add_up_exactly(source):
    step = grid_step(1e-3)
    values = torch.arange(-500, 500).double() * step
    noisy = add_gaussian(source, values, standard_deviation=0.02, step=step)
    again = insecure_source(1, insecure_for_reproduction=True)
    noise = gaussian_steps(again, 1000, deviation=0.02 / step)
    assert torch.equal(noisy, (torch.arange(-500, 500) + torch.from_numpy(noise)).double() * step)


def test_values_off_the_grid_are_refused(source):
    step = grid_step(1.0)
    for value in (step / 2, 2.0**53 * step, float("nan")):
        with pytest.raises(ValueError, match="whole multiples of the grid step"):
            add_gaussian(
                source,
                torch.tensor([value], dtype=torch.float64),
                standard_deviation=1.0,
                step=step,
            )


def test_secure_noise_differs_between_calls():
    first, again = (gaussian_steps(secure_source(), 500, deviation=2.0**40) for _ in range(2))
    assert not set(first) & set(again)


@pytest.mark.parametrize("shape", [(), (0,), (1,), (3, 5), (2, 0, 4)])
def test_noise_has_the_shape_of_the_values(source, shape):
    noisy = add_gaussian(source, torch.zeros(shape), standard_deviation=1.0, step=2.0**-20)
    assert noisy.shape == shape
    assert noisy.dtype == torch.float64


@pytest.mark.parametrize("deviation", [0.0, -1.0, math.nan, math.inf, 2.0**9, 2.0**49])
def test_noise_of_a_deviation_that_the_grid_cannot_hold_is_refused(source, deviation):
    with pytest.raises(ConfigError, match="grid steps; give noise between"):
        gaussian_steps(source, 3, deviation=deviation)


@pytest.mark.parametrize("scale", [0.0, -1.0, math.nan, math.inf])
def test_a_grid_needs_a_scale(scale):
    with pytest.raises(ConfigError, match="scale of a grid"):
        grid_step(scale)


def test_a_step_is_a_power_of_two_and_a_tiny_part_of_the_scale():
    for scale in (1e-3, 0.999, 1.0, 1.5, 7e5):
        step = grid_step(scale)
        assert math.frexp(step)[0] == 0.5
        assert scale * 2.0**-29 < step <= scale * 2.0**-28


# The attack that this sampler answers. Box and Muller (1958) from 53-bit words give pairs whose
# radius is one of 2^53 values; far out these lie wider apart than the grid, so that a pair shows
# which values were under it: if no radius fits, they were not. Rounding moves a radius by at most a
# step, sqrt(2) halves of one to be exact.

OLD_GRID_BITS = 34


def box_muller(words, deviation):
    """The older sampler, as it stood: a pair from each pair of words."""
    step = 2.0 ** (math.floor(math.log2(deviation)) - OLD_GRID_BITS)
    fractions = (words >> np.uint64(11)).astype(np.float64)
    num = len(words) // 2
    radius = np.sqrt(-2.0 * np.log((fractions[:num] + 1.0) * 2.0**-53))
    angle = fractions[num:] * (2.0 * math.pi * 2.0**-53)
    normals = np.stack([radius * np.cos(angle), radius * np.sin(angle)]) * deviation
    return np.rint(normals / step) * step, step


def shown_impossible(pairs, deviation, step):
    """Of released pairs: those that no radius fits, if the values under them were 0."""
    radius = np.hypot(*pairs) / deviation
    place = np.exp(-(radius**2) / 2) * 2.0**53
    reach = step / deviation
    nearest = np.maximum(np.rint(place), 1.0)
    fitting = np.sqrt(-2.0 * np.log(nearest * 2.0**-53))
    return abs(fitting - radius) > 2 * reach


def test_an_attack_on_the_radii_finds_out_the_older_sampler(source):
    deviation, num = 53.0, 4000
    words = source.uniform_words(2 * num)
    words[:num] >>= np.uint64(28)  # the first uniform below 2^-28: radii from 6.2 on
    released, step = box_muller(words, deviation)
    assert not shown_impossible(released, deviation, step).any()  # no false proof
    shifted = released + np.array([[1.0], [0.0]])  # one vote more
    assert shown_impossible(shifted, deviation, step).mean() > 0.9


def test_the_attack_learns_nothing_from_the_exact_sampler():
    deviation, num = 53.0, 4000
    step = grid_step(1.0)
    cells = _cells(deviation / step)
    drawn = np.random.default_rng(0)

    def far_out():
        words = words_of(
            cells=drawn.integers(2**32 - 2000, 2**32 - 400, num),
            accepts=drawn.integers(0, 2**20, num),
            places=drawn.integers(0, 2**63, num),
            signs=drawn.integers(0, 2, num),
        )
        return _draw(Fixed(words), cells, num) * step

    pairs = np.stack([far_out(), far_out()])
    assert np.hypot(*pairs).min() > 6.2 * deviation
    proofs = shown_impossible(pairs, deviation, step).mean()
    against_a_vote = shown_impossible(pairs + np.array([[1.0], [0.0]]), deviation, step).mean()
    # what it takes for proofs is as frequent when it is false: by chance 4000 differ by .02
    assert abs(proofs - against_a_vote) < 0.04
    assert proofs > 0.5
