"""From recorded runs to expected results: the bands that later runs are judged by.

A measured value gets the 95 % prediction interval of at least five seeds, an exact one a numerical
tolerance, a count one step below the worst run seen. Every entry names its source.
"""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from artifact.claims import Claim, read_mapping
from artifact.intervals import mean_interval, prediction_interval
from artifact.records import ClaimRecord
from artifact.selection import num_look_alikes
from privimage.durable import write_durably
from privimage.errors import UserError

MIN_SEEDS = 5
EXACT_TOLERANCE = 1e-6  # relative
KEY = ("data.sensitive", "data.public", "privacy.target_epsilon", "model.num_parameters")
FRECHET_KEY = ("metrics.frechet_num_images", "metrics.frechet_reference_num_images")


def expected_from_records(
    claim: Claim, setting_name: str, records: Sequence[ClaimRecord]
) -> dict[str, Any]:
    """One setting's section of the YAML; UserError with fewer than five complete seeds."""
    setting = claim.setting(setting_name)
    complete = [r for r in records if set(setting.arms) <= set(r.arms)]
    if len(complete) < MIN_SEEDS:
        raise UserError(
            f"{len(complete)} complete records of {claim.id}/{setting_name}; a band needs at least "
            f"{MIN_SEEDS} seeds: run more with --seed"
        )
    if any(record.insecure for record in complete) and not all(r.insecure for r in complete):
        raise UserError("some records have seeded noise and some have not; do not mix them")
    seeds = [record.seed for record in complete]
    hardware = ", ".join(sorted({_hardware(record) for record in complete}))
    num_bands = sum(better != "exact" for better in claim.measures.values())
    values = [
        _band(setting.main_arm, metric, better, complete, num_bands=num_bands)
        for metric, better in claim.measures.items()
    ]
    bounds = [_promise(arm, complete) for arm in setting.arms]
    return {
        "seeds": seeds,
        "hardware": hardware,
        "values": values + bounds,
        "orderings": [*_orderings(claim, complete)],
        "selection": [*_selection(claim, setting.main_arm, complete)],
    }


def write_expected(path: Path, claim: Claim, setting_name: str, section: dict[str, Any]) -> None:
    """Put the section into the claim's file; the other settings stay as they are."""
    document = read_mapping(path) if path.exists() else {"claim": claim.id, "settings": {}}
    document["settings"][setting_name] = section
    text = yaml.safe_dump(document, sort_keys=False, allow_unicode=True, width=100)
    write_durably(path, text.encode())


def _band(
    arm: str, metric: str, better: str, records: Sequence[ClaimRecord], *, num_bands: int
) -> dict[str, Any]:
    values = _values(records, arm, metric)
    mean = math.fsum(values) / len(values)
    if better == "exact":
        low, high = mean - EXACT_TOLERANCE * abs(mean), mean + EXACT_TOLERANCE * abs(mean)
        source = f"the same in {_runs(records)}; relative tolerance {EXACT_TOLERANCE:g}"
        if not all(low <= value <= high for value in values):
            raise UserError(
                f"{metric} of {arm} is measured as exact, but goes from {min(values):g} to "
                f"{max(values):g}; measure it as higher or lower"
            )
    else:
        low, high = prediction_interval(values, num_metrics=num_bands)
        digits = 4 - math.floor(math.log10(max(abs(low), abs(high), 1e-12))) - 1
        low, high = _floor(low, digits), -_floor(-high, digits)
        mean = round(mean, digits + 1)
        together = f", for {num_bands} metrics together" if num_bands > 1 else ""
        source = f"95 % prediction interval{together}, of {_runs(records)}"
    entry = {"metric": metric, "arm": arm, "better": better, "mean": mean, "low": low, "high": high}
    return {**entry, "key": _key(arm, metric, records), "source": source}


def _promise(arm: str, records: Sequence[ClaimRecord]) -> dict[str, Any]:
    target = max(_values(records, arm, "privacy.target_epsilon"))
    return {
        "metric": "privacy.epsilon",
        "arm": arm,
        "better": "lower",
        "at_most": target,
        "source": "the epsilon promised in the settings",
    }


def _orderings(claim: Claim, records: Sequence[ClaimRecord]) -> Iterator[dict[str, Any]]:
    for ordering in claim.orderings:
        first = _values(records, ordering.first, ordering.metric)
        second = _values(records, ordering.second, ordering.metric)
        differences = [a - b for a, b in zip(first, second, strict=True)]
        low, high = mean_interval(differences)
        if (low <= 0) if ordering.better == "higher" else (high >= 0):
            raise UserError(
                f"{ordering.metric} of {ordering.first} is not reliably better than of "
                f"{ordering.second} (95 % interval of the difference {low:.4g} to {high:.4g}); "
                "the claim cannot be expected at this setting"
            )
        source = (
            f"paired difference in {_runs(records)}: 95 % interval {low:.4g} to {high:.4g}, "
            f"seed by seed {min(differences):.4g} to {max(differences):.4g}"
        )
        yield {**vars(ordering), "source": source}


def _selection(
    claim: Claim, main_arm: str, records: Sequence[ClaimRecord]
) -> Iterator[dict[str, Any]]:
    if not claim.look_alikes:
        return
    counts = [num_look_alikes(claim.look_alikes, record, main_arm) for record in records]
    known = [count for count in counts if count is not None]
    if len(known) < len(counts):
        raise UserError(f"a record of arm {main_arm} has no selection; run the claim again")
    if min(known) > 1:
        source = f"{min(known)} to {max(known)} in {_runs(records)}; one below the lowest"
        yield {"name": "look_alikes", "at_least": min(known) - 1, "source": source}


def _values(records: Sequence[ClaimRecord], arm: str, metric: str) -> list[float]:
    values = [record.value(arm, metric) for record in records]
    known = [value for value in values if value is not None]
    if len(known) < len(values):
        raise UserError(f"arm {arm} has no number {metric}; correct the claim's measures")
    return known


def _key(arm: str, metric: str, records: Sequence[ClaimRecord]) -> dict[str, Any]:
    """What must agree for a later number to be the same metric; all records must agree on it."""
    paths = KEY + (FRECHET_KEY if "frechet" in metric or metric.endswith("fid") else ())
    key: dict[str, Any] = {}
    for path in paths:
        found = [record.entry(arm, path) for record in records]
        if any(value != found[0] for value in found):
            raise UserError(f"the records differ in {path} ({found}); do not mix them")
        key[path] = found[0]
    return key


def _hardware(record: ClaimRecord) -> str:
    environment = record.environment
    name = environment.get("device_name", "unknown device")
    return f"{name}, {environment.get('num_cpus', '?')} CPUs"


def _runs(records: Sequence[ClaimRecord]) -> str:
    seeds = ", ".join(str(record.seed) for record in records)
    return f"{len(records)} runs (seeds {seeds})"


def _floor(value: float, digits: int) -> float:
    return round(math.floor(value * 10**digits) / 10**digits, max(digits, 0))
