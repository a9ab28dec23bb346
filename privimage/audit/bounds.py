"""A lower bound on epsilon, from how often an attacker guesses right whether a canary was in.

Runs are independent, and each has a fair coin of its own for its canary. If a mechanism is as
private as the Gaussian one of some noise multiplier (f-DP; Dong, Roth and Su 2022), then each guess
is right with probability at most (1 + TV) / 2, TV being the total variation distance of that
mechanism's releases with and without an image: delta at epsilon 0. So many right guesses reject
noise multipliers, the largest first; the smallest that they reject says how much epsilon there is
at least (hypothesis tests on f-DP curves: Nasr et al. 2023; Mahloujifar et al. 2024).
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache

from scipy.stats import binom

from privimage.errors import ConfigError
from privimage.privacy.accounting import Mechanism, pld_delta, pld_epsilon

CONFIDENCE = 0.95
SURE = 1 - 1e-6  # a tight bound of 95 % exceeds the truth in one of twenty audits of intact code
LARGEST_NOISE, PRECISION = 2.0**10, 1.005  # of the multipliers that are tried


@dataclass(frozen=True)
class AuditResult:
    """What was claimed, and what the guesses show: epsilon is at least `lower_bound`, with
    `confidence`, and at least `sure_bound`, with confidence SURE.
    """

    claimed_epsilon: float
    lower_bound: float
    sure_bound: float
    confidence: float
    runs: int
    correct: int

    @property
    def disproves_claim(self) -> bool:
        """True if the releases cannot be as private as claimed."""
        return self.sure_bound > self.claimed_epsilon


def judge_guesses(claimed: Mechanism, *, correct: int, runs: int, delta: float) -> AuditResult:
    """The claim of a mechanism beside what `correct` right guesses in `runs` show of it."""
    bound, sure_bound = (
        epsilon_lower_bound(claimed, correct=correct, runs=runs, delta=delta, confidence=sure)
        for sure in (CONFIDENCE, SURE)
    )
    epsilon = pld_epsilon((claimed,), delta=delta)
    return AuditResult(epsilon, bound, sure_bound, CONFIDENCE, runs, correct)


def epsilon_lower_bound(
    claimed: Mechanism, *, correct: int, runs: int, delta: float, confidence: float
) -> float:
    """The epsilon at `delta` of the smallest noise multiplier that the guesses reject; 0 if none.

    Sampling rate and number of uses are those of `claimed`; its noise multiplier does not matter.
    """
    if not 0 <= correct <= runs or runs < 1:
        raise ConfigError(f"{correct} correct of {runs} guesses; give 0 <= correct <= runs")
    if not (0 < delta < 1 and 0 < confidence < 1):
        raise ConfigError(
            f"delta {delta:g} and confidence {confidence:g}; give both between 0 and 1"
        )

    def is_rejected(multiplier: float) -> bool:
        chance = largest_chance(replace(claimed, noise_multiplier=multiplier))
        return float(binom.sf(correct - 1, runs, chance)) < 1 - confidence

    smallest = _smallest(is_rejected)
    if smallest is None:
        return 0.0
    return pld_epsilon((replace(claimed, noise_multiplier=smallest),), delta=delta)


@lru_cache(maxsize=1024)  # bounds of many counts try the same multipliers
def largest_chance(mechanism: Mechanism) -> float:
    """With which probability the best guess at a fair coin is right at most."""
    return (1 + pld_delta((mechanism,), epsilon=0.0)) / 2


def _smallest(is_rejected: Callable[[float], bool]) -> float | None:
    """The smallest multiplier that is rejected, to within PRECISION from above; the chance of right
    guesses falls with the noise, so all above it are.
    """
    if not is_rejected(LARGEST_NOISE):
        return None
    low, high = 0.0, LARGEST_NOISE
    while high > 2.0**-6 and is_rejected(high / 2):
        high /= 2
    low = high / 2
    while high / low > PRECISION:
        middle = (low * high) ** 0.5
        low, high = (low, middle) if is_rejected(middle) else (middle, high)
    return high
