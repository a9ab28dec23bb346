"""Obtained beside expected: one verdict a check, and one for the claim.

A value is judged by its band (the mean of the seeds that were run), an ordering by the difference
paired by seed, the selection by a count. PASS: all hold. TREND: only banded numbers are off, all
that the claim says holds. INCONCLUSIVE: nothing contradicts, but something could not be judged.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum

from artifact.claims import Claim
from artifact.exit_codes import ExitCode
from artifact.expected import ExpectedOrdering, ExpectedSelection, ExpectedSetting, ExpectedValue
from artifact.intervals import CONFIDENCE, mean_interval
from artifact.records import ClaimRecord
from artifact.selection import num_look_alikes
from artifact.wording import arm_title, metric_title, number


class Verdict(str, Enum):
    """What can be said of a check or a claim."""

    PASS = "PASS"
    TREND = "TREND"
    FAIL = "FAIL"
    INCONCLUSIVE = "INCONCLUSIVE"
    NOT_RUN = "NOT RUN"


EXIT_CODES = {
    Verdict.PASS: ExitCode.PASS,
    Verdict.TREND: ExitCode.MISMATCH,
    Verdict.FAIL: ExitCode.MISMATCH,
    Verdict.INCONCLUSIVE: ExitCode.INCONCLUSIVE,
    Verdict.NOT_RUN: ExitCode.INCONCLUSIVE,
}
MEANING = {
    Verdict.PASS: "every number is within its tolerance, and everything the claim says holds",
    Verdict.TREND: "what the claim says holds, but numbers are outside their bands",
    Verdict.FAIL: "a check contradicts the claim",
    Verdict.INCONCLUSIVE: "nothing contradicts the claim, but not everything could be judged",
    Verdict.NOT_RUN: "there is no result yet",
}


@dataclass(frozen=True)
class Check:
    """One line of the comparison. A `banded` check that fails leaves a TREND possible."""

    subject: str
    expected: str
    obtained: str
    verdict: Verdict
    source: str
    note: str = ""
    banded: bool = False


@dataclass(frozen=True)
class Comparison:
    """All checks of a claim at one setting."""

    claim: Claim
    setting: str
    seeds: tuple[int, ...]
    checks: tuple[Check, ...]
    verdict: Verdict
    note: str = ""

    @property
    def exit_code(self) -> ExitCode:
        return EXIT_CODES[self.verdict]


def compare(
    claim: Claim,
    setting: str,
    *,
    records: Sequence[ClaimRecord],
    expected: ExpectedSetting | None,
) -> Comparison:
    """Judge the records (one or more seeds) of a claim at one setting."""
    seeds = tuple(record.seed for record in records)
    if expected is None:
        verdict = Verdict.INCONCLUSIVE if records else Verdict.NOT_RUN
        note = f"no expected results are recorded for {claim.id}/{setting}"
        return Comparison(claim, setting, seeds, (), verdict, note)
    arm = claim.setting(setting).main_arm
    checks = [_ordering_check(ordering, records) for ordering in expected.orderings]
    checks += [_selection_check(claim, arm, item, records) for item in expected.selection]
    checks += [_value_check(value, records) for value in expected.values]
    notes = ["noise from a seeded source: no privacy guarantee"] if _insecure(records) else []
    return Comparison(claim, setting, seeds, tuple(checks), overall(checks), "; ".join(notes))


def overall(checks: Sequence[Check]) -> Verdict:
    """The claim's verdict from those of its checks."""
    verdicts = {check.verdict for check in checks}
    failed = [check for check in checks if check.verdict is Verdict.FAIL]
    if any(not check.banded for check in failed):
        return Verdict.FAIL
    if verdicts <= {Verdict.NOT_RUN}:
        return Verdict.NOT_RUN
    firm = [check for check in checks if not check.banded]
    if failed and firm and all(check.verdict is Verdict.PASS for check in firm):
        return Verdict.TREND
    if failed:
        return Verdict.FAIL
    return Verdict.PASS if verdicts == {Verdict.PASS} else Verdict.INCONCLUSIVE


