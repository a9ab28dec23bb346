"""The page for a committee: paper's claim, command, stated time, verdict and evidence, on A4.

One line for every experiment of the appendix, under the same number. What was not run says so: a
line without a record has no verdict. Evidence is the record, named by its path and the beginning
of its SHA-256, so that a committee can tell whether it is the file that it was given. Nothing in it
is private.
"""

import hashlib
import os
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from artifact.claims.records import ClaimRecord, find_records, record_path
from artifact.claims.registry import Claim, bundle_root
from artifact.judging.compare import MEANING, compare
from artifact.judging.criteria import Verdict
from artifact.judging.epsilons import AGAINST_PAPER
from artifact.report.pages import Experiment, experiments_of
from privimage.files.plain_files import read_bounded

HASH_DIGITS = 8
NOT_RUN_HERE = "not run here"
REVISION = "REVISION"  # what tools/release.py puts into an archive


@dataclass(frozen=True)
class Evidence:
    """One record: its seed, its place seen from the page, and how its SHA-256 begins."""

    seed: int
    path: str
    sha256: str


@dataclass(frozen=True)
class Line:
    """One experiment. `verdict` is empty where there is no record."""

    experiment: Experiment
    badge: str
    verdict: str
    checks: str
    took: str
    machines: tuple[str, ...]
    is_insecure: bool
    evidence: tuple[Evidence, ...]

    @property
    def folder(self) -> str:
        """Where its records lie, seen from the page."""
        return os.path.commonpath([os.path.dirname(e.path) for e in self.evidence] or [""])


def committee_lines(root: Path, claims: dict[str, Claim], *, out: Path) -> list[Line]:
    """A line for every claim and setting; records lie under `root`, and the page in `out`."""
    return [_line(root, experiment, out) for experiment in experiments_of(claims)]


def committee_values(lines: Sequence[Line]) -> dict[str, Any]:
    """What the template is given: the lines of each claim together, and a letter for each machine
    that a stated time is for.
    """
    groups: dict[str, list[Line]] = {}
    for line in lines:
        groups.setdefault(line.experiment.claim.id, []).append(line)
    machines = dict.fromkeys(line.experiment.setting.compute_minutes.hardware for line in lines)
    return {
        "lines": lines,
        "groups": list(groups.values()),
        "letters": {machine: chr(ord("a") + i) for i, machine in enumerate(machines)},
        "machines": sorted({machine for line in lines for machine in line.machines}),
        "revision": revision(),
        "meanings": MEANING,
        "not_run_here": NOT_RUN_HERE,
    }


def badge(experiment: Experiment) -> str:
    """The badge, in USENIX's words, that a good verdict of this experiment speaks for."""
    claim = experiment.claim
    if claim.is_addition or claim.supports == "functional" or not experiment.checks:
        return "Functional"
    is_full = experiment.name == AGAINST_PAPER or experiment.setting.calculation is not None
    return "Reproduced" if is_full else "Reproduced, scaled down"


def revision() -> str:
    """The commit and its date, where this is an unpacked release; else nothing."""
    path = bundle_root() / REVISION
    return read_bounded(path).decode().strip() if path.is_file() else ""


def _line(root: Path, experiment: Experiment, out: Path) -> Line:
    claim, name = experiment.claim, experiment.name
    records = find_records(root, claim.id, name)
    result = compare(claim, name, records=records, expected=experiment.expected)
    judged = result.verdict not in (Verdict.EXECUTES, Verdict.NOT_RUN)
    passed = sum(check.verdict is Verdict.PASS for check in result.checks)
    return Line(
        experiment=experiment,
        badge=badge(experiment),
        verdict=result.verdict.value if records else "",
        checks=f"{passed} of {len(result.checks)} checks" if judged and result.checks else "",
        took=_took(records),
        machines=tuple(map(_machine, records)),
        is_insecure=any(record.insecure for record in records),
        evidence=tuple(_evidence(root, record, out) for record in records),
    )


def _took(records: Sequence[ClaimRecord]) -> str:
    """Minutes of work of one seed; the mean over several."""
    if not records:
        return ""
    minutes = statistics.fmean(record.seconds for record in records) / 60
    if minutes < 1:
        return f"{60 * minutes:.1f} s" if minutes > 1 / 60 else "under 1 s"
    return f"{minutes:.1f} min" if minutes < 120 else f"{minutes / 60:.1f} h"


def _machine(record: ClaimRecord) -> str:
    found = record.environment
    threads = found.get("num_threads", "unknown")
    return f"{found.get('device_name', 'unknown')}, threads: {threads}"


def _evidence(root: Path, record: ClaimRecord, out: Path) -> Evidence:
    path = record_path(root, record.claim, record.setting, record.seed)
    digest = hashlib.sha256(read_bounded(path)).hexdigest()[:HASH_DIGITS]
    return Evidence(record.seed, Path(os.path.relpath(path, out)).as_posix(), digest)
