"""The seven stages in order, from image sets to a record (paper: Figure 3 and Algorithm 1).

query_network -> query -> pretrain -> finetune -> generate -> evaluate. A stage whose manifest
matches is skipped, so repeating a run continues it. Private: the sensitive set, which lives in
memory and never in a file of the run folder; `private/` holds the key that names it. Everything
else in the folder is public or released through the ledger.
"""

import fcntl
import json
import logging
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import yaml

from privimage import manifest
from privimage.config import PrivacyConfig, RunConfig
from privimage.data.image_set import ImageSet
from privimage.data.preparation import Preparation
from privimage.data.sources import load_image_set
from privimage.durable import write_durably, write_json_durably
from privimage.environment import describe_environment
from privimage.errors import ConfigError, RunFolderError
from privimage.hardware import usable_cores
from privimage.privacy.accounting import Mechanism, calibrate_noise_multiplier
from privimage.privacy.ledger import PrivacyLedger
from privimage.privacy.rng import RandomSource, insecure_source, secure_source
from privimage.privacy.statement import privacy_statement, statement_markdown
from privimage.semantics.query import QUERY, check_selection_fits, query_mechanism
from privimage.stages import STAGES, ImageSets, Run, Stage, num_parameters
from privimage.training.finetune import DP_SGD
from privimage.training.runlog import Progress, silent

logger = logging.getLogger(__name__)
RECORD_FORMAT = 1
# settings that a charge fixes: they shaped what was released
BEFORE_QUERY = ("seed", "data", "privacy", "query_network")
BEFORE_DP_SGD = (*BEFORE_QUERY, "selection", "network", "pretrain", "finetune")


def run_pipeline(
    config: RunConfig,
    folder: Path,
    *,
    shared: Path | None = None,
    progress: Progress = silent,
    data_root: Path | None = None,
) -> dict[str, Any]:
    """Run all stages in `folder` and return the record (also in record.json).

    `shared` is a folder for the public query network, so that several runs train it once. Raises
    a UserError before any work for what a user can put right, and BudgetError if the promise
    cannot be kept.
    """
    torch.set_num_threads(config.performance.num_threads or usable_cores())
    sets = load_image_sets(config, data_root=data_root)
    check_fits(config, sets)
    plan = plan_mechanisms(config)
    with locked(folder):
        source = random_source(config)
        ledger = open_ledger(config, folder, sets, source)
        refuse_other_settings(config, folder, ledger)
        for name, mechanism in plan.items():
            ledger.reserve(name, mechanism)
        (folder / "record.json").unlink(missing_ok=True)
        write_durably(folder / "config.yaml", yaml.safe_dump(config.to_dict()).encode())
        key = _data_key(folder)
        real_test_id = None if sets.real_test is None else sets.real_test.fingerprint(key)
        run = Run(config, sets, folder, shared or folder, ledger, source, progress, real_test_id)
        seconds: dict[str, float] = {}
        for stage in STAGES:
            seconds[stage.name] = run_stage(run, stage)
        record = make_record(run, seconds)
        write_statement(run)
        write_json_durably(folder / "record.json", record)
    return record


def load_image_sets(config: RunConfig, *, data_root: Path | None = None) -> ImageSets:
    """Load and prepare what the configuration names; labels are dropped in the unconditional
    mode.
    """
    data = config.data
    preparation = Preparation(image_size=data.image_size, color=data.color)

    def load(source: str, split: str, *, cache: bool = False) -> ImageSet:
        return load_image_set(
            source, split, preparation=preparation, data_root=data_root, cache=cache
        )

    sensitive = load(data.sensitive, "train")
    real_test = load(data.evaluate_on, "test") if data.evaluate_on else None
    if not data.conditional:
        sensitive = sensitive.without_labels()
        real_test = real_test and real_test.without_labels()
    if data.public_size is not None:
        sensitive = sensitive.with_public_size(data.public_size)
    return ImageSets(sensitive, load(data.public, "train", cache=may_cache(data.public)), real_test)


