"""The eight stages in order, from image sets to a record (paper: Figure 3 and Algorithm 1).

query_network -> query -> moments -> selection -> pretrain -> finetune -> generate -> evaluate.
A stage whose manifest matches is skipped, so repeating a run continues it. Private: the sensitive
set, which lives in memory and never in a file of the run folder; `private/` holds the key that
names it. Everything else in the folder is public or released through the ledger.
"""

import json
import logging
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
import yaml

from privimage.data.image_set import ImageSet
from privimage.data.places import default_data_root, find_inception
from privimage.data.preparation import Preparation
from privimage.data.sources import load_image_set
from privimage.errors import ConfigError, DataInvalidError, DataMissingError
from privimage.files.durable import write_durably, write_json_durably
from privimage.files.plain_files import refuse_links
from privimage.machine import memory
from privimage.machine.hardware import usable_cores
from privimage.machine.processes import ALONE, World
from privimage.privacy.counted_again import second_opinions
from privimage.privacy.dp_sgd import DP_SGD
from privimage.privacy.ledger import PrivacyLedger, charge_answer
from privimage.privacy.moments import check_moments_fit
from privimage.privacy.plan import PrivacyPlan
from privimage.privacy.query import check_selection_fits
from privimage.privacy.rng import RandomSource
from privimage.release.record import MEASURED, make_record, write_statement
from privimage.run_folder import manifest
from privimage.run_folder.budget import (
    data_key,
    open_ledger,
    privacy_plan,
    random_source,
    refuse_changed_release,
    refuse_older_ledger,
    refuse_other_settings,
)
from privimage.run_folder.donor import Donor
from privimage.run_folder.lock import locked
from privimage.run_folder.public_weights import PublicWeights, refuse_other_start
from privimage.run_folder.run import ImageSets, Run, Stage, checkpoint_folder
from privimage.run_folder.runlog import Observer, Progress, silent, unobserved
from privimage.settings.config import RunConfig
from privimage.stages.order import STAGES
from privimage.stages.starting_weights import check_networks, check_public_set
from privimage.stages.takeover import check_takeover

logger = logging.getLogger(__name__)


def run_pipeline(
    config: RunConfig,
    folder: Path,
    *,
    sets: ImageSets | None = None,
    shared: Path | None = None,
    donor: Donor | None = None,
    progress: Progress = silent,
    data_root: Path | None = None,
    world: World = ALONE,
    on_release: Observer = unobserved,
    known_networks: Path | None = None,
    start_from: PublicWeights | None = None,
) -> dict[str, Any]:
    """Run all stages in `folder` and return the record (also in record.json).

    `sets` are the image sets where they have been loaded already, as `load_image_sets` does.
    `shared` is a folder for the public query network, so that several runs train it once; `donor`
    a run to take the first stages from. With several processes this is what the leader of `world`
    calls, and `follow_pipeline` what the others call. `on_release` is shown the noisy gradient of
    every step of DP-SGD, which may be published as the weights may. `known_networks` is a folder of
    query networks that earlier runs trained on published sets; without it one is trained.
    `start_from` are public weights: the query network is theirs, and pre-training begins with their
    model. Raises a UserError before any work for what a user can put right, and BudgetError if the
    promise cannot be kept.
    """
    torch.set_num_threads(config.performance.num_threads or usable_cores())
    memory.keep_freed_blocks()
    with opened(
        config,
        folder,
        sets=sets,
        shared=shared,
        data_root=data_root,
        donor=donor,
        start_from=start_from,
    ) as found:
        sets, plan, ledger, source = found
        if donor is None or not donor.brings_ledger:  # else it is in the donor's ledger, as checked
            plan.reserve(ledger)
        second_opinions(ledger)  # now, while nothing is spent on a promise that they refute
        (folder / "record.json").unlink(missing_ok=True)
        write_durably(folder / "config.yaml", yaml.safe_dump(config.to_dict()).encode())
        key = data_key(folder)
        tell_owner(config, sets.sensitive, folder)
        real_test_id = None if sets.real_test is None else sets.real_test.fingerprint(key)
        introduce(world, sets, ledger)
        run = Run(
            config=config,
            sets=sets,
            folder=folder,
            shared=shared or folder,
            ledger=ledger,
            source=source,
            progress=progress,
            real_test_id=real_test_id,
            donor=donor,
            start_from=start_from,
            world=world,
            on_release=on_release,
            inception_weights=find_inception(data_root or default_data_root()),
            known_networks=known_networks,
        )
        measured = {stage.name: run_stage(run, stage) for stage in STAGES}
        record = make_record(run, measured)
        write_statement(run)
        write_json_durably(folder / "record.json", record)
    return record


