"""The two random sources, and the coins of Poisson sampling drawn from them."""

import numpy as np
import pytest

from privimage.errors import ConfigError
from privimage.privacy import rng
from privimage.privacy.rng import bernoulli, insecure_source, secure_source


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
    source.stream("dp_sgd", 2).uniform_words(7)
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
