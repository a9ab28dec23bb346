"""From recorded runs to expected results: the bands that later runs are judged by.

A measured value gets the 95 % prediction interval of at least five seeds, an exact one a numerical
tolerance, a count one step below the worst run seen. Every entry names its source, and what the
runs do not bear out is left out and said.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from artifact.claims.records import ClaimRecord
from artifact.claims.registry import Claim, Ordering, Setting, read_mapping
from artifact.judging.chosen_classes import num_look_alikes
from artifact.judging.intervals import CONFIDENCE, mean_interval, prediction_interval
from artifact.judging.wording import amount, arm_title, metric_title, ordering_text
from privimage.errors import UserError
from privimage.files.durable import write_durably

MIN_SEEDS = 5
EXACT_TOLERANCE = 1e-6  # relative
KEY = ("data.sensitive", "data.public", "privacy.target_epsilon", "model.num_parameters")
FRECHET_KEY = ("metrics.frechet_num_images", "metrics.frechet_reference_num_images")


def expected_from_records(
    claim: Claim, setting_name: str, records: Sequence[ClaimRecord]
) -> tuple[dict[str, Any], list[str]]:
    """One setting's section of the YAML, and what the runs do not bear out; five seeds or more."""
    setting = claim.setting(setting_name)
    complete = _complete_records(claim, setting_name, records)
    arms = arms_with_bands(claim, setting)
    measured = {
        (arm, metric): better
        for arm in arms
        for metric, better in claim.measures.items()
        if any(record.value(arm, metric) is not None for record in complete)
    }
    left_out = [
        f"{metric_title(metric)}, {arm_title(arm)}: no record has it"
        for arm in arms
        for metric in claim.measures
        if (arm, metric) not in measured
    ]
    num_bands = sum(better != "exact" for better in measured.values())
    values = [
        _band(arm, metric, better, complete, num_bands=num_bands)
        for (arm, metric), better in measured.items()
    ]
    orderings, not_shown = _orderings(claim, complete)
    section = {
        "seeds": [record.seed for record in complete],
        "hardware": ", ".join(sorted({_hardware(record) for record in complete})),
        "values": values + [_promise(arm, complete) for arm in setting.arms],
        "orderings": orderings,
        "selection": _selection(claim, setting.main_arm, complete),
    }
    return section, left_out + not_shown


def arms_with_bands(claim: Claim, setting: Setting) -> list[str]:
    """The arms whose numbers are results: all of a table, else those that do well by the claim.

    An arm that only stands second in the claim's orderings is a baseline, without a band.
    """
    if (claim.published_as or claim.benchmarked_as) is not None:
        return list(setting.arms)
    results = {setting.main_arm, *(ordering.first for ordering in claim.orderings)}
    return [arm for arm in setting.arms if arm in results]


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
    return epsilon_bound(arm, max(_values(records, arm, "privacy.target_epsilon")))


def epsilon_bound(arm: str, epsilon: float) -> dict[str, Any]:
    """No run may spend more than it promised."""
    return {
        "metric": "privacy.epsilon",
        "arm": arm,
        "better": "lower",
        "at_most": epsilon,
        "source": "the epsilon promised in the settings",
    }


def _orderings(
    claim: Claim, records: Sequence[ClaimRecord]
) -> tuple[list[dict[str, Any]], list[str]]:
    """The orderings that the runs show with 95 % confidence, and a line on each of the others."""
    shown, left_out = [], []
    for ordering in claim.orderings:
        first = _values(records, ordering.first, ordering.metric)
        second = _values(records, ordering.second, ordering.metric)
        sign = 1 if ordering.better == "higher" else -1
        gains = [sign * (a - b) for a, b in zip(first, second, strict=True)]
        low, high = mean_interval(gains)
        found = (
            f"{CONFIDENCE:.0%} interval {amount(ordering.metric, low, high)}, seed by seed "
            f"{amount(ordering.metric, min(gains), max(gains))}"
        )
        if low > -ordering.margin:
            source = f"better, paired by seed, in {_runs(records)}: {found}"
            shown.append({**_entry(ordering), "source": source})
        else:
            left_out.append(
                f"{metric_title(ordering.metric)}, {ordering_text(ordering)}: the runs do not show "
                f"it; better by: {found}"
            )
    return shown, left_out


def _entry(ordering: Ordering) -> dict[str, Any]:
    return {key: value for key, value in vars(ordering).items() if key != "margin" or value}


def _selection(claim: Claim, main_arm: str, records: Sequence[ClaimRecord]) -> list[dict[str, Any]]:
    if not claim.look_alikes:
        return []
    counts = [num_look_alikes(claim.look_alikes, record, main_arm) for record in records]
    known = [count for count in counts if count is not None]
    if len(known) < len(counts):
        raise UserError(f"a record of arm {main_arm} has no selection; run the claim again")
    if min(known) <= 1:
        return []
    source = f"{min(known)} to {max(known)} in {_runs(records)}; one below the lowest"
    return [{"name": "look_alikes", "at_least": min(known) - 1, "source": source}]


def _complete_records(
    claim: Claim, setting_name: str, records: Sequence[ClaimRecord]
) -> list[ClaimRecord]:
    """The records with all arms; UserError with fewer than five, or of kinds that do not mix."""
    setting = claim.setting(setting_name)
    if not setting.judged or setting.calculation is not None:
        raise UserError(
            f"{claim.id}/{setting_name} has no bands, since it is not judged or only computes; "
            "choose another setting"
        )
    complete = [r for r in records if set(setting.arms) <= set(r.arms)]
    if any(arm.get("stopped_early") for record in complete for arm in record.arms.values()):
        raise UserError("a record is of a rehearsal (--max-minutes); its numbers mean nothing")
    if len(complete) < MIN_SEEDS:
        raise UserError(
            f"{len(complete)} complete records of {claim.id}/{setting_name}; a band needs at least "
            f"{MIN_SEEDS} seeds: run more with --seed"
        )
    if len({record.insecure for record in complete}) > 1:
        raise UserError("some records have seeded noise and some have not; do not mix them")
    return complete


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
