"""The two intervals that tolerances and orderings rest on (95 %, Student's t).

`prediction_interval` says where ONE further run is expected; `mean_interval` where the mean lies.
"""

from collections.abc import Sequence
from math import sqrt

from privimage.errors import UserError

CONFIDENCE = 0.95


def prediction_interval(values: Sequence[float], *, num_metrics: int = 1) -> tuple[float, float]:
    """Mean ± t·s·√(1 + 1/n): where the next run falls with 95 % confidence.

    A run that is judged by several metrics must not fail by chance more often than by one: with
    `num_metrics` each band takes its share of the 5 % (Bonferroni), so that all of them together
    hold the next run with at least 95 % confidence.
    """
    factor = sqrt(1 + 1 / len(values)) if values else 0.0
    return _interval(values, factor=factor, confidence=1 - (1 - CONFIDENCE) / num_metrics)


def mean_interval(values: Sequence[float]) -> tuple[float, float]:
    """Mean ± t·s/√n: where the mean of many runs lies with 95 % confidence."""
    factor = 1 / sqrt(len(values)) if values else 0.0
    return _interval(values, factor=factor, confidence=CONFIDENCE)


def _interval(values: Sequence[float], *, factor: float, confidence: float) -> tuple[float, float]:
    if len(values) < 2:
        raise UserError(f"an interval of {len(values)} values; give at least 2")
    import numpy as np  # not above: no other part of `artifact list` and `show` needs them
    from scipy.special import stdtrit

    mean, deviation = float(np.mean(values)), float(np.std(values, ddof=1))
    quantile = float(stdtrit(len(values) - 1, (1 + confidence) / 2))
    return mean - quantile * deviation * factor, mean + quantile * deviation * factor
