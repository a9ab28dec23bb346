"""The report: what was obtained beside what is expected, in one HTML file and in Markdown.

Everything found under the output folder is shown, finished or not, and what is missing is named.
Pictures are of the lowest seed; numbers are over all seeds. It shows released things only:
synthetic images, public images, numbers from the ledger and the evaluation.
"""

import datetime
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jinja2

from artifact.claims import Claim
from artifact.compare import MEANING, Comparison, compare
from artifact.expected import load_expected
from artifact.figures import curves_uri, png_uri, read_stats
from artifact.markup import Block, markdown_blocks
from artifact.records import ClaimRecord, find_records, record_folder
from artifact.tables import metric_rows, time_rows
from artifact.wording import arm_title
from privimage.durable import write_durably

TEMPLATES = Path(__file__).parent / "templates"


@dataclass(frozen=True)
class ArmView:
    """What one arm left in its folder. Paths are relative to the report, for the Markdown."""

    name: str
    title: str
    is_finished: bool
    samples: str | None
    samples_path: str
    chosen: str | None
    chosen_path: str
    classes: dict[str, list[str]]
    ledger: dict[str, Any] | None
    privacy: dict[str, Any]


@dataclass(frozen=True)
class Section:
    """One claim at one setting."""

    comparison: Comparison
    meaning: str
    arms: list[ArmView]
    metrics: list[list[str]]
    times: list[list[str]]
    curves: str | None
    statement: list[Block]
    environment: dict[str, Any]
    insecure: bool
    look_alikes: dict[str, list[str]] = field(default_factory=dict)

    @property
    def unfinished(self) -> list[str]:
        return [arm.title for arm in self.arms if not arm.is_finished]


def write_report(out: Path, *, claims: dict[str, Claim]) -> tuple[Path, Path]:
    """Write `report.html` and `report.md` into `out`, and return their paths."""
    found, absent = [], []
    for claim in claims.values():
        for setting in claim.settings:
            section = collect_section(out, claim, setting)
            if section is None:
                absent.append((claim, setting))
            else:
                found.append(section)
    now = datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M UTC")
    paths = []
    for name in ("report.html", "report.md"):
        text = render(name, sections=found, absent=absent, date=now)
        write_durably(out / name, text.encode())
        paths.append(out / name)
    return paths[0], paths[1]


def render(name: str, **context: Any) -> str:
    """Fill a template; HTML is escaped, since records may come from strangers."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=name.endswith(".html"),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(f"{name}.j2").render(**context)


def collect_section(out: Path, claim: Claim, setting: str) -> Section | None:
    """All there is of a claim at a setting; None if nothing was begun."""
    folders = sorted((out / claim.id / setting).glob("seed*"), key=_seed_of)
    if not folders:
        return None
    records = find_records(out, claim.id, setting)
    seed = records[0].seed if records else _seed_of(folders[0])
    folder = record_folder(out, claim.id, setting, seed)
    main = claim.setting(setting).main_arm
    names = sorted(claim.setting(setting).arms, key=lambda arm: arm != main)
    comparison = compare(
        claim, setting, records=records, expected=load_expected(claim).get(setting)
    )
    statement = _read_text(folder / main / "privacy_statement.md")
    return Section(
        comparison=comparison,
        meaning=MEANING[comparison.verdict],
        arms=[_arm_view(out, folder, arm, records) for arm in names],
        metrics=metric_rows(claim, names, records),
        times=time_rows(names, records),
        curves=curves_uri({arm: read_stats(folder / arm / "stats.jsonl") for arm in names}),
        statement=markdown_blocks(statement),
        environment=records[0].environment if records else {},
        insecure=any(record.insecure for record in records),
        look_alikes=claim.look_alikes or {},
    )


def _arm_view(out: Path, folder: Path, arm: str, records: Sequence[ClaimRecord]) -> ArmView:
    def relative(name: str) -> str:
        return (folder / arm / name).relative_to(out).as_posix()

    classes = records[0].entry(arm, "selection.classes") if records else None
    return ArmView(
        name=arm,
        title=arm_title(arm),
        is_finished=bool(records) and all(arm in record.arms for record in records),
        samples=png_uri(folder / arm / "samples.png"),
        samples_path=relative("samples.png"),
        chosen=png_uri(folder / arm / "query" / "chosen_classes.png"),
        chosen_path=relative("query/chosen_classes.png"),
        classes=classes or {},
        ledger=_read_ledger(folder / arm / "ledger.json"),
        privacy=(records[0].entry(arm, "privacy") if records else None) or {},
    )


def _read_ledger(path: Path) -> dict[str, Any] | None:
    try:
        ledger = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    return ledger if isinstance(ledger, dict) and isinstance(ledger.get("events"), list) else None


def _read_text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""


def _seed_of(folder: Path) -> int:
    digits = folder.name.removeprefix("seed").removesuffix(".json")
    return int(digits) if digits.isdigit() else 0
