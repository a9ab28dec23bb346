"""Plant each fault of the catalogue in a copy of the code and see who notices: tests and claim.

`python -m tests.mutants [NAME ...] [--part K/N]`. Every fault must be caught by a test; one that
changes what is released must make the claim `privacy_audit` fail as well, with nobody reading code.
The intact code goes first and must pass both; a part leaves it out. Exit status 1 if anything slips
through.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from pathlib import Path

from artifact.claims.records import find_records
from artifact.claims.registry import find_claim
from artifact.exit_codes import ExitCode
from artifact.judging.compare import compare
from artifact.judging.criteria import Verdict
from artifact.judging.expected import load_expected
from privimage.errors import UserError
from tests.mutants.catalogue import ROOT, Mutant, mutated_files, part_of, read_catalogue

CLAIM = "privacy_audit"
NOT_COPIED = shutil.ignore_patterns(
    ".*", "runs", "out", "build", "dist", "__pycache__", "*.egg-info"
)
LIMIT_SECONDS = 1200
INTACT = "the intact code"
HEAD = ("mutant", "changes the release", "caught by test", "caught by claim", "seconds")


@dataclass(frozen=True)
class Row:
    """What became of a mutant; `test` and `claim` name what caught it, "" where nothing did.

    `claim` is None where it was not asked.
    """

    mutant: Mutant
    test: str
    claim: str | None
    seconds: float

    @property
    def is_as_it_must_be(self) -> bool:
        """Caught by all that must catch it, and the intact code by nothing."""
        if self.mutant.id == INTACT:
            return not self.test and not self.claim
        return bool(self.test) and self.claim != ""

    def cells(self) -> tuple[str, ...]:
        nothing = "nothing" if self.mutant.id == INTACT else "NOTHING"
        claim = "not asked" if self.claim is None else self.claim or nothing
        released = "yes" if self.mutant.released else "no"
        return self.mutant.id, released, self.test or nothing, claim, f"{self.seconds:.0f}"


def main() -> None:
    options = parsed()
    try:
        mutants = chosen(options.names, options.part)
        rows = []
        for mutant in mutants:
            rows.append(tried(mutant, asks_claim=not options.no_claim, seed=options.seed))
            print(" | ".join(rows[-1].cells()), flush=True)
    except UserError as error:
        sys.exit(f"error: {error}")
    table = markdown(rows)
    print(f"\n{table}")
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(table)
    slipped = [row.mutant.id for row in rows if not row.is_as_it_must_be]
    print(f"{len(rows) - len(slipped)} of {len(rows)} rows are as they must be", *slipped, sep="\n")
    sys.exit(1 if slipped else 0)


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="default: the whole catalogue")
    parser.add_argument(
        "--part", metavar="K/N", help="every N-th mutant from the K-th on; K `commit`: by HEAD"
    )
    parser.add_argument("--no-claim", action="store_true", help="tests only")
    parser.add_argument("--seed", type=int, default=0, help="of the claim")
    parser.add_argument("--out", type=Path, metavar="FILE", help="the table as Markdown")
    return parser.parse_args()


def chosen(names: Sequence[str], part: str | None) -> tuple[Mutant, ...]:
    """The mutants asked for, after the intact code; a part is tried without it."""
    known = read_catalogue()
    by_name = {mutant.id: mutant for mutant in known}
    if unknown := [name for name in names if name not in by_name]:
        raise UserError(f"no mutant is called {', '.join(unknown)}; there are {', '.join(by_name)}")
    mutants = tuple(by_name[name] for name in names) or known
    if part is not None:
        return part_of(mutants, *part_numbers(part))
    tests = tuple(dict.fromkeys(path for mutant in mutants for path in mutant.tests))
    return (Mutant(INTACT, "", released=False, tests=tests, edits=()), *mutants)


def part_numbers(part: str) -> tuple[int, int]:
    """K and N of "K/N"; for K "commit" one that the commit decides, or the day where there is no
    git.
    """
    match = re.fullmatch(r"(\d{1,4}|commit)/([1-9]\d{0,3})", part)
    if match is None:
        raise UserError(f"part {part!r}; give K/N, as 2/20, or commit/20")
    number, parts = match[1], int(match[2])
    if number != "commit":
        return int(number), parts
    try:
        head = ["git", "-C", str(ROOT), "rev-parse", "HEAD"]
        found = int(subprocess.run(head, capture_output=True, check=True, text=True).stdout, 16)
    except (OSError, subprocess.CalledProcessError):
        found = date.today().toordinal()
    return found % parts + 1, parts


def tried(mutant: Mutant, *, asks_claim: bool, seed: int) -> Row:
    """Tests and claim on a copy with the fault; the claim only where it has something to see."""
    started = time.monotonic()
    with copy_with(mutant) as copy:
        test = failing_test(copy, mutant.tests)
        check = (
            failing_check(copy, seed)
            if asks_claim and (mutant.released or mutant.id == INTACT)
            else None
        )
    return Row(mutant, test, check, time.monotonic() - started)


@contextmanager
def copy_with(mutant: Mutant) -> Iterator[Path]:
    """A folder with the whole code, the fault in it."""
    texts = mutated_files(mutant)
    with tempfile.TemporaryDirectory(prefix="mutant-") as folder:
        copy = Path(folder) / "code"
        shutil.copytree(ROOT, copy, ignore=NOT_COPIED)
        for name, text in texts.items():
            (copy / name).write_text(text)
        found = python(copy, "-c", "import privimage, artifact; print(privimage.__file__)").stdout
        if not Path(found.strip()).is_relative_to(copy):
            raise UserError(f"mutant {mutant.id} cannot be imported from its copy; mend it")
        yield copy


def python(copy: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """This interpreter in the copy, with the copy's modules; no bytecode, which could be stale."""
    environment = os.environ | {
        "PYTHONPATH": str(copy),
        "PYTHONDONTWRITEBYTECODE": "1",
        "OMP_NUM_THREADS": "1",
    }
    try:
        return subprocess.run(
            [sys.executable, *arguments],
            cwd=copy,
            env=environment,
            capture_output=True,
            text=True,
            timeout=LIMIT_SECONDS,
        )
    except subprocess.TimeoutExpired as error:
        raise UserError(
            f"{' '.join(arguments)[:100]} took over {LIMIT_SECONDS} s; try it on a free machine"
        ) from error


