"""A lower bound on epsilon, from how well an attacker guesses which canaries a release was made of.

The audit of Steinke, Nasr and Jagielski (2023), "Privacy Auditing with One (1) Training Run": each
canary is in or out by its own fair coin, the attacker sees the release and guesses some coins, and
(epsilon, delta)-DP limits how many guesses can be right. A bound above the claimed epsilon
disproves the claim at its confidence; one below it proves nothing. Canaries are made up: nothing
here is private.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float
from scipy.special import expit
from scipy.stats import binom

from privimage.errors import ConfigError

CONFIDENCE = 0.95
# Guesses that are made, as shares of the canaries: fixed beforehand, for choosing the best of many
# would have to be paid for. Few certain guesses see a weak signal best, many a strong one; not all,
# since coins do not fall in equal halves.
GUESS_SHARES = (0.1, 0.3, 0.9)


@dataclass(frozen=True)
class AuditResult:
    """What was claimed, and what the guesses show: epsilon is at least `lower_bound`, with
    `confidence`.
    """

    claimed_epsilon: float
    lower_bound: float
    confidence: float
    canaries: int
    guesses: int
    correct: int

    @property
    def disproves_claim(self) -> bool:
        """True if the release cannot be as private as claimed."""
        return self.lower_bound > self.claimed_epsilon


def judge_guesses(
    scores: Sequence[Float[np.ndarray, " canary"]],
    is_in: Bool[np.ndarray, " canary"],
    *,
    claimed_epsilon: float,
    delta: float,
    confidence: float = CONFIDENCE,
) -> AuditResult:
    """The best lower bound over all scores and all of GUESS_SHARES.

    A score orders the canaries by how likely they are in; it may know the release, never the coins
    `is_in`. The highest are guessed to be in, as many of the lowest to be out, the rest abstain.
    Every pair of score and share is a test of its own, and they share what may go wrong
    (Bonferroni), so that the confidence holds for the best of them.
    """
    num_tests = len(scores) * len(GUESS_SHARES)
    results = []
    for score in scores:
        order = np.argsort(score, kind="stable")
        for share in GUESS_SHARES:
            half = max(1, int(share * len(order) / 2))
            correct = int(is_in[order[-half:]].sum() + (~is_in[order[:half]]).sum())
            bound = epsilon_lower_bound(
                correct=correct,
                guesses=2 * half,
                canaries=len(order),
                delta=delta,
                confidence=1 - (1 - confidence) / num_tests,
            )
            results.append(
                AuditResult(claimed_epsilon, bound, confidence, len(order), 2 * half, correct)
            )
    return max(results, key=lambda result: result.lower_bound)


def epsilon_lower_bound(
    *, correct: int, guesses: int, canaries: int, delta: float, confidence: float
) -> float:
    """The largest epsilon that `correct` right guesses reject at `confidence`; 0 if there is none.

    `guesses` must not depend on the release; which canaries are guessed may.
    """
    if not 0 <= correct <= guesses <= canaries:
        raise ConfigError(
            f"{correct} correct of {guesses} guesses about {canaries} canaries; "
            "give 0 <= correct <= guesses <= canaries"
        )
    if not (0 <= delta < 1 and 0 < confidence < 1):
        raise ConfigError(
            f"delta {delta:g} and confidence {confidence:g}; give a delta in [0, 1) "
            "and a confidence in (0, 1)"
        )

    def is_rejected(epsilon: float) -> bool:
        p = p_value(epsilon, correct=correct, guesses=guesses, canaries=canaries, delta=delta)
        return p < 1 - confidence

    if not is_rejected(0.0):
        return 0.0
    low, high = 0.0, 1.0
    while is_rejected(high):
        low, high = high, 2 * high
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if is_rejected(middle) else (low, middle)
    return low


def p_value(epsilon: float, *, correct: int, guesses: int, canaries: int, delta: float) -> float:
    """An upper bound on the chance of so many right guesses under (epsilon, delta)-DP.

    Without delta each guess is right with probability at most e^epsilon / (1 + e^epsilon), as
    independent coins are; delta adds 2 m delta alpha, alpha = max_i P[v > Binomial >= v - i] / i
    (Theorem 5.2 there).
    """
    coins = binom(guesses, expit(epsilon))
    tail = float(coins.sf(correct - 1))  # P[Binomial >= v]
    if correct == 0 or delta == 0:
        return tail
    steps = np.arange(1, correct + 1)
    below = coins.cdf(correct - 1) - coins.cdf(correct - 1 - steps)
    return min(1.0, tail + 2 * canaries * delta * float((below / steps).max()))
