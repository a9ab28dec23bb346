"""The lower bound on epsilon, against closed forms and by its exact error rate."""

import pytest
from scipy.optimize import brentq
from scipy.stats import binom, norm

from privimage.audit.bounds import (
    CONFIDENCE,
    epsilon_lower_bound,
    judge_guesses,
    largest_chance,
)
from privimage.errors import ConfigError
from privimage.privacy.accounting import Mechanism, gaussian_epsilon

DELTA = 1e-5
QUERY = Mechanism(2.0, 1.0, 1)


def bound(correct, runs=1000, claimed=QUERY):
    return epsilon_lower_bound(
        claimed, correct=correct, runs=runs, delta=DELTA, confidence=CONFIDENCE
    )


@pytest.mark.parametrize(("multiplier", "count"), [(0.7, 1), (2.0, 1), (3.0, 4)])
def test_the_best_guess_at_a_gaussian_is_right_as_often_as_its_threshold_test(multiplier, count):
    # without sampling, `count` uses are one of multiplier / sqrt(count); means 0 and 1
    expected = norm.cdf(count**0.5 / multiplier / 2)
    found = largest_chance(Mechanism(multiplier, 1.0, count))
    assert expected - 1e-9 < found < expected + 2e-4


def test_sampling_makes_guesses_worse():
    chances = [largest_chance(Mechanism(1.0, rate, 3)) for rate in (0.1, 0.5, 0.9, 1.0)]
    assert chances == sorted(chances)


@pytest.mark.parametrize("correct", [560, 680])
def test_the_bound_is_the_epsilon_of_the_noise_that_such_luck_rejects(correct):
    chance = brentq(lambda p: binom.sf(correct - 1, 1000, p) - 0.05, 0.5001, 0.999)
    multiplier = 1 / (2 * float(norm.ppf(chance)))
    assert bound(correct) == pytest.approx(gaussian_epsilon(multiplier, delta=DELTA), rel=0.02)
    assert bound(correct) <= gaussian_epsilon(multiplier, delta=DELTA) * 1.001


def test_guesses_like_coins_show_nothing():
    assert bound(500) == bound(0) == 0.0


def test_the_bound_rises_with_right_guesses():
    bounds = [bound(correct) for correct in (540, 600, 700)]
    assert bounds == sorted(bounds)
    assert 0 < bounds[0] < bounds[-1]


@pytest.mark.parametrize(
    ("exceeds", "chances"),
    [
        (lambda result: result.lower_bound > result.claimed_epsilon, (0.01, 0.05)),
        (lambda result: result.disproves_claim, (1e-7, 1e-6)),
    ],
    ids=["one bound of twenty exceeds the truth", "one in a million disproves it"],
)
def test_right_code_is_wronged_as_rarely_as_is_stated(exceeds, chances):
    claimed, runs, chance = QUERY, 4000, largest_chance(QUERY)
    # the smallest count whose bound exceeds what is claimed, by bisection: bounds rise
    low, high = 2380, 2600
    while high - low > 1:
        middle = (low + high) // 2
        result = judge_guesses(claimed, correct=middle, runs=runs, delta=DELTA)
        low, high = (low, middle) if exceeds(result) else (middle, high)
    assert chances[0] < binom.sf(high - 1, runs, chance) <= chances[1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"correct": 11}, "11 correct of 10 guesses"),
        ({"runs": 0, "correct": 0}, "0 correct of 0"),
        ({"delta": 0.0}, "give both between 0 and 1"),
        ({"confidence": 1.0}, "give both between 0 and 1"),
    ],
)
def test_impossible_counts_are_refused(change, message):
    counts = {"correct": 9, "runs": 10, "delta": DELTA, "confidence": 0.95}
    with pytest.raises(ConfigError, match=message):
        epsilon_lower_bound(QUERY, **{**counts, **change})
