"""Obtained beside expected: one verdict a check, and one for the claim.

A value is judged by its band (the mean of the seeds that were run), an ordering by the difference
paired by seed, the selection by a count. A claim that is a table of the paper is judged over its
cells: its bands hold if 90 % of the numbers are inside and none is beyond twice its band. A
rehearsal is never judged, nor is a setting that is marked so: it ran to its end or it did not.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from artifact.claims.records import ClaimRecord
from artifact.claims.registry import Claim, Ordering, Setting
from artifact.exit_codes import ExitCode
from artifact.judging.criteria import Check, Verdict, ordering_check, selection_check, value_check
from artifact.judging.expected import ExpectedOrdering, ExpectedSetting
from artifact.judging.intervals import CONFIDENCE

EXIT_CODES = {
    Verdict.PASS: ExitCode.PASS,
    Verdict.TREND: ExitCode.MISMATCH,
    Verdict.FAIL: ExitCode.MISMATCH,
    Verdict.INCONCLUSIVE: ExitCode.INCONCLUSIVE,
    Verdict.EXECUTES: ExitCode.PASS,
    Verdict.NOT_RUN: ExitCode.INCONCLUSIVE,
}
# of `run`, which asks less: it did its work, and nothing contradicts the claim yet; one seed often
# cannot decide, and what more it takes is for `compare` to say
RUN_EXIT_CODES = EXIT_CODES | {Verdict.INCONCLUSIVE: ExitCode.PASS}
MEANING = {
    Verdict.PASS: "the numbers are within their tolerance, and everything the claim says holds",
    Verdict.TREND: "what the claim says holds, but numbers are outside their bands",
    Verdict.FAIL: "a check contradicts the claim",
    Verdict.INCONCLUSIVE: "nothing contradicts the claim, but not everything could be judged",
    Verdict.EXECUTES: "every stage of every arm ran to its end; no number is judged",
    Verdict.NOT_RUN: "there is no result yet",
}
SHARE_INSIDE = 0.9  # of a table's cells


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
        """That of `compare`."""
        return EXIT_CODES[self.verdict]

    @property
    def run_exit_code(self) -> ExitCode:
        """That of a `run` which ended with this verdict."""
        return RUN_EXIT_CODES[self.verdict]


def compare(
    claim: Claim,
    setting: str,
    *,
    records: Sequence[ClaimRecord],
    expected: ExpectedSetting | None,
) -> Comparison:
    """Judge the records (one or more seeds) of a claim at one setting."""
    checks = list(_checks(claim, setting, records, expected))
    over_cells = claim.published_as is not None
    verdict = overall(checks, over_cells=over_cells)
    notes = [_cells_note(checks)] if over_cells else []
    if expected is None:
        notes = [f"no expected results are recorded for {claim.id}/{setting}"]
        verdict = verdict if verdict is Verdict.FAIL else Verdict.INCONCLUSIVE
    if reason := _not_judged(claim.setting(setting), records):
        arms = set(claim.setting(setting).arms)
        is_complete = all(arms <= set(record.arms) for record in records)
        verdict = Verdict.EXECUTES if is_complete else Verdict.INCONCLUSIVE
        notes, checks = [reason], [_without_verdict(check) for check in checks]
    if not records:
        notes, verdict = notes if expected is None else [], Verdict.NOT_RUN
    if any(record.insecure for record in records):
        notes.append("noise from a seeded source: no privacy guarantee")
    seeds = tuple(record.seed for record in records)
    return Comparison(claim, setting, seeds, tuple(checks), verdict, "; ".join(filter(None, notes)))


def overall(checks: Sequence[Check], *, over_cells: bool = False) -> Verdict:
    """The claim's verdict from those of its checks; `over_cells` tolerates a cell in ten."""
    verdicts = {check.verdict for check in checks}
    failed = [check for check in checks if check.verdict is Verdict.FAIL]
    if any(check.kind != "band" for check in failed):
        return Verdict.FAIL
    if verdicts <= {Verdict.NOT_RUN}:
        return Verdict.NOT_RUN
    if over_cells and _cells_hold(checks):
        failed, verdicts = [], verdicts - {Verdict.FAIL}
    others = [check for check in checks if check.kind != "band"]
    says_more = any(check.kind in ("ordering", "selection") for check in others)
    if failed and says_more and all(check.verdict is Verdict.PASS for check in others):
        return Verdict.TREND
    if failed:
        return Verdict.FAIL
    return Verdict.PASS if verdicts == {Verdict.PASS} else Verdict.INCONCLUSIVE


def _checks(
    claim: Claim,
    setting: str,
    records: Sequence[ClaimRecord],
    expected: ExpectedSetting | None,
) -> Iterator[Check]:
    """Orderings first; one that the claim makes is judged whether or not it is expected here."""
    orderings = expected.orderings if expected else ()
    for ordering in orderings:
        yield ordering_check(ordering, ordering.source, records, decided_by_one_seed=True)
    for ordering in claim.orderings:
        if not any(_is_same(ordering, other) for other in orderings):
            source = f"the claim; {_own_runs(expected)}"
            yield ordering_check(ordering, source, records, decided_by_one_seed=False)
    if expected:
        arm = claim.setting(setting).main_arm
        yield from (selection_check(claim, arm, item, records) for item in expected.selection)
        yield from (value_check(value, records) for value in expected.values)


def _cells_hold(checks: Sequence[Check]) -> bool:
    cells = _judged_cells(checks)
    inside = sum(cell.verdict is Verdict.PASS for cell in cells)
    return inside >= SHARE_INSIDE * len(cells) and not any(cell.is_far for cell in cells)


def _cells_note(checks: Sequence[Check]) -> str:
    """What the rule for tables found; empty without a cell that was judged."""
    cells = _judged_cells(checks)
    inside = sum(cell.verdict is Verdict.PASS for cell in cells)
    found = (
        f"{inside} of {len(cells)} cells are inside their bands, "
        f"{sum(cell.is_far for cell in cells) or 'none'} beyond twice the band (the rule: at least "
        f"{SHARE_INSIDE:.0%} inside, none beyond twice)"
    )
    return found if cells else ""


def _judged_cells(checks: Sequence[Check]) -> list[Check]:
    return [c for c in checks if c.kind == "band" and c.verdict in (Verdict.PASS, Verdict.FAIL)]


def _not_judged(setting: Setting, records: Sequence[ClaimRecord]) -> str:
    """Why numbers of this kind are never judged; empty if they are."""
    if any(arm.get("stopped_early") for record in records for arm in record.arms.values()):
        return "a rehearsal (--max-minutes): every stage stopped early, so no number is judged"
    if not setting.judged:
        return "this setting is there to show that every stage executes"
    return ""


def _without_verdict(check: Check) -> Check:
    """The numbers stay, the verdict goes."""
    if check.verdict is Verdict.NOT_RUN:
        return check
    return dataclasses.replace(check, verdict=Verdict.INCONCLUSIVE, note="not judged")


def _is_same(ordering: Ordering, other: ExpectedOrdering) -> bool:
    names = ("metric", "better", "first", "second")
    return all(getattr(ordering, name) == getattr(other, name) for name in names)


def _own_runs(expected: ExpectedSetting | None) -> str:
    if expected is None or not expected.seeds:
        return "no runs of our own are recorded"
    seeds = ", ".join(map(str, expected.seeds))
    return f"in our own runs: not shown with {CONFIDENCE:.0%} confidence (seeds {seeds})"
