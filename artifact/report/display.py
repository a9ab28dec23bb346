"""What the command line shows on stdout: tables for people, plain where the output is a file."""

import shutil
import sys
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from artifact.claims.doctor import Finding
from artifact.claims.records import ClaimRecord, record_folder
from artifact.claims.registry import Claim, ComputeMinutes
from artifact.judging.compare import MEANING, Comparison
from artifact.judging.expected import ExpectedSetting
from privimage.machine.terminal.plain_text import printable, say
from privimage.machine.terminal.progress import duration

COLORS = {
    "OK": "green",
    "PASS": "bold green",
    "WARN": "yellow",
    "TREND": "bold yellow",
    "FAIL": "bold red",
    "INCONCLUSIVE": "bold",
    "EXECUTES": "bold green",
    "NOT RUN": "dim",
}
FILE_WIDTH = 140
FIRST_STEPS = """\
Four commands to a first result:

  make setup                                     install what is needed into .venv
  artifact doctor                                check this machine
  artifact run kick_the_tires --setting smoke    run the smallest claim
  artifact report                                read what was obtained beside what is expected

`artifact list` shows all claims, `artifact --help` all commands.
"""


def first_steps() -> None:
    say(*FIRST_STEPS.splitlines())


def doctor(findings: list[Finding], settings: list[tuple[str, str, str]]) -> None:
    rows = [(f.name, f.state, f.detail, f.remedy) for f in findings]
    _print(_table("This machine", ("check", "state", "found", "what to do"), rows))
    _print(_table("Claims here", ("claim/setting", "state", "takes, or why not"), settings))
    can_run = [name for name, state, _ in settings if state == "OK"]
    names = ", ".join(can_run) or "none"
    say(f"{len(can_run)} of {len(settings)} settings can run here: {names}")


def claim_list(claims: dict[str, Claim]) -> None:
    head = ("claim", "setting", "your time", "machine time", "on", "GPU", "memory", "disk", "data")
    rows = []
    for claim in claims.values():
        for name, setting in claim.settings.items():
            needs = setting.needs
            gpu = f"{needs.gpu_memory_gib:g} GiB" if needs.gpu_memory_gib else "none"
            rows.append(
                (
                    claim.id,
                    name,
                    f"{setting.human_minutes:g} min",
                    str(setting.compute_minutes),
                    setting.compute_minutes.hardware,
                    gpu,
                    f"{needs.ram_gib:g} GiB",
                    f"{needs.disk_gib:g} GiB",
                    ", ".join(needs.all_data) or "bundled",
                )
            )
    _print(_table("Claims", head, rows))
    say("† measured; ★ extrapolated, see `python -m artifact.claims.estimates`")


def claim(claim: Claim, expected: dict[str, ExpectedSetting]) -> None:
    _print(_text(claim.title, style="bold"))
    _print(_text(f"{claim.statement}\nIn the paper: {claim.place_in_paper}\n"))
    for name, setting in claim.settings.items():
        _print(_text(f"Setting {name}: {setting.compute_minutes}", style="bold"))
        _print(_text(f"on {setting.compute_minutes.hardware}; arms {', '.join(setting.arms)}"))
        if name not in expected:
            say("no expected results are recorded", "")
            continue
        checks = _unjudged(claim, name, expected[name])
        rows = [(check.subject, check.expected, check.source) for check in checks]
        _print(_table("Expected", ("check", "expected", "source"), rows))


def plan(
    arm: str, overrides: dict, settings: str, events: list[dict[str, Any]], epsilon: float
) -> None:
    say(f"# arm {arm}: {overrides or 'the settings as they are'}")
    say(*settings.splitlines())
    say(f"# ledger of arm {arm}, epsilon {epsilon:.5g} in total:")
    for event in events:
        say(
            f"#   {event['name']}: noise multiplier {event['noise_multiplier']:.6g}, "
            f"sampling rate {event['sampling_rate']:g}, {event['count']} times"
        )
    say("")


def cost_here(seconds: dict[str, float], listed: ComputeMinutes) -> None:
    say("# time on this machine, about: each stage was timed for a second, on made-up images")
    say(*(f"#   arm {arm}: {duration(of_arm)}" for arm, of_arm in seconds.items()))
    listing = f"{listed.minutes:g} min on {listed.hardware}"
    say(f"#   all: {duration(sum(seconds.values()))}; listed: {listing}")


def comparison(result: Comparison) -> None:
    seeds = f"seed{'s' * (len(result.seeds) > 1)} {', '.join(map(str, result.seeds)) or 'none'}"
    if result.checks:
        rows = [(c.subject, c.verdict.value, c.expected, c.obtained, c.note) for c in result.checks]
        head = ("check", "verdict", "expected", "obtained", "note")
        _print(_table(f"{result.claim.id}/{result.setting}, {seeds}", head, rows))
    verdict = _text(result.verdict.value, style=COLORS[result.verdict.value])
    note = f"; {result.note}" if result.note else ""
    _print(verdict.append(_text(f"  {MEANING[result.verdict]}{note}", style="not bold default")))


def next_step(record: ClaimRecord, out: Path) -> None:
    folder = record_folder(out, record.claim, record.setting, record.seed)
    say(f"record: {folder / 'record.json'} ({record.seconds / 60:.1f} min of work)")
    say(f"report: artifact report --out {out}, then open {out / 'report.html'}")


def _unjudged(claim: Claim, setting: str, expected: ExpectedSetting) -> tuple:
    from artifact.judging.compare import compare

    return compare(claim, setting, records=[], expected=expected).checks


def _table(title: str, head: tuple[str, ...], rows: list) -> Table:
    table = Table(
        title=_text(title, style="bold"), title_justify="left", box=None, padding=(0, 2, 0, 0)
    )
    for name in head:
        table.add_column(name, header_style="dim", overflow="fold")
    for row in rows:
        table.add_row(*(_text(cell, style=COLORS.get(cell, "")) for cell in row))
    return table


def _text(text: str, *, style: str = "") -> Text:
    """Never a plain string: rich would read its brackets as markup."""
    return Text(printable(text, keep="\n"), style=style)


def _print(content: Table | Text) -> None:
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else FILE_WIDTH
    Console(file=sys.stdout, width=width).print(content)
    if isinstance(content, Table):
        say("")
