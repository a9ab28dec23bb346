"""Poisson sampling: independent coins, nothing of fixed size."""

import numpy as np
import pytest
import torch

from privimage.privacy.rng import insecure_source, secure_source
from privimage.privacy.sampling import poisson_sample

NUM_EXAMPLES, NUM_ROUNDS, RATE = 50, 4000, 0.3


@pytest.fixture(scope="module")
def membership() -> np.ndarray:
    """One row per round, one column per image: was it drawn?"""
    source = insecure_source(3, insecure_for_reproduction=True)
    rows = np.zeros((NUM_ROUNDS, NUM_EXAMPLES))
    for row in rows:
        row[poisson_sample(source, NUM_EXAMPLES, rate=RATE).numpy()] = 1
    return rows


def test_every_image_is_drawn_at_the_rate(membership):
    # deviation of a frequency: sqrt(.3*.7/4000) = .0072; 50 images, so allow 4 of them
    assert np.abs(membership.mean(0) - RATE).max() < 4 * 0.0072


def test_batch_sizes_vary_like_a_binomial(membership):
    # variance 50*.3*.7 = 10.5; its estimate from 4000 rounds has deviation 10.5*sqrt(2/4000) = .23
    assert membership.sum(1).var() == pytest.approx(10.5, abs=4 * 0.23)


def test_images_are_drawn_independently_of_each_other_and_of_the_round_before(membership):
    # correlations of 4000 rounds have deviation .0158; 1225 pairs, so allow 4.5 of them
    among = np.corrcoef(membership.T) - np.eye(NUM_EXAMPLES)
    across = np.corrcoef(membership[:-1].T, membership[1:].T)[:NUM_EXAMPLES, NUM_EXAMPLES:]
    assert np.abs(among).max() < 4.5 * 0.0158
    assert np.abs(across).max() < 4.5 * 0.0158


def test_indices_are_ascending_and_distinct():
    drawn = poisson_sample(secure_source(), 1000, rate=0.5)
    assert drawn.dtype == torch.int64
    assert (drawn.diff() > 0).all()
    assert set(drawn.tolist()) <= set(range(1000))


def test_a_batch_may_be_empty_and_rate_one_draws_all():
    assert poisson_sample(secure_source(), 10, rate=0.0).shape == (0,)
    assert poisson_sample(secure_source(), 0, rate=0.5).shape == (0,)
    assert poisson_sample(secure_source(), 10, rate=1.0).tolist() == list(range(10))