@contextmanager
def opened(
    config: RunConfig,
    folder: Path,
    *,
    sets: ImageSets | None = None,
    shared: Path | None = None,
    data_root: Path | None = None,
    donor: Donor | None = None,
    start_from: PublicWeights | None = None,
) -> Iterator[tuple[ImageSets, PrivacyPlan, PrivacyLedger, RandomSource]]:
    """The run folder, locked, once everything that can be checked beforehand is right; spends
    nothing.
    """
    if donor is not None:
        donor.check()
    if start_from is not None and (donor is not None or shared is not None):
        raise ConfigError(
            "public weights bring a query network and a beginning of their own; leave out the "
            "donor and the shared folder, or --start-from"
        )
    refuse_links(shared or folder)
    if donor is None:
        refuse_other_start(folder, start_from)
    if start_from is not None:
        check_networks(start_from, config)  # before images are read
    sets = sets or load_image_sets(config, data_root=data_root)
    check_fits(config, sets, needs_public=donor is None)
    if start_from is not None:
        check_public_set(start_from, config, sets)
    plan = privacy_plan(config)
    source = random_source(config)
    if donor is not None:
        check_takeover(donor, config, sets, plan.mechanisms, source, folder=folder, shared=shared)
    with locked(folder) as check_lock:
        if donor is not None and donor.brings_ledger:
            data_key(folder)  # now, while no ledger vouches for a key that lies here already
        ledger = open_ledger(plan, folder, sets, source, donor)
        ledger.check_before_each_change(check_lock)
        refuse_older_ledger(folder, ledger)
        refuse_other_settings(config, folder, ledger)
        yield sets, plan, ledger, source


def follow_pipeline(
    config: RunConfig,
    folder: Path,
    *,
    world: World,
    sets: ImageSets | None = None,
    data_root: Path | None = None,
) -> None:
    """What every process but the leader does while that one is in `run_pipeline`: its part of the
    work. It reads images, and neither reads nor writes the run folder.
    """
    torch.set_num_threads(config.performance.num_threads or usable_cores())
    memory.keep_freed_blocks()
    sets = sets or load_image_sets(config, data_root=data_root)
    ledger = introduce(world, sets, None)
    source = random_source(config)
    # of the leader's Run without what a follower has no part in: progress, donor, releases
    run = Run(
        config=config,
        sets=sets,
        folder=folder,
        shared=folder,
        ledger=ledger,
        source=source,
        world=world,
        inception_weights=find_inception(data_root or default_data_root()),
    )
    for stage in STAGES:
        world.barrier()
        if world.broadcast_flag(False):
            with memory.explained(stage.name):
                stage.work(run)


def introduce(world: World, sets: ImageSets, ledger: PrivacyLedger | None) -> PrivacyLedger:
    """Give the followers a copy of the leader's ledger, and see that all read the same images."""
    world.barrier()
    if world.size == 1:
        assert ledger is not None
        return ledger
    once = world.broadcast(secrets.token_hex(32))
    own = sets.sensitive.fingerprint(bytes.fromhex(once))
    content, leaders = world.broadcast((ledger.to_dict() if ledger else {}, own))
    others = torch.tensor([int(own != leaders)])
    world.all_reduce_([others])
    if others.item():
        raise DataInvalidError(
            f"{others.item()} of {world.size} processes read other images than the leader as "
            f"{sets.sensitive.source}; give all machines the same data"
        )
    return ledger or PrivacyLedger.replica(content)


def tell_owner(config: RunConfig, sensitive: ImageSet, folder: Path) -> None:
    """List what did not fit the declared classes in `private/`; the list is there even if empty."""
    if config.data.classes is not None:
        left_out = json.dumps(sensitive.left_out, indent=0).encode()
        write_durably(folder / "private" / "left_out.json", left_out, mode=0o600)


