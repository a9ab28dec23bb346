"""The seven stages in order, from image sets to a record (paper: Figure 3 and Algorithm 1).

query_network -> query -> pretrain -> finetune -> generate -> evaluate. A stage whose manifest
matches is skipped, so repeating a run continues it. Private: the sensitive set, which lives in
memory and never in a file of the run folder; `private/` holds the key that names it. Everything
else in the folder is public or released through the ledger.
"""

import fcntl
import logging
import math
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
import yaml

from privimage import manifest, memory
from privimage.config import PrivacyConfig, RunConfig
from privimage.data.image_set import ImageSet
from privimage.data.preparation import Preparation
from privimage.data.sources import load_image_set
from privimage.donor import Donor
from privimage.durable import write_durably, write_json_durably
from privimage.errors import ConfigError, RunFolderError
from privimage.hardware import usable_cores
from privimage.privacy.accounting import Mechanism, calibrate_noise_multiplier
from privimage.privacy.ledger import PrivacyLedger
from privimage.privacy.rng import RandomSource, insecure_source, secure_source
from privimage.record import MEASURED, make_record, write_statement
from privimage.semantics.query import QUERY, check_selection_fits, query_mechanism
from privimage.stages import STAGES, ImageSets, Run, Stage
from privimage.training.finetune import DP_SGD
from privimage.training.runlog import Progress, silent

logger = logging.getLogger(__name__)
# settings that a charge fixes: they shaped what was released
BEFORE_QUERY = ("seed", "data", "privacy", "query_network")
BEFORE_DP_SGD = (*BEFORE_QUERY, "selection", "network", "pretrain", "finetune")


def run_pipeline(
    config: RunConfig,
    folder: Path,
    *,
    shared: Path | None = None,
    donor: Donor | None = None,
    progress: Progress = silent,
    data_root: Path | None = None,
) -> dict[str, Any]:
    """Run all stages in `folder` and return the record (also in record.json).

    `shared` is a folder for the public query network, so that several runs train it once; `donor`
    a run to take the first stages from. Raises a UserError before any work for what a user can
    put right, and BudgetError if the promise cannot be kept.
    """
    torch.set_num_threads(config.performance.num_threads or usable_cores())
    if donor is not None:
        donor.check()
    sets = load_image_sets(config, data_root=data_root)
    check_fits(config, sets, needs_public=donor is None)
    plan = plan_mechanisms(config)
    with locked(folder):
        source = random_source(config)
        ledger = open_ledger(config, folder, sets, source, donor)
        refuse_other_settings(config, folder, ledger)
        reserve(ledger, plan, donor)
        (folder / "record.json").unlink(missing_ok=True)
        write_durably(folder / "config.yaml", yaml.safe_dump(config.to_dict()).encode())
        key = _data_key(folder)
        real_test_id = None if sets.real_test is None else sets.real_test.fingerprint(key)
        run = Run(
            config, sets, folder, shared or folder, ledger, source, progress, real_test_id, donor
        )  # fmt: skip
        measured = {stage.name: run_stage(run, stage) for stage in STAGES}
        record = make_record(run, measured)
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
    load_public = partial(load, data.public, "train", cache=may_cache(data.public))
    return ImageSets(sensitive, real_test, load_public)


def may_cache(source: str) -> bool:
    """Prepared images are kept on the disk for published sets only: a folder may be private."""
    return not source.startswith("folder:")


