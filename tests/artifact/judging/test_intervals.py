import math

import numpy as np
import pytest

from artifact.judging.intervals import mean_interval, prediction_interval
from privimage.errors import UserError


@pytest.mark.parametrize(("n", "factor"), [(3, 4.97), (5, 3.04), (8, 2.51)])
def test_the_prediction_interval_has_the_published_factors_of_s(n, factor):
    values = list(np.random.default_rng(0).normal(size=n))
    low, high = prediction_interval(values)
    assert (high - low) / 2 / np.std(values, ddof=1) == pytest.approx(factor, abs=0.005)
    assert (high + low) / 2 == pytest.approx(np.mean(values))


def test_the_mean_interval_is_that_of_a_table_of_t():
    # n = 3, values 1, 2, 3: s = 1, t(0.975, 2) = 4.302653, so 2 +- 4.302653 / sqrt(3)
    low, high = mean_interval([1.0, 2.0, 3.0])
    assert (low, high) == pytest.approx((2 - 4.302653 / math.sqrt(3), 2 + 4.302653 / math.sqrt(3)))


def test_the_prediction_interval_holds_the_next_value_as_often_as_it_says():
    draws = np.random.default_rng(1).normal(size=(2000, 6))
    inside = 0
    for row in draws:
        low, high = prediction_interval(row[:5].tolist())
        inside += low <= row[5] <= high
    assert inside / 2000 == pytest.approx(0.95, abs=0.02)  # four standard errors of a share


@pytest.mark.parametrize("values", [[], [1.0]])
def test_an_interval_needs_two_values(values):
    with pytest.raises(UserError, match="at least 2"):
        prediction_interval(values)


def test_bands_of_several_metrics_hold_the_next_run_together_as_often_as_one_would():
    draws = np.random.default_rng(2).normal(size=(2000, 5, 9))
    inside = 0
    for run in draws:
        bands = [prediction_interval(m[:8].tolist(), num_metrics=5) for m in run]
        inside += all(low <= m[8] <= high for (low, high), m in zip(bands, run, strict=True))
    # independent metrics: 0.99^5 = 0.951; the standard error of the share is 0.005
    assert inside / 2000 == pytest.approx(0.951, abs=0.02)
