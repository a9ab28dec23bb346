"""The results that a claim is judged by, each with its tolerance and the source of both.

One YAML a claim under `expected_results/`. A value has a band (`mean`, `low`, `high`) or a bound
(`at_most` or `at_least`), and a `key`: the entries of a record that must agree for the two numbers
to be the same metric (data, epsilon, model, number of images). A tolerance without a source is an
error.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from artifact.claims.registry import Better, Claim, Margin, Source, claims_root, read_mapping
from privimage.errors import ConfigError
from privimage.settings.validation import validated


@dataclass(frozen=True)
class ExpectedValue:
    """A number: inside [low, high] or on its better side; or never beyond a bound."""

    metric: str
    arm: str
    better: Better
    source: Source
    mean: float | None = None
    low: float | None = None
    high: float | None = None
    at_most: float | None = None
    at_least: float | None = None
    key: dict[str, Any] | None = None

    def problems(self) -> Iterator[str]:
        given = [number is not None for number in (self.mean, self.low, self.high)]
        bounds = [("at_most", self.at_most, "lower"), ("at_least", self.at_least, "higher")]
        for name, bound, better in bounds:
            if bound is not None and (any(given) or self.better != better):
                yield f"{name} goes with better: {better}, and without mean, low and high"
        if not self.is_bound and not all(given):
            yield "mean, low and high: give all three, or at_most alone, or at_least"
        elif not self.is_bound and not self.low <= self.mean <= self.high:  # type: ignore[operator]
            yield f"mean {self.mean} is not between low {self.low} and high {self.high}"

    @property
    def band(self) -> tuple[float, float]:
        """(low, high); a bound is open on its better side."""
        low = self.low if self.at_least is None else self.at_least
        high = self.high if self.at_most is None else self.at_most
        return -math.inf if low is None else low, math.inf if high is None else high

    def accepts(self, value: float) -> bool:
        """Direction-aware: a value that is better than the band is accepted."""
        low, high = self.band
        return (value >= low or self.better == "lower") and (
            value <= high or self.better == "higher"
        )

    def is_beyond(self, value: float) -> bool:
        """True if the value lies outside the band, on the better side."""
        low, high = self.band
        return self.accepts(value) and not low <= value <= high

    @property
    def is_bound(self) -> bool:
        """True if every run must keep it, not their mean."""
        return self.at_most is not None or self.at_least is not None

    @property
    def is_firm(self) -> bool:
        """Bounds and exact values do not depend on hardware or luck: missing one is no trend."""
        return self.is_bound or self.better == "exact"


@dataclass(frozen=True)
class ExpectedOrdering:
    """Arm `first` does better than arm `second`, or not worse by more than `margin`; by seed."""

    metric: str
    better: Literal["higher", "lower"]
    first: str
    second: str
    source: Source
    margin: Margin = 0.0


@dataclass(frozen=True)
class ExpectedSelection:
    """At least so many sensitive classes get a public class that looks like them."""

    name: Literal["look_alikes"]
    at_least: int
    source: Source


@dataclass(frozen=True)
class ExpectedSetting:
    """Everything expected at one setting, and the runs that it comes from."""

    seeds: tuple[int, ...]
    hardware: str
    values: tuple[ExpectedValue, ...]
    orderings: tuple[ExpectedOrdering, ...]
    selection: tuple[ExpectedSelection, ...]


@dataclass(frozen=True)
class ExpectedResults:
    """A whole file."""

    claim: str
    settings: dict[str, ExpectedSetting]


def expected_path(claim_id: str, root: Path | None = None) -> Path:
    """`expected_results/<claim>.yaml`, beside the folder of the claims."""
    return (root or claims_root().parent / "expected_results") / f"{claim_id}.yaml"


def load_expected(claim: Claim, root: Path | None = None) -> dict[str, ExpectedSetting]:
    """What is expected of a claim, by setting; empty while there is no such file."""
    path = expected_path(claim.id, root)
    if not path.exists():
        return {}
    document = read_mapping(path)
    results = validated(ExpectedResults, document, where=path, known=_foreign(claim, document))
    faults = [*_unknown_arms(claim, results)]
    if faults:
        raise ConfigError(f"{path}: " + "; ".join(faults))
    return results.settings


def _foreign(claim: Claim, document: dict[str, Any]) -> Iterator[str]:
    if document.get("claim", claim.id) != claim.id:
        yield f"claim is {document['claim']!r}, but the file is of {claim.id!r}"
    settings = document.get("settings")
    for name in settings if isinstance(settings, dict) else ():
        if name not in claim.settings:
            yield f"settings.{name}: unknown; allowed are {', '.join(claim.settings)}"


def _unknown_arms(claim: Claim, results: ExpectedResults) -> Iterator[str]:
    for name, setting in results.settings.items():
        arms = claim.settings[name].arms
        used = [("values", i, value.arm) for i, value in enumerate(setting.values)]
        for i, ordering in enumerate(setting.orderings):
            used += [("orderings", i, ordering.first), ("orderings", i, ordering.second)]
        for key, i, arm in used:
            if arm not in arms:
                yield f"settings.{name}.{key}[{i}]: no arm {arm!r}; allowed are {', '.join(arms)}"
        if setting.selection and not claim.look_alikes:
            yield f"settings.{name}.selection: the claim names no look_alikes"