def check_fits(config: RunConfig, sets: ImageSets, *, needs_public: bool = True) -> None:
    """Faults that only images and settings together show; ConfigError before any work."""
    labels = sets.sensitive.num_classes
    if needs_public and config.selection.strategy in ("semantic", "random"):
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
    config: RunConfig,
    folder: Path,
    sets: ImageSets,
    source: RandomSource,
    donor: Donor | None = None,
) -> PrivacyLedger:
    """The run's ledger; it names the sensitive set by a hash keyed with `private/data_key`.

    The ledger of a model that is taken over comes with it, and names the images as the donor did.
    """
    if donor is not None and donor.brings_ledger:
        data_id = donor.take_over_ledger(folder)
    else:
        data_id = sets.sensitive.fingerprint(_data_key(folder))
    return PrivacyLedger.load_or_create(
        folder / "ledger.json",
        epsilon=config.privacy.epsilon,
        delta=config.privacy.delta,
        accountant=config.privacy.accountant,
        data_id=data_id,
        random_source=source,
    )


def reserve(ledger: PrivacyLedger, plan: dict[str, Mechanism], donor: Donor | None) -> None:
    """Set the budget aside; a ledger that was taken over must have spent it as planned here."""
    if donor is None or not donor.brings_ledger:
        for name, mechanism in plan.items():
            ledger.reserve(name, mechanism)
        return
    for name, mechanism in plan.items():
        spent = ledger.reserved.get(name)
        as_planned = spent is not None and (
            (spent.sampling_rate, spent.count) == (mechanism.sampling_rate, mechanism.count)
            and math.isclose(spent.noise_multiplier, mechanism.noise_multiplier, rel_tol=0.01)
        )
        if not as_planned:
            raise RunFolderError(
                f"the model of {donor.folder} was made with {name} as {spent}, and the settings "
                f"say {mechanism}; take over a model that was made with these settings"
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


def run_stage(run: Run, stage: Stage) -> dict[str, float]:
    """Run one stage unless it is done; returns what it took, now or then: seconds and memory."""
    folder = run.shared if stage.is_shared else run.folder
    inputs = run.inputs(stage)
    if manifest.is_done(folder, stage.name, inputs):
        logger.info("%s: done before", stage.name)
        before = manifest.read(folder, stage.name) or {}
        return {key: before[key] for key in MEASURED if key in before}
    donor = run.donor if run.donor is not None and run.donor.gives(stage.name) else None
    is_paid_elsewhere = donor is not None and donor.brings_ledger
    if stage.charges and run.ledger.charged(stage.charges) and not is_paid_elsewhere:
        refuse_second_release(run, stage, inputs, is_repeatable=stage.resumes or donor is not None)
    manifest.start(folder, stage.name, inputs)
    was_reset = memory.reset_peaks(run.device)
    started = time.monotonic()
    outputs = take_over(run, stage, donor, folder) if donor else stage.work(run)
    measured: dict[str, float] = {"seconds": round(time.monotonic() - started, 2)}
    measured |= memory.peaks_mib(run.device, was_reset=was_reset)
    manifest.finish(folder, stage.name, inputs, outputs, measured=measured)
    logger.info("%s: %.1f s", stage.name, measured["seconds"])
    return measured


def take_over(run: Run, stage: Stage, donor: Donor, folder: Path) -> list[str]:
    """A stage's files from the donor. The query's answer is charged here too, before it is used."""
    if stage.charges == QUERY and not donor.brings_ledger and QUERY in run.ledger.reserved:
        donor.check_receipt(
            run.sets.sensitive,
            noise_multiplier=run.config.privacy.query_noise_multiplier,
            classes_per_image=run.config.selection.classes_per_label,
        )
        if not run.ledger.charged(QUERY):
            run.ledger.charge(QUERY)
    return donor.take_over(stage.name, folder)


def refuse_second_release(run: Run, stage: Stage, inputs: dict, *, is_repeatable: bool) -> None:
    """A private stage that has already been charged may only be continued, never done
    differently.
    """
    changed = manifest.was_started_otherwise(run.folder, stage.name, inputs)
    if changed or not is_repeatable:
        reason = "with other settings" if changed else "and its result is no longer here"
        raise RunFolderError(
            f"{run.folder} has already spent privacy budget on {stage.name} {reason}; "
            "doing it again would spend it twice: use a new run folder"
        )


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
