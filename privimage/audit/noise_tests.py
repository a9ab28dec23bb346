"""Is it the noise that it should be? Tests of released steps against independent normal draws.

A step is a dict of tensors: what was released, in deviations of the noise that it should hold. The
true gradient in it must be negligible: under a few hundredths of a deviation a tensor. A result is
a p-value: how likely a deviation as large as the one seen is for noise that is right, with all that
was looked at paid for (Bonferroni).
"""

import itertools
from collections.abc import Iterable, Sequence

import numpy as np
import torch
from jaxtyping import Float
from scipy import stats
from torch import Tensor

Steps = Sequence[dict[str, Tensor]]
MOST_FOR_LAW = 400_000  # draws that the law is tested on


def noise_p_values(runs: Sequence[Steps]) -> dict[str, float]:
    """By what was looked at: `deviation` of every tensor, step and run; `law`; `independence` of
    places within a step, of tensors, and of steps and runs.
    """
    steps = [step for run in runs for step in run]
    flat = np.stack([_flat(step) for step in steps])  # step, place
    return {
        "deviation": worst(_deviations(steps)),
        "law": worst(_laws(flat.ravel()[:MOST_FOR_LAW])),
        "independence": worst(
            itertools.chain(_between_places(flat), _between_tensors(steps), _between_rows(flat))
        ),
    }


def worst(p_values: Iterable[float]) -> float:
    """The smallest, times how many there are; at most 1."""
    found = list(p_values)
    return float(min(1.0, min(found) * len(found)))


def variance_p_value(draws: Float[np.ndarray, " num"]) -> float:
    """Two-sided, of the mean square of standard normal draws."""
    total = float((draws**2).sum())
    law = stats.chi2(len(draws))
    return 2 * float(min(law.cdf(total), law.sf(total)))


def correlation_p_value(a: np.ndarray, b: np.ndarray) -> float:
    """Two-sided, of the correlation of independent standard normal draws."""
    products = float((a * b).sum()) / len(a) ** 0.5  # mean 0, variance 1
    return 2 * float(stats.norm.sf(abs(products)))


def _flat(step: dict[str, Tensor]) -> np.ndarray:
    return torch.cat([value.flatten() for value in step.values()]).double().numpy()


def _deviations(steps: Steps) -> Iterable[float]:
    """Of each tensor over all steps, and of each step over all tensors."""
    for name in steps[0]:
        yield variance_p_value(
            np.concatenate([step[name].double().numpy().ravel() for step in steps])
        )
    for step in steps:
        yield variance_p_value(_flat(step))


def _laws(draws: np.ndarray) -> Iterable[float]:
    """Kolmogorov and Smirnov's distance for the middle, counts for the tails."""
    yield float(stats.kstest(draws, stats.norm.cdf).pvalue)
    for reach in (2.5, 3.0, 3.5, 4.0):
        beyond, chance = int((abs(draws) > reach).sum()), 2 * float(stats.norm.sf(reach))
        yield float(stats.binomtest(beyond, len(draws), chance).pvalue)


def _between_places(flat: np.ndarray) -> Iterable[float]:
    """Neighbours, both as they are and squared (a common scale would show there)."""
    for lag in (1, 2, 3):
        left, right = flat[:, lag:].ravel(), flat[:, :-lag].ravel()
        yield correlation_p_value(left, right)
        squares = (left**2 - 1) * (right**2 - 1) / 2  # mean 0, variance 1
        yield 2 * float(stats.norm.sf(abs(squares.sum()) / len(squares) ** 0.5))


def _between_tensors(steps: Steps) -> Iterable[float]:
    """The first numbers of any two tensors: a generator that starts again gives them the same."""
    firsts = {
        name: np.stack([step[name].double().numpy().ravel()[:64] for step in steps])
        for name in steps[0]
    }
    for one, other in itertools.combinations(firsts.values(), 2):
        num = min(one.shape[1], other.shape[1])
        yield correlation_p_value(one[:, :num].ravel(), other[:, :num].ravel())


def _between_rows(flat: np.ndarray) -> Iterable[float]:
    """Any two steps, of one run or of two."""
    for one, other in itertools.combinations(range(len(flat)), 2):
        yield correlation_p_value(flat[one], flat[other])
