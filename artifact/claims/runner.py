"""Runs a claim: every arm of a setting through the pipeline, then one record of them all.

Repeating a run continues it: the pipeline skips what is done. The arms share the public query
network, and an arm may take over another one's pre-trained model. The record is written after each
arm, so a run that stops half-way can be reported. The log may name settings and times, never a
private image or an un-noised value.
"""

import dataclasses
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import yaml

from artifact.claims.arms import SHARED, Source, donor_of, resolve_arms, stand_ins
from artifact.claims.calculations import CALCULATIONS
from artifact.claims.records import (
    ARM_FORMAT,
    ARM_SECTIONS,
    ClaimRecord,
    record_folder,
    write_record,
)
from artifact.claims.registry import Claim
from artifact.exit_codes import RunFailedError
from privimage.errors import ConfigError, UserError
from privimage.machine.environment import describe_environment
from privimage.machine.processes import ALONE, World
from privimage.machine.terminal.plain_text import PlainFormatter
from privimage.privacy.accounting import compute_epsilon
from privimage.run_folder.budget import privacy_plan
from privimage.run_folder.donor import Donor
from privimage.run_folder.lock import locked
from privimage.settings.config import RunConfig
from privimage.stages.pipeline import follow_pipeline, run_pipeline

logger = logging.getLogger(__name__)
OnProgress = Callable[[str, str, int, int], None]  # (arm, stage, done, total)
SHARED_STAGE = "query_network"
EMPTY_ARM: dict[str, Any] = {
    "format": ARM_FORMAT,
    "insecure": False,
    **{section: {} for section in ARM_SECTIONS},
}
LOG_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"


def run_claim(
    claim: Claim,
    setting_name: str,
    *,
    seed: int,
    out: Path,
    source: Source | None = None,
    max_minutes: float | None = None,
    on_progress: OnProgress = lambda arm, stage, done, total: None,
    world: World = ALONE,
) -> ClaimRecord:
    """Run all arms into `out/CLAIM/SETTING/seedN/ARM` and return the record written beside them.

    `source` is where the first stages come from (`--from`); with `max_minutes` every stage only
    takes its first steps. With several processes the leader of `world` calls this and the others
    `follow_claim`. A UserError passes through; anything else becomes a RunFailedError that
    names the log.
    """
    setting = claim.setting(setting_name)
    if setting.calculation is not None:
        return run_calculation(claim, setting_name, seed=seed, out=out)
    configs = resolve_arms(claim, setting_name, seed=seed, max_minutes=max_minutes)
    replaced = stand_ins(setting).items()
    if source is not None:
        for arm in configs:
            source.donor(arm).check()
    folder = record_folder(out, claim.id, setting_name, seed)
    with locked(folder), logged_to(folder / "log.txt"):
        (folder / "record.json").unlink(missing_ok=True)
        record = ClaimRecord(claim.id, setting_name, seed, arms={}, environment={}, seconds=0.0)
        for arm, config in configs.items():
            donor = donor_of(setting, arm, folder, source)
            found = _run_arm(arm, config, folder, donor, on_progress, world)
            found["data"]["stands_in_for"] = {role: absent for role, (absent, _) in replaced}
            arms = {**record.arms, arm: found}
            record = dataclasses.replace(
                record,
                arms=arms,
                environment=arms[arm].get("environment", {}),
                seconds=round(work_seconds(arms), 1),
            )
            write_record(folder / "record.json", record)
    return record


def follow_claim(
    claim: Claim,
    setting_name: str,
    *,
    seed: int,
    out: Path,
    max_minutes: float | None = None,
    world: World,
) -> None:
    """What every process but the leader does; a claim that trains nothing is the leader's alone."""
    if claim.setting(setting_name).calculation is not None:
        return
    folder = record_folder(out, claim.id, setting_name, seed)
    configs = resolve_arms(claim, setting_name, seed=seed, max_minutes=max_minutes)
    for arm, config in configs.items():
        follow_pipeline(config, folder / arm, world=world)


def run_calculation(claim: Claim, setting_name: str, *, seed: int, out: Path) -> ClaimRecord:
    """Compute a claim that trains nothing, and write its record like any other."""
    name = claim.setting(setting_name).calculation
    if name not in CALCULATIONS:
        raise ConfigError(
            f"{claim.id}/{setting_name} has calculation {name!r}; there are "
            f"{', '.join(CALCULATIONS)}"
        )
    folder = record_folder(out, claim.id, setting_name, seed)
    with locked(folder), logged_to(folder / "log.txt"):
        started = time.monotonic()
        found = CALCULATIONS[name](out, seed)
        seconds = round(time.monotonic() - started, 2)
        arms = {arm: EMPTY_ARM | {"metrics": metrics} for arm, metrics in found.items()}
        environment = describe_environment(torch.device("cpu"))
        record = ClaimRecord(claim.id, setting_name, seed, arms, environment, seconds)
        write_record(folder / "record.json", record)
    return record


def work_seconds(arms: dict[str, dict[str, Any]]) -> float:
    """Time of all stages, in this command or an earlier one; the shared stage counts once."""
    timings = [arm["timings_seconds"] for arm in arms.values()]
    own = sum(sum(t.values()) - t.get(SHARED_STAGE, 0.0) for t in timings)
    return own + max((t.get(SHARED_STAGE, 0.0) for t in timings), default=0.0)


def planned_ledger(config: RunConfig) -> tuple[list[dict[str, Any]], float]:
    """What a run would charge, as rows, and the epsilon that it adds up to; spends nothing."""
    plan = privacy_plan(config).mechanisms
    privacy = config.privacy
    total = compute_epsilon(
        tuple(plan.values()), delta=privacy.delta, accountant=privacy.accountant
    )
    return [{"name": name, **vars(mechanism)} for name, mechanism in plan.items()], total


def resolved_yaml(config: RunConfig) -> str:
    """The complete settings of an arm, as the run folder will hold them."""
    return yaml.safe_dump(config.to_dict(), sort_keys=False)


@contextmanager
def logged_to(path: Path) -> Iterator[None]:
    """Append the log and the warnings of both packages to `path`, whatever the terminal shows."""
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(PlainFormatter(LOG_FORMAT))
    loggers = [logging.getLogger(name) for name in ("privimage", "artifact", "py.warnings")]
    levels = [each.level for each in loggers]
    logging.captureWarnings(True)
    for each in loggers:
        each.addHandler(handler)
        each.setLevel(logging.INFO)
    try:
        yield
    finally:
        for each, level in zip(loggers, levels, strict=True):
            each.removeHandler(handler)
            each.setLevel(level)
        logging.captureWarnings(False)
        handler.close()


def _run_arm(
    arm: str,
    config: RunConfig,
    folder: Path,
    donor: Donor | None,
    on_progress: OnProgress,
    world: World,
) -> dict[str, Any]:
    def progress(stage: str, done: int, total: int) -> None:
        on_progress(arm, stage, done, total)

    logger.info("arm %s of %s, seed %d", arm, config.name, config.seed)
    try:
        return run_pipeline(
            config,
            folder / arm,
            shared=folder / SHARED,
            donor=donor,
            progress=progress,
            world=world,
        )
    except UserError as error:
        logger.error("arm %s: %s", arm, error)
        raise
    except Exception as error:
        logger.exception("arm %s failed", arm)
        reason = " ".join(str(error).split()) or "no message"
        raise RunFailedError(
            f"arm {arm} failed ({type(error).__name__}: {reason[:200]}); details are in "
            f"{folder / 'log.txt'}; the same command continues the run"
        ) from error
