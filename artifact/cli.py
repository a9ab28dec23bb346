"""`artifact`: what a reviewer types: doctor, list, show, fetch, run, compare, report, expect.

Results go to stdout, progress and errors to stderr. A mistake that can be put right is one line
and the exit code that `artifact.exit_codes` documents; success is always 0. The library is
imported only where it is used, so that `doctor` answers even where torch is broken.
"""

import json
import logging
import sys
from pathlib import Path
from typing import Annotated, Any, cast

import typer

from artifact.claims.doctor import as_json, examine
from artifact.claims.needs import all_assets, settings_here
from artifact.claims.preflight import EntryPoint, check_entry, check_machine
from artifact.claims.records import ClaimRecord, find_records, read_record, record_folder
from artifact.claims.registry import Claim, find_claim, load_claims
from artifact.exit_codes import ExitCode
from artifact.judging.compare import Comparison
from artifact.judging.compare import compare as compare_records
from artifact.judging.expected import expected_path, load_expected
from artifact.judging.wording import arm_progress
from artifact.report import display
from privimage.errors import DataMissingError, UserError
from privimage.machine.launch import (
    INTERRUPTED,
    is_launched,
    launch,
    stopped_with_a_word,
)
from privimage.machine.terminal.command import run_command
from privimage.machine.terminal.plain_text import plain_handler, say
from privimage.machine.terminal.progress import StageProgress

app = typer.Typer(
    help="Reproduce the claims of the paper, and judge what was obtained.",
    add_completion=False,
    pretty_exceptions_enable=False,
)
ClaimName = Annotated[str, typer.Argument(metavar="CLAIM", help="a claim; `artifact list`")]
SettingName = Annotated[
    str | None, typer.Option("--setting", help="size of the run; default: the claim's first")
]
Out = Annotated[Path, typer.Option("--out", help="folder of the runs")]


def main() -> None:
    """Entry point: a mistake becomes one line and its exit code; a defect never looks like 1."""
    run_command(app, defect=ExitCode.RUN_FAILED)


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
    claims = load_claims()
    findings, machine = examine(out, all_assets(claims))
    settings = list(settings_here(claims, machine))
    if as_json_:
        say(*json.dumps(as_json(findings, machine, settings), indent=2).splitlines())
    else:
        display.doctor(findings, settings)
    if not any(state == "OK" for _, state, _ in settings):
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
    setting: SettingName = None,
    seed: Annotated[int, typer.Option(min=0, help="seed of the public stages")] = 0,
    out: Out = Path("runs"),
    dry_run: Annotated[bool, typer.Option(help="show settings and budget, do nothing")] = False,
    force: Annotated[bool, typer.Option("--force", help="run even if needs are not met")] = False,
    entry: Annotated[
        EntryPoint, typer.Option("--from", help="enter later, with the files of --files")
    ] = EntryPoint.SCRATCH,
    files: Annotated[
        Path | None, typer.Option(help="for --from: the folder of a run, .../CLAIM/SETTING/seedN")
    ] = None,
    max_minutes: Annotated[
        float | None, typer.Option(help="a rehearsal: only the first steps of every stage")
    ] = None,
    gpus: Annotated[
        int, typer.Option(min=1, help="processes, one a GPU; without a GPU they share the cores")
    ] = 1,
    verbose: Annotated[bool, typer.Option(help="log lines on stderr as well")] = False,
) -> None:
    """Run all arms of a claim; repeat the same command to continue a run that stopped.

    Exit code 0 if it ran to its end and nothing contradicts the claim (PASS, EXECUTES, or
    INCONCLUSIVE, as after one seed of several); 1 for FAIL and TREND. With --from records nothing
    runs, and the code is that of `artifact compare`.
    """
    found = find_claim(claim)
    setting = setting or found.first_setting
    found.setting(setting)  # one that is not offered is named first
    check_entry(entry, files)
    if entry is EntryPoint.RECORDS and files is not None:
        result = compare_records_of(found, setting, [read_record(files)])
        display.comparison(result)
        raise typer.Exit(result.exit_code)

    out = out if max_minutes is None else out / "rehearsal"
    if dry_run:
        show_plan(found, setting, seed=seed, max_minutes=max_minutes)
        return
    check_machine(
        found, setting, out, entry=entry, force=force
    )  # a torch that is broken is named here

    from artifact.claims.arms import Source, resolve_arms

    if found.setting(setting).calculation is None:
        resolve_arms(found, setting, seed=seed, max_minutes=max_minutes)  # its faults come first
    if verbose:
        logging.basicConfig(level=logging.INFO, handlers=[plain_handler()])
    load_expected(found)  # its faults, before the work
    folder = record_folder(out, found.id, setting, seed)
    source = Source(cast(Any, entry.value), files) if files else None
    with stopped_with_a_word():
        if gpus > 1 and not is_launched():
            launch("artifact", gpus, sys.argv[1:])
            record = read_record(folder / "record.json")
        else:
            record = run_here(
                found, setting, seed=seed, out=out, source=source, max_minutes=max_minutes
            )
    if record is not None:
        result = compare_records_of(found, setting, [record])
        display.comparison(result)
        display.next_step(record, out)
        raise typer.Exit(result.run_exit_code)