def may_cache(source: str) -> bool:
    """Prepared images are kept on the disk for published sets only: a folder may be private."""
    return not source.startswith("folder:")


def check_fits(config: RunConfig, sets: ImageSets) -> None:
    """Faults that only images and settings together show; ConfigError before any work."""
    labels = sets.sensitive.num_classes
    if config.selection.strategy in ("semantic", "random"):
        check_selection_fits(labels, sets.public.num_classes, config.selection.classes_per_label)
    if config.sampling.num_images < labels:
        raise ConfigError(
            f"sampling.num_images is {config.sampling.num_images} for {labels} classes; "
            f"ask for at least {labels}"
        )
    if sets.real_test is not None and sets.real_test.class_names != sets.sensitive.class_names:
        raise ConfigError(
            f"data.evaluate_on ({config.data.evaluate_on}) has other classes than data.sensitive "
            f"({config.data.sensitive}); evaluate on images of the same classes"
        )
    if config.privacy.delta >= 1 / sets.sensitive.public_size:
        raise ConfigError(
            f"privacy.delta is {config.privacy.delta:g}, but a set of {sets.sensitive.public_size} "
            f"images needs a delta below {1 / sets.sensitive.public_size:.1e}"
        )


def plan_mechanisms(config: RunConfig) -> dict[str, Mechanism]:
    """What will be charged: the query (if asked) and DP-SGD with the noise that the rest allows."""
    privacy, plan = config.privacy, {}
    if config.selection.strategy == "semantic":
        plan[QUERY] = query_mechanism(privacy.query_noise_multiplier)
    plan[DP_SGD] = Mechanism(
        noise_multiplier=calibrated_multiplier(privacy, tuple(plan.values())),
        sampling_rate=privacy.sampling_rate,
        count=privacy.num_steps,
    )
    return plan


def calibrated_multiplier(privacy: PrivacyConfig, spent: tuple[Mechanism, ...]) -> float:
    """The smallest DP-SGD noise multiplier that keeps query and training within the promise."""
    return calibrate_noise_multiplier(
        spent,
        sampling_rate=privacy.sampling_rate,
        count=privacy.num_steps,
        epsilon=privacy.epsilon,
        delta=privacy.delta,
        accountant=privacy.accountant,
    )


def random_source(config: RunConfig) -> RandomSource:
    """The operating system's randomness, or a seeded source that marks everything it touches."""
    if not config.privacy.insecure_for_reproduction:
        return secure_source()
    return insecure_source(config.seed, insecure_for_reproduction=True)


def open_ledger(
    config: RunConfig, folder: Path, sets: ImageSets, source: RandomSource
) -> PrivacyLedger:
    """The run's ledger; it names the sensitive set by a hash keyed with `private/data_key`."""
    return PrivacyLedger.load_or_create(
        folder / "ledger.json",
        epsilon=config.privacy.epsilon,
        delta=config.privacy.delta,
        accountant=config.privacy.accountant,
        data_id=sets.sensitive.fingerprint(_data_key(folder)),
        random_source=source,
    )


def refuse_other_settings(config: RunConfig, folder: Path, ledger: PrivacyLedger) -> None:
    """RunFolderError, before anything is touched, if budget was spent here under other settings."""
    path = folder / "config.yaml"
    charged = [name for name in (QUERY, DP_SGD) if ledger.charged(name)]
    if not charged or not path.exists():
        return
    before, now = yaml.safe_load(path.read_text()), config.to_dict()
    for settings in (before, now):
        settings["data"].pop("evaluate_on", None)  # what results are compared with may change
    fixed = BEFORE_DP_SGD if DP_SGD in charged else BEFORE_QUERY
    changed = [section for section in fixed if before.get(section) != now[section]]
    if changed:
        raise RunFolderError(
            f"{folder} has already spent privacy budget with other settings of "
            f"{', '.join(changed)}; go back to those in {path}, or use a new run folder"
        )


