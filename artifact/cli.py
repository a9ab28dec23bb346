"""`artifact`: what a reviewer types. doctor, list, show, run, compare, report, expect.

Results go to stdout, progress and errors to stderr. A mistake that can be put right is one line
and the exit code that `artifact.exit_codes` documents; success is always 0. The library is
imported only where it is used, so that `doctor` answers even where torch is broken.
"""

import json
import logging
import sys
import traceback
from pathlib import Path
from typing import Annotated

import typer

from artifact import display
from artifact.claims import Claim, find_claim, load_claims
from artifact.compare import compare as compare_records
from artifact.environment import as_json, examine, settings_here, unmet_needs
from artifact.exit_codes import EnvironmentUnfitError, ExitCode
from artifact.expected import expected_path, load_expected
from artifact.records import find_records, record_folder
from artifact.wording import arm_progress
from privimage.errors import UserError
from privimage.progress import StageProgress

app = typer.Typer(
    help="Reproduce the claims of the paper, and judge what was obtained.",
    add_completion=False,
    pretty_exceptions_enable=False,
)
ClaimName = Annotated[str, typer.Argument(metavar="CLAIM", help="a claim; `artifact list`")]
SettingName = Annotated[str, typer.Option("--setting", help="size of the run")]
Out = Annotated[Path, typer.Option("--out", help="folder of the runs")]
INTERRUPTED = 130  # 128 + SIGINT, as shells have it


def main() -> None:
    """Entry point: a UserError becomes one line and its exit code; a defect never looks like 1."""
    try:
        app()
    except UserError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(error.exit_code)
    except Exception:
        traceback.print_exc()
        sys.exit(ExitCode.RUN_FAILED)


@app.callback(invoke_without_command=True)
def first_steps(context: typer.Context) -> None:
    """Without a command: the four commands to a first result."""
    if context.invoked_subcommand is None:
        display.first_steps()


@app.command()
def doctor(
    out: Out = Path("runs"),
    as_json_: Annotated[bool, typer.Option("--json", help="for machines")] = False,
) -> None:
    """Check this machine, and say which claims and settings can run on it."""
    findings, machine = examine(out)
    settings = list(settings_here(load_claims(), machine))
    if as_json_:
        print(json.dumps(as_json(findings, machine, settings), indent=2))
    else:
        display.doctor(findings, settings)
    can_run = any(state == "OK" for _, state, _ in settings)
    if not can_run or any(finding.state == "FAIL" for finding in findings):
        raise typer.Exit(ExitCode.ENVIRONMENT_UNFIT)


@app.command("list")
def list_claims() -> None:
    """Claims and settings, with the time and hardware that each takes."""
    display.claim_list(load_claims())


@app.command()
def show(claim: ClaimName) -> None:
    """A claim's statement, settings and expected values with their sources."""
    found = find_claim(claim)
    display.claim(found, load_expected(found))


@app.command()
def run(
    claim: ClaimName,
    setting: SettingName = "smoke",
    seed: Annotated[int, typer.Option(min=0, help="seed of the public stages")] = 0,
    out: Out = Path("runs"),
    dry_run: Annotated[bool, typer.Option(help="show settings and budget, do nothing")] = False,
    skip_checks: Annotated[bool, typer.Option(help="run even if needs are not met")] = False,
    verbose: Annotated[bool, typer.Option(help="log lines on stderr as well")] = False,
) -> None:
    """Run all arms of a claim; repeat the same command to continue a run that stopped."""
    found = find_claim(claim)
    arms = found.setting(setting).arms

    from artifact.runner import planned_ledger, resolve_arms, resolved_yaml, run_claim

    if dry_run:
        for arm, config in resolve_arms(found, setting, seed=seed).items():
            display.plan(arm, arms[arm], resolved_yaml(config), *planned_ledger(config))
        return
    if not skip_checks:
        check_machine(found, setting, out)
    if verbose:
        logging.basicConfig(level=logging.INFO, stream=sys.stderr)
    expected = load_expected(found).get(setting)
    folder = record_folder(out, found.id, setting, seed)
    print(f"{found.id}/{setting}, seed {seed}: {len(arms)} arms into {folder}", file=sys.stderr)
    try:
        with StageProgress() as show:
            progress = arm_progress(show, list(arms))
            record = run_claim(found, setting, seed=seed, out=out, on_progress=progress)
    except KeyboardInterrupt:
        print("\ninterrupted; the same command continues the run", file=sys.stderr)
        raise typer.Exit(INTERRUPTED) from None
    display.comparison(compare_records(found, setting, records=[record], expected=expected))
    display.next_step(record, out)


@app.command()
def compare(
    claim: ClaimName,
    setting: SettingName = "smoke",
    seed: Annotated[
        list[int] | None, typer.Option("--seed", help="repeat for several; default: all")
    ] = None,
    out: Out = Path("runs"),
) -> None:
    """Obtained beside expected, with a verdict; exit code 0 only for PASS."""
    found = find_claim(claim)
    found.setting(setting)
    records = find_records(out, found.id, setting, seeds=seed)
    expected = load_expected(found).get(setting)
    result = compare_records(found, setting, records=records, expected=expected)
    display.comparison(result)
    raise typer.Exit(result.exit_code)


@app.command()
def report(out: Out = Path("runs")) -> None:
    """One HTML file and one Markdown file of everything under the output folder."""
    from artifact.report import write_report

    if not out.is_dir():
        raise UserError(f"{out} is not there; give the folder of your runs with --out")
    for path in write_report(out, claims=load_claims()):
        print(path)


@app.command()
def expect(
    claim: ClaimName,
    records: Annotated[Path, typer.Option(help="folder of recorded runs (as --out of run)")],
    setting: SettingName = "smoke",
) -> None:
    """Derive expected values and tolerances from at least five recorded seeds."""
    from artifact.reference import expected_from_records, write_expected

    found = find_claim(claim)
    found.setting(setting)
    given = find_records(records, found.id, setting)
    path = expected_path(found.id)
    write_expected(path, found, setting, expected_from_records(found, setting, given))
    print(path)


def check_machine(claim: Claim, setting: str, out: Path) -> None:
    """EnvironmentUnfitError if this machine lacks what the setting needs."""
    _, machine = examine(out)
    lacking = unmet_needs(claim.setting(setting), machine)
    if lacking:
        raise EnvironmentUnfitError(
            f"{claim.id}/{setting} {' and '.join(lacking)}; `artifact doctor` shows what can "
            "run here, and --skip-checks runs it all the same"
        )
