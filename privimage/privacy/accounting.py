"""Epsilon of composed Gaussian mechanisms, and the noise that a budget allows (docs/method.md, 6).

Two accountants: RDP (Mironov 2017; Mironov, Talwar and Zhang 2019), the one of the paper, and PLD
(dp-accounting), a tighter upper bound. Unit one image, adjacency add or remove one image, sampling
by independent coins. No private data: everything here is a function of public settings.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
from dp_accounting import NeighboringRelation, get_epsilon_gaussian
from dp_accounting.pld import privacy_loss_distribution as pld

from privimage.errors import BudgetError, ConfigError

Accountant = Literal["rdp", "pld"]
# The paper's orders (1.1 to 10.9, 12 to 63) and a ladder above them, for epsilons below 0.2.
RDP_ORDERS = (
    *(1 + tenths / 10 for tenths in range(1, 100)),
    *(float(order) for order in range(12, 64)),
    *(2.0**octave * (1 + eighth / 8) for octave in range(6, 15) for eighth in range(8)),
)
LARGEST_SAMPLED_ORDER = 1024.0  # above it the benefit of sampling is given away
FIRST_MULTIPLIER = 20.0  # where the published search starts
LARGEST_MULTIPLIER = 1e7


@dataclass(frozen=True)
class Mechanism:
    """`count` Gaussian mechanisms, each over a Poisson sample of rate `sampling_rate` (1: over
    all).

    The noise's standard deviation is `noise_multiplier` times the L2 sensitivity of what is
    released.
    """

    noise_multiplier: float
    sampling_rate: float
    count: int

    def __post_init__(self) -> None:
        if not (self.noise_multiplier > 0 and math.isfinite(self.noise_multiplier)):
            raise ConfigError(
                f"noise_multiplier is {self.noise_multiplier}; give a finite number above 0"
            )
        if not 0 < self.sampling_rate <= 1:
            raise ConfigError(f"sampling_rate is {self.sampling_rate}; give a rate in (0, 1]")
        if self.count < 1:
            raise ConfigError(f"count is {self.count}; give a whole number of at least 1")


def compute_epsilon(
    mechanisms: Sequence[Mechanism], *, delta: float, accountant: Accountant
) -> float:
    """Epsilon of all mechanisms together at `delta`, by the accountant named."""
    account = {"rdp": rdp_epsilon, "pld": pld_epsilon}[accountant]
    return account(mechanisms, delta=delta)


def rdp_epsilon(
    mechanisms: Sequence[Mechanism], *, delta: float, allowed: Sequence[float] = RDP_ORDERS
) -> float:
    """Sum of the Renyi divergences, converted by Canonne, Kamath and Steinke (2020), Prop. 12, at
    the best of the `allowed` orders of RDP_ORDERS.
    """
    _check_delta(delta)
    if not mechanisms:
        return 0.0
    orders = np.array(RDP_ORDERS)
    rdp = sum(m.count * _rdp_curve(m.noise_multiplier, m.sampling_rate) for m in mechanisms)
    epsilons = rdp + np.log1p(-1 / orders) - (math.log(delta) + np.log(orders)) / (orders - 1)
    return max(0.0, float(epsilons[np.isin(orders, allowed)].min()))


def pld_epsilon(mechanisms: Sequence[Mechanism], *, delta: float) -> float:
    """Composition of the privacy loss distributions themselves; discretised so that it never
    understates.
    """
    _check_delta(delta)
    return _pld_epsilon(tuple(mechanisms), delta) if mechanisms else 0.0


def pld_delta(mechanisms: Sequence[Mechanism], *, epsilon: float) -> float:
    """Delta of the same composition at `epsilon`; at 0 it is the total variation distance."""
    return float(_composed(mechanisms).get_delta_for_epsilon(epsilon)) if mechanisms else 0.0


def gaussian_epsilon(noise_multiplier: float, *, delta: float) -> float:
    """Exact epsilon of one Gaussian mechanism (Balle and Wang 2018, Theorem 8), rounded up."""
    _check_delta(delta)
    with np.errstate(divide="ignore"):  # its first guess is far off for multipliers above 10,000
        found = get_epsilon_gaussian(noise_multiplier, delta, tol=1e-12)
    return found * (1 + 1e-12) + 1e-12


def calibrate_noise_multiplier(
    spent: Sequence[Mechanism],
    *,
    sampling_rate: float,
    count: int,
    epsilon: float,
    delta: float,
    accountant: Accountant,
    tolerance: float = 1e-4,
) -> float:
    """A noise multiplier for `count` steps that, with `spent`, costs at most `epsilon`, by
    `tolerance` at most less.

    The published search: doubled from 20 until epsilon holds, then bisected until epsilon is met
    within the tolerance; .01 gives the paper's own values, which a library's root finder would
    miss. BudgetError when what is spent leaves nothing.
    """

    def cost(multiplier: float) -> float:
        steps = Mechanism(multiplier, sampling_rate, count)
        return compute_epsilon((*spent, steps), delta=delta, accountant=accountant)

    start, low = FIRST_MULTIPLIER, 0.0
    if accountant == "pld" and rdp_epsilon(spent, delta=delta) < epsilon:
        # the RDP answer is a close bound from above; PLD far below it would take long
        start = calibrate_noise_multiplier(
            spent,
            sampling_rate=sampling_rate,
            count=count,
            epsilon=epsilon,
            delta=delta,
            accountant="rdp",
        )
        low = 0.75 * start if cost(0.75 * start) > epsilon else 0.0
    high = _double_until(cost, epsilon, start=start)
    if high is None:
        already = compute_epsilon(spent, delta=delta, accountant=accountant)
        raise BudgetError(
            f"epsilon {epsilon:g} at delta {delta:g} ({accountant}) leaves too little for {count} "
            f"steps: {already:.4g} goes before them; raise epsilon or the noise of what goes before"
        )
    return _bisect(cost, epsilon, low=low, high=high, tolerance=tolerance)


def _double_until(cost: Callable[[float], float], epsilon: float, *, start: float) -> float | None:
    multiplier = start
    while cost(multiplier) > epsilon:
        multiplier *= 2
        if multiplier > LARGEST_MULTIPLIER:
            return None
    return multiplier


def _bisect(
    cost: Callable[[float], float], epsilon: float, *, low: float, high: float, tolerance: float
) -> float:
    reached = cost(high)
    while epsilon - reached > tolerance and low < (middle := (low + high) / 2) < high:
        if (middle_cost := cost(middle)) <= epsilon:
            high, reached = middle, middle_cost
        else:
            low = middle
    return high


@lru_cache(maxsize=64)
def _rdp_curve(noise_multiplier: float, sampling_rate: float) -> np.ndarray:
    """Renyi divergence of one use at every order a, from E[((1-q) + q exp((2z-1)/(2 s^2)))^a].

    z is N(0, s^2) (Mironov, Talwar and Zhang 2019, section 3.3). The integrand is analytic and
    falls off like a Gaussian outside 0 to a, so that the trapezoidal rule with steps of s/8 is
    exact to machine precision. Above LARGEST_SAMPLED_ORDER: the bound a / (2 s^2) of the unsampled
    mechanism.
    """
    orders = np.array(RDP_ORDERS)
    divergences = orders / (2 * noise_multiplier**2)
    if sampling_rate == 1.0:
        return divergences
    reach, step = 12 * noise_multiplier, noise_multiplier / 8
    z = np.arange(-reach, LARGEST_SAMPLED_ORDER + reach, step)
    log_ratio = np.logaddexp(
        math.log1p(-sampling_rate),
        math.log(sampling_rate) + (2 * z - 1) / (2 * noise_multiplier**2),
    )
    log_weights = -0.5 * (z / noise_multiplier) ** 2 - math.log(8 * math.sqrt(2 * math.pi))
    for i, order in enumerate(orders[orders <= LARGEST_SAMPLED_ORDER]):
        end = np.searchsorted(z, order + reach)
        log_terms = order * log_ratio[:end] + log_weights[:end]
        largest = log_terms.max()
        log_moment = largest + math.log(np.exp(log_terms - largest).sum())
        divergences[i] = log_moment / (order - 1)
    return divergences


def _composed(mechanisms: Sequence[Mechanism]) -> pld.PrivacyLossDistribution:
    first, *others = (_loss_distribution(mechanism) for mechanism in mechanisms)
    for other in others:
        first = first.compose(other)
    return first


@lru_cache(maxsize=256)  # of a tenth of a second; a record and a statement ask for the same one
def _pld_epsilon(mechanisms: tuple[Mechanism, ...], delta: float) -> float:
    return float(_composed(mechanisms).get_epsilon_for_delta(delta))


@lru_cache(maxsize=16)
def _loss_distribution(mechanism: Mechanism) -> pld.PrivacyLossDistribution:
    once = pld.from_gaussian_mechanism(
        standard_deviation=mechanism.noise_multiplier,
        sampling_prob=mechanism.sampling_rate,
        pessimistic_estimate=True,
        neighboring_relation=NeighboringRelation.ADD_OR_REMOVE_ONE,
    )
    return once if mechanism.count == 1 else once.self_compose(mechanism.count)


def _check_delta(delta: float) -> None:
    if not 0 < delta < 1:
        raise ConfigError(f"delta is {delta}; give a number between 0 and 1")
