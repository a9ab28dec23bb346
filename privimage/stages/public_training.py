"""`privimage pretrain`: the two networks of a public set, trained once for many runs.

The query network as every run trains it, and a diffusion model of the whole set that takes no
label. These are stages of a run: their manifests say when they are done, and an interrupted one
goes on from its checkpoint. No sensitive image can come in: nothing here takes one. In their place
stands one random picture, for its shape, and the ledger reserves nothing, so it refuses every use.
"""

from pathlib import Path
from typing import Any

import torch
import yaml

from privimage.data.image_set import ImageSet, made_up_images
from privimage.data.preparation import Preparation
from privimage.errors import RunFolderError
from privimage.files.durable import write_durably
from privimage.files.plain_files import inside
from privimage.files.plain_yaml import read_yaml
from privimage.machine import memory
from privimage.machine.hardware import usable_cores
from privimage.privacy.ledger import LedgerTerms, PrivacyLedger
from privimage.privacy.rng import secure_source
from privimage.run_folder.checkpoint import save_weights
from privimage.run_folder.lock import locked
from privimage.run_folder.public_weights import (
    MODEL,
    WHOLE_SET,
    PublicWeights,
    open_public_weights,
)
from privimage.run_folder.run import ImageSets, Run, Stage, public_set
from privimage.run_folder.runlog import Progress, silent
from privimage.settings.config import plain_values
from privimage.settings.public_config import NOBODY, PublicConfig, as_run
from privimage.stages.estimate import Numbers
from privimage.stages.model import pretrain_inputs, train_on
from privimage.stages.pipeline import refuse_empty_classes, run_stage
from privimage.stages.semantic import query_network_inputs, train_network


def train_public_weights(
    config: PublicConfig,
    public: ImageSet,
    folder: Path,
    *,
    progress: Progress = silent,
    known_networks: Path | None = None,
) -> PublicWeights:
    """Train both networks on `public`, prepared as the settings say, into `folder`; the same call
    continues where an interrupted one stopped. Raises a UserError before any work for what can be
    put right, such as a folder that holds anything else.
    """
    refuse_other_content(config, folder)
    refuse_empty_classes(public, config.public)
    torch.set_num_threads(config.performance.num_threads or usable_cores())
    memory.keep_freed_blocks()
    run = run_of_nobody(config, public, folder, progress=progress, known_networks=known_networks)
    with locked(folder):
        write_durably(folder / "config.yaml", yaml.safe_dump(plain_values(config)).encode())
        for stage in PUBLIC_STAGES:
            run_stage(run, stage)
    return open_public_weights(folder)


def public_numbers(public: ImageSet) -> Numbers:
    """What the cost of both trainings depends on beside their settings."""
    return Numbers(
        num_channels=public.num_channels,
        num_labels=1,
        public_size=1,
        num_public=len(public),
        num_public_classes=public.num_classes,
    )


def refuse_other_content(config: PublicConfig, folder: Path) -> None:
    """RunFolderError for a folder that holds a run, or weights of other settings: what started from
    them could not be repeated.
    """
    settings = inside(folder, "config.yaml")
    if inside(folder, "ledger.json").exists():
        raise RunFolderError(f"{folder} holds a run on sensitive images; choose another --out")
    if not settings.exists():
        if folder.exists() and (not folder.is_dir() or [*folder.glob("[!.]*")]):
            raise RunFolderError(f"{folder} holds something else; choose another --out")
        return
    before, now = read_yaml(settings), plain_values(config)
    if not isinstance(before, dict):
        raise RunFolderError(f"{settings} holds no settings; choose another --out")
    fixed = [name for name in now if name not in ("performance", "hours")]
    changed = [name for name in fixed if before.get(name) != now[name]]
    if changed:
        raise RunFolderError(
            f"{folder} was begun with other settings of {', '.join(changed)}; go back to those in "
            f"{settings}, or choose another --out"
        )


def run_of_nobody(
    config: PublicConfig,
    public: ImageSet,
    folder: Path,
    *,
    progress: Progress,
    known_networks: Path | None,
) -> Run:
    """A run without sensitive images, whose ledger has nothing to spend."""
    settings, source = as_run(config), secure_source()
    channels = Preparation(config.image_size, config.color).num_channels
    nobody = made_up_images(
        1, num_channels=channels, image_size=config.image_size, num_classes=1
    ).without_labels()
    terms = LedgerTerms(
        epsilon=settings.privacy.epsilon,
        delta=settings.privacy.delta,
        accountant=settings.privacy.accountant,
        data_id=NOBODY,
        random_source=source,
    )
    return Run(
        config=settings,
        sets=ImageSets(nobody, None, lambda: public),
        folder=folder,
        shared=folder,
        ledger=PrivacyLedger.create(None, terms),
        source=source,
        progress=progress,
        known_networks=known_networks,
    )


def model_inputs(run: Run) -> dict[str, Any]:
    """What the model rests on: the whole public set, and no selection."""
    inputs = pretrain_inputs(run) | WHOLE_SET | {"public": public_set(run.config, run.sets)}
    assert inputs.pop("selection") == {}
    return inputs


def train_model(run: Run) -> list[str]:
    """Only the averaged weights are kept: runs start from them."""
    _, averaged = train_on(run, run.sets.public)
    save_weights(run.folder / MODEL, averaged, insecure=False)
    return [MODEL]


PUBLIC_STAGES = (
    Stage("query_network", query_network_inputs, train_network, is_shared=True),
    Stage("pretrain", model_inputs, train_model),
)
