"""The report: what was obtained beside what is expected, in HTML and Markdown, and on one page.

Everything found is shown, finished or not, and what is missing is named. Records alone are enough;
pictures, curves and ledgers are there where run folders are. Pictures are of the lowest seed;
numbers are over all seeds. It shows released things (synthetic images, public images, numbers from
the ledger and the evaluation), and times and memory, which follow the private sample: claims run on
published images. A link in a run folder is refused: a report is to be handed on, and another file
than a run's own would be in it.
"""

import datetime
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from artifact.claims.records import ClaimRecord, find_records, record_folder
from artifact.claims.registry import Claim
from artifact.judging.compare import MEANING, Comparison, compare
from artifact.judging.epsilons import AGAINST_PAPER, epsilon_panels
from artifact.judging.expected import load_expected
from artifact.judging.wording import arm_title
from artifact.report.committee import committee_lines, committee_values
from artifact.report.figures import curves_uri, epsilons_uri
from artifact.report.tables import (
    CellTable,
    computed_tables,
    metric_rows,
    privacy_rows,
    published_numbers,
    stage_table,
)
from privimage.errors import UserError
from privimage.files.durable import write_durably
from privimage.files.plain_files import inside, read_bounded
from privimage.machine.terminal.plain_text import code_span, escaped, printable
from privimage.release.embedded import png_uri
from privimage.release.markup import Block, markdown_blocks
from privimage.release.training_curves import read_stats

TEMPLATES = Path(__file__).parent / "templates"


@dataclass(frozen=True)
class ArmView:
    """What one arm left in its folder. Paths are relative to the report, for the Markdown."""

    title: str
    samples: str | None
    samples_path: str
    chosen: str | None
    chosen_path: str
    classes: dict[str, list[str]]
    ledger: dict[str, Any] | None
    privacy: dict[str, Any]


@dataclass(frozen=True)
class Section:
    """One claim at one setting. A claim that only computes has neither arms nor their tables."""

    comparison: Comparison
    meaning: str
    arms: list[ArmView]
    unfinished: list[str]
    published: CellTable | None
    is_judged_by_paper: bool
    computed: list[CellTable]
    metrics: list[list[str]]
    stages: CellTable | None
    privacy: list[list[str]]
    epsilons: str | None
    curves: str | None
    statement: list[Block]
    environment: dict[str, Any]
    insecure: bool
    look_alikes: dict[str, list[str]]


def write_report(
    out: Path, *, claims: dict[str, Claim], records: Path | None = None
) -> tuple[Path, Path, Path]:
    """Write `report.html`, `report.md` and `committee.html` into `out`, and return their paths.

    `records` is where runs or shipped records lie, in CLAIM/SETTING; by default in `out`.
    """
    root = records or out
    found, absent = [], []
    for claim in claims.values():
        for setting in claim.settings:
            section = collect_section(root, claim, setting, out=out)
            if section is None:
                absent.append((claim, setting))
            else:
                found.append(section)
    if not found and root != out:
        raise UserError(
            f"{root} has no record of any claim; give the folder that holds "
            "CLAIM/SETTING/seedN.json, such as expected_results/reference_runs"
        )
    now = datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M UTC")
    committee = committee_values(committee_lines(root, claims, out=out))
    report = {"sections": found, "absent": absent}
    contents = {"report.html": report, "report.md": report, "committee.html": committee}
    for name, values in contents.items():
        write_durably(out / name, render(name, date=now, **values).encode())
    return out / "report.html", out / "report.md", out / "committee.html"


def render(name: str, **context: Any) -> str:
    """Fill a template. Every value is escaped, as HTML or as Markdown, and control characters are
    made visible: records, statements and names of classes may come from strangers.
    """
    shown = _in_html if name.endswith(".html") else _in_markdown
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        finalize=shown,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"cell": shown, "code": lambda text: Markup(code_span(text))}
    return environment.get_template(f"{name}.j2").render(**context)


def _in_html(value: Any) -> str:
    """Text that Jinja escapes next, or what is escaped already."""
    return value if isinstance(value, Markup) else printable(str(value), keep="\n")


def _in_markdown(value: Any) -> Markup:
    """Escaped by a rule of Markdown's own, which keeps the page readable as text."""
    return value if isinstance(value, Markup) else Markup(escaped(str(value)))


def collect_section(root: Path, claim: Claim, setting: str, *, out: Path) -> Section | None:
    """All there is of a claim at a setting under `root`; None if nothing was begun."""
    folders = sorted((root / claim.id / setting).glob("seed*"), key=_seed_of)
    if not folders:
        return None
    records = find_records(root, claim.id, setting)
    seed = records[0].seed if records else _seed_of(folders[0])
    folder = record_folder(root, claim.id, setting, seed)
    chosen = claim.setting(setting)
    computes = chosen.calculation is not None
    names = sorted(chosen.arms, key=lambda arm: arm != chosen.main_arm)
    arms = [] if computes else names
    comparison = compare(
        claim, setting, records=records, expected=load_expected(claim).get(setting)
    )
    checks = comparison.checks
    views = [_arm_view(out, folder, arm, records) for arm in arms]
    return Section(
        comparison=comparison,
        meaning=MEANING[comparison.verdict],
        arms=views,
        unfinished=[arm_title(arm) for arm in names if not _is_finished(arm, records)],
        published=published_numbers(claim, setting, records, checks),
        is_judged_by_paper=setting == AGAINST_PAPER,
        computed=computed_tables(records, checks) if computes else [],
        metrics=[] if computes else metric_rows(claim, arms, records),
        stages=stage_table(arms, records),
        privacy=privacy_rows(arms, records),
        epsilons=epsilons_uri(epsilon_panels(claim, setting, records)),
        curves=curves_uri({arm: read_stats(inside(folder, f"{arm}/stats.jsonl")) for arm in arms}),
        statement=markdown_blocks(
            _read_text(inside(folder, f"{chosen.main_arm}/privacy_statement.md"))
        ),
        environment=records[0].environment if records else {},
        insecure=any(record.insecure for record in records)
        or any((view.ledger or {}).get("insecure", False) is not False for view in views),
        look_alikes=claim.look_alikes or {},
    )


def _is_finished(arm: str, records: Sequence[ClaimRecord]) -> bool:
    return bool(records) and all(arm in record.arms for record in records)


def _arm_view(out: Path, folder: Path, arm: str, records: Sequence[ClaimRecord]) -> ArmView:
    def relative(name: str) -> str:
        return Path(os.path.relpath(folder / arm / name, out)).as_posix()

    classes = records[0].entry(arm, "selection.classes") if records else None
    return ArmView(
        title=arm_title(arm),
        samples=png_uri(inside(folder, f"{arm}/samples.png")),
        samples_path=relative("samples.png"),
        chosen=png_uri(inside(folder, f"{arm}/query/chosen_classes.png")),
        chosen_path=relative("query/chosen_classes.png"),
        classes=classes or {},
        ledger=_read_ledger(inside(folder, f"{arm}/ledger.json")),
        privacy=(records[0].entry(arm, "privacy") if records else None) or {},
    )


def _read_ledger(path: Path) -> dict[str, Any] | None:
    try:
        ledger = json.loads(read_bounded(path))
    except (OSError, ValueError):
        return None
    return ledger if isinstance(ledger, dict) and isinstance(ledger.get("events"), list) else None


def _read_text(path: Path) -> str:
    try:
        return read_bounded(path).decode()
    except OSError:
        return ""


def _seed_of(folder: Path) -> int:
    digits = folder.name.removeprefix("seed").removesuffix(".json")
    return int(digits) if digits.isdigit() else 0