def run_stage(run: Run, stage: Stage) -> float:
    """Run one stage unless it is done; returns the seconds that it took, now or then."""
    folder = run.shared if stage.is_shared else run.folder
    inputs = stage.inputs(run)
    if manifest.is_done(folder, stage.name, inputs):
        logger.info("%s: done before", stage.name)
        return (manifest.read(folder, stage.name) or {})["seconds"]
    if stage.charges and run.ledger.charged(stage.charges):
        refuse_second_release(run, stage, inputs)
    manifest.start(folder, stage.name, inputs)
    started = time.monotonic()
    outputs = stage.work(run)
    seconds = round(time.monotonic() - started, 2)
    manifest.finish(folder, stage.name, inputs, outputs, seconds)
    logger.info("%s: %.1f s", stage.name, seconds)
    return seconds


def refuse_second_release(run: Run, stage: Stage, inputs: dict) -> None:
    """A private stage that has already been charged may only be continued, never done
    differently.
    """
    changed = manifest.was_started_otherwise(run.folder, stage.name, inputs)
    if changed or not stage.resumes:
        reason = "with other settings" if changed else "and its result is no longer here"
        raise RunFolderError(
            f"{run.folder} has already spent privacy budget on {stage.name} {reason}; "
            "doing it again would spend it twice: use a new run folder"
        )


def make_record(run: Run, seconds: dict[str, float]) -> dict[str, Any]:
    """Metrics, budget, selection, times and environment of a finished run; nothing private."""
    config, ledger = run.config, run.ledger
    sgd = ledger.reserved[DP_SGD]
    privacy = {
        "epsilon": ledger.epsilon(config.privacy.accountant),
        "epsilon_rdp": ledger.epsilon("rdp"),
        "epsilon_pld": ledger.epsilon("pld"),
        "target_epsilon": config.privacy.epsilon,
        "delta": config.privacy.delta,
        "accountant": config.privacy.accountant,
        "query_noise_multiplier": ledger.reserved[QUERY].noise_multiplier
        if QUERY in ledger.reserved
        else None,
        "sgd_noise_multiplier": sgd.noise_multiplier,
        "sampling_rate": sgd.sampling_rate,
        "steps": ledger.charged(DP_SGD),
        "clip_norm": config.privacy.clip_norm,
    }
    return {
        "format": RECORD_FORMAT,
        "name": config.name,
        "seed": config.seed,
        "insecure": run.source.insecure,
        "metrics": json.loads((run.folder / "metrics.json").read_text()),
        "privacy": privacy,
        "selection": json.loads((run.folder / "query/selection.json").read_text()),
        "model": {"num_parameters": num_parameters(run)},
        "data": {
            "sensitive": run.sets.sensitive.source,
            "public": run.sets.public.source,
            "public_sha256": run.sets.public.fingerprint(),
            "real_test": run.sets.real_test.source if run.sets.real_test else None,
        },
        "timings_seconds": seconds,
        "environment": describe_environment(run.device) | {"precision": run.compute.precision},
    }


def write_statement(run: Run) -> None:
    """The privacy statement beside the results, in JSON and in words."""
    statement = privacy_statement(
        run.ledger,
        clip_norm=run.config.privacy.clip_norm,
        evaluated_on_real_images=run.sets.real_test is not None,
    )
    write_json_durably(run.folder / "privacy_statement.json", statement)
    write_durably(run.folder / "privacy_statement.md", statement_markdown(statement).encode())


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the run folder: a second process gets a RunFolderError instead of mixing its files
    in.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = (folder / ".lock").open("w")
    except OSError as error:
        raise RunFolderError(
            f"cannot write to {folder} ({error.strerror}); choose another run folder"
        ) from error
    with handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise RunFolderError(
                f"{folder} is in use by another process; wait for it or choose another run folder"
            ) from error
        yield


def _data_key(folder: Path) -> bytes:
    path = folder / "private" / "data_key"
    if not path.exists():
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        note = b"PRIVATE: data_key names the sensitive set in the ledger. Never publish it.\n"
        write_durably(path.parent / "README", note, mode=0o600)
        write_durably(path, secrets.token_bytes(32), mode=0o600)
    return path.read_bytes()
