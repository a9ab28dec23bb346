"""The two random sources, the Gaussian noise drawn from them, and the coins of Poisson sampling."""

import numpy as np
import pytest
import torch
from scipy import stats

from privimage.errors import ConfigError
from privimage.privacy import rng
from privimage.privacy.rng import (
    add_gaussian,
    bernoulli,
    gaussian,
    insecure_source,
    secure_source,
)


@pytest.fixture
def source():
    return insecure_source(1, insecure_for_reproduction=True)


def test_secure_source_never_repeats_itself():
    words = secure_source().uniform_words(1000)
    assert words.dtype == np.uint64
    assert len(set(words) | set(secure_source().uniform_words(1000))) == 2000


def test_secure_source_reads_the_kernel(monkeypatch):
    monkeypatch.setattr(rng.os, "urandom", lambda num: bytes(range(num)))
    assert secure_source().uniform_words(1).item() == 0x0706050403020100  # little-endian bytes 0..7


def test_streams_of_the_secure_source_are_fresh_each_time():
    source = secure_source()
    assert (source.name, source.insecure) == ("os", False)
    first, again = (source.stream("dp_sgd", 3).uniform_words(500) for _ in range(2))
    assert len(set(first) | set(again)) == 1000


def test_seeded_source_is_marked_and_repeats(source):
    again = insecure_source(1, insecure_for_reproduction=True)
    other = insecure_source(2, insecure_for_reproduction=True)
    assert (source.name, source.insecure) == ("seeded", True)
    words = source.uniform_words(50)
    np.testing.assert_array_equal(words, again.uniform_words(50))
    assert not set(words) & set(other.uniform_words(50))


def test_all_64_bits_of_a_seed_count():
    # torch's CPU generator takes the same stream for both
    small, large = (insecure_source(s, insecure_for_reproduction=True) for s in (5, 5 + 2**32))
    assert small.uniform_words(1) != large.uniform_words(1)


def test_a_seed_without_consent_is_refused():
    with pytest.raises(ConfigError, match="insecure_for_reproduction"):
        insecure_source(1, insecure_for_reproduction=False)


def test_a_seeded_stream_is_the_same_whenever_it_is_asked_for(source):
    expected = source.stream("dp_sgd", 3).uniform_words(20)
    source.uniform_words(7)
    gaussian(source.stream("dp_sgd", 2), (7,), standard_deviation=1.0)
    np.testing.assert_array_equal(source.stream("dp_sgd", 3).uniform_words(20), expected)
    assert source.stream("dp_sgd", 3).insecure


def test_seeded_streams_of_other_uses_steps_and_seeds_share_nothing():
    keys = [(seed, use, index) for seed in (1, 2) for use in ("a", "ab") for index in (0, 1, 97)]
    drawn = [
        word
        for seed, use, index in keys
        for word in insecure_source(seed, insecure_for_reproduction=True)
        .stream(use, index)
        .uniform_words(20)
    ]
    assert len(set(drawn)) == 20 * len(keys)


def test_gaussian_noise_passes_kolmogorov_smirnov(source):
    draws = gaussian(source, (100_000,), standard_deviation=3.0).numpy()
    assert stats.kstest(draws, stats.norm(scale=3.0).cdf).pvalue > 0.01


def test_gaussian_noise_has_the_moments_of_a_gaussian(source):
    draws = gaussian(source, (100, 4000), standard_deviation=2.0) / 2.0
    # of n draws, these estimates have deviations sqrt(1/n), sqrt(2/n), sqrt(15/n), sqrt(96/n)
    for power, moment, variance in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)):
        found = (draws**power).mean().item()
        assert found == pytest.approx(moment, abs=4 * (variance / draws.numel()) ** 0.5)


def test_gaussian_tails_have_their_weight(source):
    draws = gaussian(source, (1_000_000,), standard_deviation=1.0)
    # P(|z| > 4) = 6.33e-5: 63 of a million are expected, with deviation 8
    assert 63 - 32 < (draws.abs() > 4).sum() < 63 + 32


def test_both_halves_of_a_box_muller_pair_are_independent(source):
    draws = gaussian(source, (200_000,), standard_deviation=1.0)
    first, second = draws[:100_000], draws[100_000:]
    for left, right in ((first, second), (first**2, second**2), (draws[:-1], draws[1:])):
        # a correlation of n independent pairs has deviation 1/sqrt(n)
        assert abs(np.corrcoef(left, right)[0, 1]) < 4 / 100_000**0.5


def test_secure_noise_differs_between_calls():
    source = secure_source()
    draws = [gaussian(source, (100,), standard_deviation=1.0) for _ in range(2)]
    assert not set(draws[0].tolist()) & set(draws[1].tolist())


@pytest.mark.parametrize("shape", [(), (0,), (1,), (3, 5), (2, 0, 4)])
def test_noise_has_the_shape_asked_for(source, shape):
    assert gaussian(source, shape, standard_deviation=1.0).shape == shape


def test_the_smallest_uniform_gives_a_finite_draw(monkeypatch, source):
    monkeypatch.setattr(source, "uniform_words", lambda num: np.zeros(num, dtype=np.uint64))
    # u = 2^-53: sqrt(2 * 53 * ln 2) = 8.5717, the largest draw there is
    assert gaussian(source, (1,), standard_deviation=1.0).item() == pytest.approx(8.5717, abs=1e-4)


def test_sums_lie_on_a_grid_that_does_not_depend_on_the_values(source):
    values = torch.randn(10_000, generator=torch.Generator().manual_seed(0)) * 1e-4
    noisy = add_gaussian(source, values, standard_deviation=0.75)
    # deviation .75 lies between 2^-1 and 1: the step is 2^-1 * 2^-34
    steps = noisy * 2.0**35
    assert torch.equal(steps, steps.round())
    assert (steps % 2 == 1).any()


def test_added_noise_is_the_noise_drawn_and_values_stay_within_a_grid_step(source):
    values = torch.linspace(-5, 5, 1001)
    noisy = add_gaussian(source, values, standard_deviation=1.0)
    again = insecure_source(1, insecure_for_reproduction=True)
    noise = gaussian(again, (1001,), standard_deviation=1.0)
    assert (noisy - noise - values.double()).abs().max() <= 2.0**-35


@pytest.mark.parametrize("deviation", [0.0, -1.0, float("nan"), float("inf")])
def test_noise_without_a_deviation_is_refused(source, deviation):
    with pytest.raises(ConfigError, match="standard_deviation"):
        gaussian(source, (3,), standard_deviation=deviation)


def test_coins_of_rate_one_and_zero_are_certain(source):
    assert bernoulli(source, 1000, rate=1.0).all()
    assert not bernoulli(source, 1000, rate=0.0).any()


def test_a_coin_compares_its_word_with_the_rate(monkeypatch, source):
    words = np.array([2**62 - 1, 2**62, 0, 2**64 - 1], dtype=np.uint64)
    monkeypatch.setattr(source, "uniform_words", lambda num: words[:num])
    # 2^62 of 2^64 is a quarter; words below it are heads
    assert bernoulli(source, 4, rate=0.25).tolist() == [True, False, True, False]


@pytest.mark.parametrize("rate", [-0.1, 1.1, float("nan")])
def test_rates_that_are_no_probability_are_refused(source, rate):
    with pytest.raises(ConfigError, match="probability"):
        bernoulli(source, 3, rate=rate)