def load_image_sets(
    config: RunConfig,
    *,
    data_root: Path | None = None,
    sensitive: ImageSet | None = None,
    public: ImageSet | None = None,
    blank: bool = False,
) -> ImageSets:
    """Load and prepare what the configuration names, but for what is given; labels are dropped in
    the unconditional mode. `blank`: images of the sensitive classes in folders are only counted.
    """
    data = config.data
    preparation = Preparation(image_size=data.image_size, color=data.color)

    load = partial(load_image_set, preparation=preparation, data_root=data_root)
    if sensitive is None:
        sensitive = load(data.sensitive, "train", classes=data.classes, blank=blank)
    real_test = None
    if data.evaluate_on:
        real_test = load(data.evaluate_on, "test", classes=data.classes, blank=blank)
        if len(real_test) < 2:  # of which no distance can be measured
            raise DataMissingError(
                f"{data.evaluate_on} has fewer than 2 test images of the sensitive classes; "
                "give more, or leave evaluate_on out"
            )
    if not data.conditional:
        sensitive = sensitive.without_labels()
        real_test = real_test and real_test.without_labels()
    if data.public_size is not None:
        sensitive = sensitive.with_public_size(data.public_size)

    def load_public() -> ImageSet:
        loaded = public
        if loaded is None:
            loaded = load(data.public, "train", cache=may_cache(data.public))
        refuse_empty_classes(loaded, data.public)
        return loaded

    return ImageSets(sensitive, real_test, load_public)


def refuse_empty_classes(public: ImageSet, name: str) -> None:
    """DataInvalidError for a public set with a class that the query network cannot learn."""
    if not public.labels.bincount(minlength=public.num_classes).all():
        raise DataInvalidError(
            f"{name}: a class of the public set holds no images; fill it or remove it"
        )


def may_cache(source: str) -> bool:
    """Prepared images are kept on the disk for published sets only: a folder may be private."""
    return not source.startswith("folder:")


def check_fits(config: RunConfig, sets: ImageSets, *, needs_public: bool = True) -> None:
    """Faults that only images and settings together show; ConfigError before any work."""
    labels = sets.sensitive.num_classes
    if needs_public and config.selection.strategy in ("semantic", "random"):
        check_selection_fits(labels, sets.public.num_classes, config.selection.classes_per_label)
    if needs_public and config.moments is not None:
        num_pixels = sets.public.images[0].numel()
        check_moments_fit(config.moments.num_components, num_pixels, len(sets.public))
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


def run_stage(run: Run, stage: Stage) -> dict[str, float]:
    """Run one stage unless it is done; returns what it took, now or then: seconds and memory."""
    folder = run.shared if stage.is_shared else run.folder
    inputs = run.inputs(stage)
    # done, from the same inputs, with the files that it left: nothing of it is touched
    if manifest.is_done(folder, stage.name, inputs):
        follow_me(run, work=False)
        logger.info("%s: done before", stage.name)
        before = manifest.read(folder, stage.name) or {}
        return {key: before[key] for key in MEASURED if key in before}
    # a stage that was interrupted goes on from its checkpoints, which serve these inputs only; one
    # that has been charged must not begin again from others, for that would spend twice
    giver = run.giver_of(stage.name)
    is_paid_elsewhere = giver is not None and giver.brings_ledger
    if stage.charges and run.ledger.charged(stage.charges) and not is_paid_elsewhere:
        refuse_changed_release(folder, stage.name, inputs)
    manifest.start(folder, stage.name, inputs)
    was_reset = memory.reset_peaks(run.device)
    started = time.monotonic()
    follow_me(run, work=giver is None)
    with memory.explained(stage.name):
        outputs = take_over(run, stage, giver, folder) if giver else stage.work(run)
    measured: dict[str, float] = {"seconds": round(time.monotonic() - started, 2)}
    measured |= memory.peaks_mib(run.device, was_reset=was_reset)
    # what the results rest on: a ledger that knows of fewer charges is an older copy
    charged = {"charged": run.ledger.charged(stage.charges)} if stage.charges else {}
    manifest.finish(folder, stage.name, inputs, outputs, facts=measured | charged)
    # only now that the manifest vouches for the result
    shutil.rmtree(checkpoint_folder(folder, stage.name), ignore_errors=True)
    logger.info("%s: %.1f s", stage.name, measured["seconds"])
    return measured


def follow_me(run: Run, *, work: bool) -> None:
    """Tell the other processes whether the next stage has work for them."""
    run.world.barrier()
    run.world.broadcast_flag(work)


def take_over(run: Run, stage: Stage, giver: Donor | PublicWeights, folder: Path) -> list[str]:
    """A stage's files from elsewhere. The answer to a query is charged here too, before it is
    used.
    """
    name = stage.charges
    if name in run.ledger.reserved and name != DP_SGD and not giver.brings_ledger:
        charge_answer(run.ledger, name)
    return giver.take_over(stage.name, folder)