def failing_test(copy: Path, tests: Sequence[str]) -> str:
    """The first test that fails, or "". UserError if the tests do not even run: a fault in
    spelling, which proves nothing.
    """
    ended = python(copy, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "--tb=no", *tests)
    if ended.returncode == 0:
        return ""
    first = re.search(r"^(?:FAILED|ERROR) (.+?::.+?)(?: - |$)", ended.stdout, re.MULTILINE)
    if ended.returncode != 1 or first is None:
        raise UserError(f"the tests do not run: {(ended.stdout + ended.stderr)[-1000:]}")
    return first[1]


def failing_check(copy: Path, seed: int) -> str:
    """The checks of the claim that fail, or the error that ended the run; "" if it passes.

    The copy makes the record, and this code judges it. UserError if the machine is at fault.
    """
    out = copy.parent / "out"
    run = "from artifact.cli import main; main()", "run", CLAIM, "--seed", str(seed)
    ended = python(copy, "-c", *run, "--out", str(out))
    claim = find_claim(CLAIM)
    setting = claim.first_setting
    records = find_records(out, CLAIM, setting, seeds=[seed])
    if not records:
        words = ended.stderr.strip().splitlines() or ["no record"]
        if ended.returncode not in (ExitCode.MISMATCH, ExitCode.USAGE, ExitCode.RUN_FAILED):
            raise UserError(f"the claim did not run: {words[-1]}")
        return words[-1].replace("|", "/")[:100]
    result = compare(claim, setting, records=records, expected=load_expected(claim).get(setting))
    if result.exit_code is not ExitCode.MISMATCH:
        if result.verdict is not Verdict.PASS:
            raise UserError(f"the claim has no verdict: {result.verdict.value}")
        return ""
    failed = [f"{c.arm} {c.metric}" for c in result.checks if c.verdict is Verdict.FAIL]
    more = f" and {len(failed) - 2} more" if len(failed) > 2 else ""
    return ", ".join(failed[:2]) + more or result.verdict.value


def markdown(rows: Sequence[Row]) -> str:
    lines = [HEAD, ("---",) * len(HEAD), *(row.cells() for row in rows)]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


if __name__ == "__main__":
    main()
