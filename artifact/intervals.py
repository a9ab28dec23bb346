"""The two intervals that tolerances and orderings rest on (both at 95 %, Student's t).

`prediction_interval` says where ONE further run is expected; `mean_interval` where the mean lies.
"""

from collections.abc import Sequence

import numpy as np
from scipy import stats

from privimage.errors import UserError

CONFIDENCE = 0.95


def prediction_interval(values: Sequence[float]) -> tuple[float, float]:
    """Mean ± t·s·√(1 + 1/n): where the next run falls with 95 % confidence."""
    return _interval(values, factor=float(np.sqrt(1 + 1 / len(values))) if values else 0.0)


def mean_interval(values: Sequence[float]) -> tuple[float, float]:
    """Mean ± t·s/√n: where the mean of many runs lies with 95 % confidence."""
    return _interval(values, factor=1 / float(np.sqrt(len(values))) if values else 0.0)


def _interval(values: Sequence[float], *, factor: float) -> tuple[float, float]:
    if len(values) < 2:
        raise UserError(f"an interval of {len(values)} values; give at least 2")
    mean, deviation = float(np.mean(values)), float(np.std(values, ddof=1))
    quantile = float(stats.t.ppf((1 + CONFIDENCE) / 2, df=len(values) - 1))
    return mean - quantile * deviation * factor, mean + quantile * deviation * factor