def _value_check(expected: ExpectedValue, records: Sequence[ClaimRecord]) -> Check:
    subject = f"{metric_title(expected.metric)}, {arm_title(expected.arm)}"
    shown = _show_expected(expected)

    def check(obtained: str, verdict: Verdict, note: str = "") -> Check:
        banded = not expected.is_firm
        return Check(subject, shown, obtained, verdict, expected.source, note, banded)

    values = _present([record.value(expected.arm, expected.metric) for record in records])
    mismatch = next(_key_mismatches(expected, records), None)
    if not any(expected.arm in record.arms for record in records):
        return check("", Verdict.NOT_RUN)
    if mismatch:
        return check(number(_mean(values)) if values else "", Verdict.INCONCLUSIVE, mismatch)
    if not values:
        return check("", Verdict.INCONCLUSIVE, "another metric was measured here")
    # A bound holds for every run; a band is for the mean of the runs.
    value = max(values) if expected.at_most is not None else _mean(values)
    note = "better than the band" if expected.is_beyond(value) else ""
    if len(values) > 1 and expected.at_most is None:
        note = ", ".join(filter(None, [note, f"mean of {len(values)} seeds"]))
    return check(number(value), Verdict.PASS if expected.accepts(value) else Verdict.FAIL, note)


def _ordering_check(expected: ExpectedOrdering, records: Sequence[ClaimRecord]) -> Check:
    relation = {"higher": ">", "lower": "<"}[expected.better]
    subject = metric_title(expected.metric)
    shown = f"{arm_title(expected.first)} {relation} {arm_title(expected.second)}"
    sign = 1 if expected.better == "higher" else -1
    pairs = [
        (
            record.value(expected.first, expected.metric),
            record.value(expected.second, expected.metric),
        )
        for record in records
    ]
    known = [(a, b) for a, b in pairs if a is not None and b is not None]
    if not known:
        return Check(subject, shown, "", Verdict.NOT_RUN, expected.source)
    gains = [sign * (a - b) for a, b in known]
    means = [number(_mean([pair[i] for pair in known])) for i in (0, 1)]
    verdict, note = _judge_gains(gains)
    return Check(subject, shown, " and ".join(means), verdict, expected.source, note)


def _judge_gains(gains: Sequence[float]) -> tuple[Verdict, str]:
    """One seed: the sign of the difference. Several: the t interval of the mean difference."""
    if len(gains) == 1:
        low = high = gains[0]
        note = f"better by {number(gains[0])} in one seed"
    else:
        low, high = mean_interval(gains)
        note = f"better by {number(low)} to {number(high)} ({CONFIDENCE:.0%}, {len(gains)} seeds)"
    if low > 0:
        return Verdict.PASS, note
    return (Verdict.FAIL if high < 0 else Verdict.INCONCLUSIVE), note


def _selection_check(
    claim: Claim, arm: str, expected: ExpectedSelection, records: Sequence[ClaimRecord]
) -> Check:
    look_alikes = claim.look_alikes or {}
    subject = f"Classes with a look-alike, {arm_title(arm)}"
    shown = f"≥ {expected.at_least} of {len(look_alikes)}"
    counts = _present([num_look_alikes(look_alikes, record, arm) for record in records])
    if not counts:
        return Check(subject, shown, "", Verdict.NOT_RUN, expected.source)
    verdict = Verdict.PASS if min(counts) >= expected.at_least else Verdict.FAIL
    note = f"lowest of {len(counts)} seeds" if len(counts) > 1 else ""
    return Check(subject, shown, number(min(counts)), verdict, expected.source, note)


def _key_mismatches(expected: ExpectedValue, records: Sequence[ClaimRecord]) -> Iterator[str]:
    for record in records:
        for path, wanted in (expected.key or {}).items():
            found = record.entry(expected.arm, path)
            if expected.arm in record.arms and found != wanted:
                yield f"not the same metric: {path} is {found}, expected for {wanted}"


def _show_expected(expected: ExpectedValue) -> str:
    if expected.at_most is not None:
        return f"≤ {number(expected.at_most)}"
    mean = number(expected.mean or 0.0)
    if expected.better == "exact":
        return f"{mean} exactly"
    low, high = expected.band
    return f"{mean} ({number(low)} to {number(high)})"


def _insecure(records: Sequence[ClaimRecord]) -> bool:
    return any(record.insecure for record in records)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _present(values: Sequence[float | None]) -> list[float]:
    return [value for value in values if value is not None]
