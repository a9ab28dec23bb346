"""The promise and how it is kept: (epsilon, delta) for all mechanisms of a run together.

The queries come first, with the noise that was chosen for them; the noise of DP-SGD is calibrated
from what they leave. Unit: one image; adjacency: add or remove one image. Nothing here is private.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from privimage.privacy.accounting import Accountant, Mechanism, calibrate_noise_multiplier
from privimage.privacy.dp_sgd import DP_SGD
from privimage.privacy.ledger import LedgerTerms, PrivacyLedger
from privimage.privacy.moments import MOMENTS
from privimage.privacy.query import QUERY, query_mechanism
from privimage.privacy.rng import RandomSource


@dataclass(frozen=True, kw_only=True)
class PrivacyPlan:
    """What is promised, and the mechanisms that will be charged, by the names they are charged as.

    Guarantee:
        The mechanisms together are (epsilon, delta)-differentially private as `accountant` counts
        them; the ledger refuses any other use of the images.
    """

    epsilon: float
    delta: float
    accountant: Accountant
    mechanisms: Mapping[str, Mechanism]

    @classmethod
    def calibrated(
        cls,
        *,
        epsilon: float,
        delta: float,
        sampling_rate: float,
        num_steps: int,
        query_noise_multiplier: float | None = None,
        moments_noise_multiplier: float | None = None,
        accountant: Accountant = "rdp",
    ) -> "PrivacyPlan":
        """The smallest DP-SGD noise that keeps the queries (those that are asked) and training
        within the promise; BudgetError if there is none.
        """
        mechanisms = {}
        if query_noise_multiplier is not None:
            mechanisms[QUERY] = query_mechanism(query_noise_multiplier)
        if moments_noise_multiplier is not None:
            mechanisms[MOMENTS] = query_mechanism(moments_noise_multiplier)
        multiplier = calibrate_noise_multiplier(
            tuple(mechanisms.values()),
            sampling_rate=sampling_rate,
            count=num_steps,
            epsilon=epsilon,
            delta=delta,
            accountant=accountant,
        )
        mechanisms[DP_SGD] = Mechanism(multiplier, sampling_rate, num_steps)
        return cls(epsilon=epsilon, delta=delta, accountant=accountant, mechanisms=mechanisms)

    def open_ledger(
        self, path: Path | None, *, data_id: str, random_source: RandomSource
    ) -> PrivacyLedger:
        """The ledger of this promise, new or as it was left; RunFolderError for another promise."""
        terms = LedgerTerms(
            epsilon=self.epsilon,
            delta=self.delta,
            accountant=self.accountant,
            data_id=data_id,
            random_source=random_source,
        )
        return PrivacyLedger.load_or_create(path, terms)

    def reserve(self, ledger: PrivacyLedger) -> None:
        """Set the budget of every mechanism aside, before any image is used."""
        for name, mechanism in self.mechanisms.items():
            ledger.reserve(name, mechanism)
