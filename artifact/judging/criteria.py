"""The checks of a comparison: a value by its band, an ordering by seed, a selection by a count.

Each takes the records that were obtained and what is expected, and says PASS, FAIL, INCONCLUSIVE
or NOT RUN, with a note in words. `artifact.judging.compare` makes one verdict of them.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Literal

from artifact.claims.records import ClaimRecord
from artifact.claims.registry import Claim, Ordering
from artifact.judging.chosen_classes import num_look_alikes
from artifact.judging.expected import ExpectedOrdering, ExpectedSelection, ExpectedValue
from artifact.judging.intervals import CONFIDENCE, mean_interval
from artifact.judging.wording import amount, arm_title, metric_title, number, ordering_text

EXACT = 1e-6  # a relative tolerance up to this is shown as "exactly"
EXACT_DIGITS = 6


class Verdict(str, Enum):
    """What can be said of a check or a claim."""

    PASS = "PASS"
    TREND = "TREND"
    FAIL = "FAIL"
    INCONCLUSIVE = "INCONCLUSIVE"
    EXECUTES = "EXECUTES"
    NOT_RUN = "NOT RUN"


@dataclass(frozen=True)
class Check:
    """One line of the comparison; a failed band leaves a TREND possible.

    `is_far`: beyond twice the band, on the worse side. `metric` and `arm` name a value's place.
    """

    kind: Literal["ordering", "selection", "firm", "band"]
    subject: str
    expected: str
    obtained: str
    verdict: Verdict
    source: str
    note: str = ""
    is_far: bool = False
    metric: str = ""
    arm: str = ""


def value_check(expected: ExpectedValue, records: Sequence[ClaimRecord]) -> Check:
    """The mean of the seeds against a band, or every seed against a bound."""
    check = Check(
        kind="firm" if expected.is_firm else "band",
        subject=f"{metric_title(expected.metric)}, {arm_title(expected.arm)}",
        expected=_show_expected(expected),
        obtained="",
        verdict=Verdict.NOT_RUN,
        source=expected.source,
        metric=expected.metric,
        arm=expected.arm,
    )
    found = [record.value(expected.arm, expected.metric) for record in records]
    values = [value for value in found if value is not None]
    if not any(expected.arm in record.arms for record in records):
        return check
    if not values:
        note = "another metric was measured here"
        return dataclasses.replace(check, verdict=Verdict.INCONCLUSIVE, note=note)
    # A bound holds for every run; a band is for the mean of the runs.
    worst = min if expected.at_least is not None else max
    value = worst(values) if expected.is_bound else _mean(values)
    check = dataclasses.replace(check, obtained=_show(value, expected))
    if mismatch := next(_key_mismatches(expected, records), None):
        return dataclasses.replace(check, verdict=Verdict.INCONCLUSIVE, note=mismatch)
    is_far = not expected.is_firm and _is_far(expected, value)
    return dataclasses.replace(
        check,
        verdict=Verdict.PASS if expected.accepts(value) else Verdict.FAIL,
        note=_value_note(expected, value, num_seeds=len(values)),
        is_far=is_far,
    )


def _is_far(expected: ExpectedValue, value: float) -> bool:
    """Further from the mean than twice the band, on the worse side."""
    low, high = expected.band
    mean = expected.mean or 0.0
    if expected.better == "higher":
        return mean - value > 2 * (mean - low)
    return value - mean > 2 * (high - mean)


def _value_note(expected: ExpectedValue, value: float, *, num_seeds: int) -> str:
    notes = ["better than the band"] if expected.is_beyond(value) else []
    if not expected.is_firm and not expected.accepts(value):
        notes.append("beyond twice the band" if _is_far(expected, value) else "outside the band")
    if num_seeds > 1 and not expected.is_bound:
        notes.append(f"mean of {num_seeds} seeds")
    return ", ".join(notes)


def ordering_check(
    ordering: Ordering | ExpectedOrdering,
    source: str,
    records: Sequence[ClaimRecord],
    *,
    decided_by_one_seed: bool,
) -> Check:
    """The difference of two arms, paired by seed, on the right side of zero (or of a margin)."""
    first, second, metric = ordering.first, ordering.second, ordering.metric
    sign = 1 if ordering.better == "higher" else -1
    pairs = [(record.value(first, metric), record.value(second, metric)) for record in records]
    known = [(a, b) for a, b in pairs if a is not None and b is not None]
    check = Check(
        kind="ordering",
        subject=metric_title(metric),
        expected=ordering_text(ordering),
        obtained="",
        verdict=Verdict.NOT_RUN,
        source=source,
    )
    if not known:
        return check
    means = [number(_mean([pair[i] for pair in known])) for i in (0, 1)]
    verdict, note = _judge_gains([sign * (a - b) for a, b in known], ordering)
    if len(known) == 1 and not decided_by_one_seed:
        verdict, note = Verdict.INCONCLUSIVE, f"{note}; one seed does not decide this"
    return dataclasses.replace(check, obtained=" and ".join(means), verdict=verdict, note=note)


def _judge_gains(
    gains: Sequence[float], ordering: Ordering | ExpectedOrdering
) -> tuple[Verdict, str]:
    """One seed: the sign of the difference. Several: the t interval of the mean difference.

    A margin moves zero: the first arm may be worse by that much.
    """
    if len(gains) == 1:
        low = high = gains[0]
        note = f"better by {amount(ordering.metric, low)} in one seed"
    else:
        low, high = mean_interval(gains)
        by = amount(ordering.metric, low, high)
        note = f"better by {by} ({CONFIDENCE:.0%}, {len(gains)} seeds)"
    if low > -ordering.margin:
        return Verdict.PASS, note
    return (Verdict.FAIL if high < -ordering.margin else Verdict.INCONCLUSIVE), note


def selection_check(
    claim: Claim, arm: str, expected: ExpectedSelection, records: Sequence[ClaimRecord]
) -> Check:
    """In how many sensitive classes the query chose a class that looks like it; lowest seed."""
    look_alikes = claim.look_alikes or {}
    found = [num_look_alikes(look_alikes, record, arm) for record in records]
    counts = [count for count in found if count is not None]
    check = Check(
        kind="selection",
        subject=f"Classes with a look-alike, {arm_title(arm)}",
        expected=f"≥ {expected.at_least} of {len(look_alikes)}",
        obtained="",
        verdict=Verdict.NOT_RUN,
        source=expected.source,
    )
    if not counts:
        return check
    return dataclasses.replace(
        check,
        obtained=number(min(counts)),
        verdict=Verdict.PASS if min(counts) >= expected.at_least else Verdict.FAIL,
        note=f"lowest of {len(counts)} seeds" if len(counts) > 1 else "",
    )


def _key_mismatches(expected: ExpectedValue, records: Sequence[ClaimRecord]) -> Iterator[str]:
    for record in records:
        for path, wanted in (expected.key or {}).items():
            found = record.entry(expected.arm, path)
            if expected.arm in record.arms and found != wanted:
                yield f"not the same metric: {path} is {found}, expected for {wanted}"


def _show_expected(expected: ExpectedValue) -> str:
    if expected.at_most is not None:
        return f"≤ {number(expected.at_most)}"
    if expected.at_least is not None:
        return f"≥ {number(expected.at_least)}"
    mean, low, high = (_show(value, expected) for value in (expected.mean or 0.0, *expected.band))
    is_point = expected.band[1] - expected.band[0] <= 2.1 * EXACT * abs(expected.mean or 0.0)
    if expected.better == "exact" and is_point:
        return f"{mean} exactly"
    return f"{mean} ({low} to {high})"


def _show(value: float, expected: ExpectedValue) -> str:
    return number(value, digits=EXACT_DIGITS) if expected.better == "exact" else number(value)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