def run_here(
    claim: Claim,
    setting: str,
    *,
    seed: int,
    out: Path,
    source: Any,
    max_minutes: float | None,
) -> ClaimRecord | None:
    """Run in this process, maybe with others that torchrun started; a record to be judged, or None
    there: torchrun takes any exit status but 0 for a crash.
    """
    from artifact.claims.runner import follow_claim, run_claim
    from privimage.machine.processes import joined

    with joined() as world:
        if not world.is_leader:
            follow_claim(claim, setting, seed=seed, out=out, max_minutes=max_minutes, world=world)
            return None
        arms = list(claim.setting(setting).arms)
        folder = record_folder(out, claim.id, setting, seed)
        start = f"{claim.id}/{setting}, seed {seed}: {len(arms)} arms into {folder}"
        say(start, stream=sys.stderr)
        with StageProgress() as show:
            record = run_claim(
                claim,
                setting,
                seed=seed,
                out=out,
                source=source,
                max_minutes=max_minutes,
                on_progress=arm_progress(show, arms),
                world=world,
            )
    return None if is_launched() else record


@app.command()
def fetch(
    assets: Annotated[
        list[str] | None, typer.Argument(metavar="ASSET", help="default: all downloads")
    ] = None,
    archives: Annotated[
        Path | None, typer.Option("--from", help="folder of the official archives")
    ] = None,
    classes: Annotated[
        str | None, typer.Option(help="ImageNet: only these indices or WordNet ids, or a file")
    ] = None,
    verify_only: Annotated[bool, typer.Option("--verify-only", help="say what is there")] = False,
    offline: Annotated[bool, typer.Option("--offline", help="never download")] = False,
) -> None:
    """Get image sets and weights, each checked; repeat the command to continue."""
    from artifact.assets.fetch import fetch_assets, verify_assets

    try:
        with StageProgress() as progress:
            if not verify_only:
                fetch_assets(
                    assets or [],
                    archives=archives,
                    classes=classes,
                    offline=offline,
                    on_progress=progress,
                )
                return
            states = verify_assets(assets or [], on_progress=progress)
    except KeyboardInterrupt:
        say("", "interrupted; the same command continues", stream=sys.stderr)
        raise typer.Exit(INTERRUPTED) from None
    say(*states)
    unwanted = {"missing", "damaged"} if assets else {"damaged"}
    if unwanted & {state.state for state in states}:
        raise typer.Exit(ExitCode.DATA_MISSING)


@app.command()
def compare(
    claim: ClaimName,
    setting: SettingName = None,
    seed: Annotated[
        list[int] | None, typer.Option("--seed", help="repeat for several; default: all")
    ] = None,
    out: Out = Path("runs"),
) -> None:
    """Obtained beside expected, with a verdict.

    Exit code 0 for PASS and EXECUTES, 1 for FAIL and TREND, 6 for INCONCLUSIVE and NOT RUN.
    """
    found = find_claim(claim)
    setting = setting or found.first_setting
    found.setting(setting)
    result = compare_records_of(found, setting, find_records(out, found.id, setting, seeds=seed))
    display.comparison(result)
    raise typer.Exit(result.exit_code)


@app.command()
def report(
    out: Out = Path("runs"),
    records: Annotated[
        Path | None,
        typer.Option("--from", help="records alone: expected_results/reference_runs; default: OUT"),
    ] = None,
) -> None:
    """Everything under the output folder in HTML and Markdown, and one page for a committee."""
    from artifact.report.document import write_report

    root = records or out
    if not root.is_dir():
        raise UserError(f"{root} is not there; give the folder of your runs with --out")
    say(*write_report(out, claims=load_claims(), records=root))


@app.command()
def expect(
    claim: ClaimName,
    records: Annotated[
        Path | None,
        typer.Option(help="folder of recorded runs (as --out of run); full: the paper's table"),
    ] = None,
    setting: SettingName = None,
) -> None:
    """Derive expected values and tolerances from five recorded seeds, or from the paper's table."""
    from artifact.judging.paper_bands import expected_from_paper
    from artifact.judging.reference import expected_from_records, write_expected

    found = find_claim(claim)
    setting = setting or found.first_setting
    found.setting(setting)
    left_out: list[str] = []
    if records is None:
        section = expected_from_paper(found, setting)
    else:
        given = find_records(records, found.id, setting)
        section, left_out = expected_from_records(found, setting, given)
    path = expected_path(found.id)
    write_expected(path, found, setting, section)
    say(path, *(f"left out: {line}" for line in left_out))


def show_plan(claim: Claim, setting: str, *, seed: int, max_minutes: float | None) -> None:
    """Settings and budget of every arm; a claim that only computes has neither."""
    from artifact.claims.arms import resolve_arms
    from artifact.claims.cost_here import seconds_here
    from artifact.claims.runner import planned_ledger, resolved_yaml

    chosen = claim.setting(setting)
    if chosen.calculation is not None:
        say(f"{claim.id}/{setting} computes {', '.join(chosen.arms)}; nothing is trained")
        return
    configs = resolve_arms(claim, setting, seed=seed, max_minutes=max_minutes)
    for arm, config in configs.items():
        display.plan(arm, chosen.arms[arm], resolved_yaml(config), *planned_ledger(config))
    try:
        display.cost_here(seconds_here(claim, setting, configs), chosen.compute_minutes)
    except DataMissingError as error:
        say(f"# no estimate of the time: {error}")


def compare_records_of(claim: Claim, setting: str, records: list[ClaimRecord]) -> Comparison:
    """The records held against what is expected of the claim."""
    return compare_records(
        claim, setting, records=records, expected=load_expected(claim).get(setting)
    )
