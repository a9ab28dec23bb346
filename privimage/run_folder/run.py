"""What a stage is: what it depends on, what it does, which files it leaves.

`Run` holds everything a stage may use. The sensitive set in it is private; files go through
`privimage.files.durable`.
"""

import dataclasses
import io
import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import nn

from privimage.data.image_set import ImageSet
from privimage.files.durable import write_durably
from privimage.machine.hardware import (
    Compute,
    default_num_workers,
    resolved_precision,
    usual_device,
)
from privimage.machine.processes import ALONE, World
from privimage.privacy.ledger import PrivacyLedger
from privimage.privacy.rng import RandomSource
from privimage.run_folder import manifest
from privimage.run_folder.checkpoint import NOT_KEPT, TIME_SHARE, Checkpoint, load_weights
from privimage.run_folder.donor import Donor
from privimage.run_folder.public_weights import PublicWeights
from privimage.run_folder.runlog import Observer, Progress, after, silent, unobserved
from privimage.run_folder.training_context import TrainingContext
from privimage.settings.config import RunConfig


@dataclass(frozen=True)
class ImageSets:
    """What a run reads. `sensitive` is private; `real_test` is real data for the evaluation, or
    None. The public set is loaded when it is first asked for: a run that takes a model over may
    not need it.
    """

    sensitive: ImageSet
    real_test: ImageSet | None
    load_public: Callable[[], ImageSet]
    public_sha256: str | None = None  # taken on trust where the public set is not to be loaded

    @cached_property
    def public(self) -> ImageSet:
        return self.load_public()

    @property
    def public_fingerprint(self) -> str:
        return self.public_sha256 or self.public.fingerprint()

    @property
    def public_if_loaded(self) -> ImageSet | None:
        return vars(self).get("public")


@dataclass(frozen=True, kw_only=True)
class Run:
    """All that a stage may use."""

    config: RunConfig
    sets: ImageSets
    folder: Path
    shared: Path
    ledger: PrivacyLedger
    source: RandomSource
    progress: Progress = silent
    # keyed like data_id: a plain hash would confirm a guess of the images
    real_test_id: str | None = None
    donor: Donor | None = None  # where the first stages are taken from
    start_from: PublicWeights | None = None  # the leader's, as the donor
    world: World = ALONE  # only the leader reads and writes the folders
    on_release: Observer = unobserved  # of the steps of DP-SGD
    inception_weights: Path | None = None  # without them FID is not measured
    known_networks: Path | None = None  # where query networks of published sets are kept

    @property
    def device(self) -> torch.device:
        return device_of(self.config)

    @property
    def compute(self) -> Compute:
        return compute_of(self.config)

    def inputs(self, stage: "Stage") -> dict[str, Any]:
        """What the stage depends on; a rehearsal's results are never taken for others."""
        if (giver := self.giver_of(stage.name)) is not None:
            return giver.inputs(stage.name)
        limit = self.config.stage_seconds
        return stage.inputs(self) | ({} if limit is None else {"stage_seconds": limit})

    def giver_of(self, stage: str) -> Donor | PublicWeights | None:
        """Where the stage is taken over from; None if it is done here."""
        givers = (giver for giver in (self.donor, self.start_from) if giver is not None)
        return next((giver for giver in givers if giver.gives(stage)), None)

    def checkpoint(
        self, name: str, *, of: str, shared: bool = False, time_share: float = TIME_SHARE
    ) -> Checkpoint:
        """The state `name` of the stage `of`, which has begun: it serves the same inputs only."""
        if not self.world.is_leader:
            return NOT_KEPT
        folder = self.shared if shared else self.folder
        inputs = (manifest.read(folder, of) or {}).get("inputs")
        path = checkpoint_folder(folder, of) / f"{name}.pt"
        return Checkpoint(path, belongs_to=inputs, time_share=time_share)

    def training(
        self, stage: str, *, shared: bool = False, time_share: float = TIME_SHARE
    ) -> TrainingContext:
        """What the training of `stage`, which begins now, finds around it. It ends early only in a
        rehearsal.
        """
        return TrainingContext(
            checkpoint=self.checkpoint(stage, of=stage, shared=shared, time_share=time_share),
            stats=self.stats,
            progress=self.progress,
            should_stop=after(self.config.stage_seconds),
            world=self.world,
            precision=self.config.performance.precision,
        )

    def load_weights(self, path: Path, model: nn.Module) -> None:
        """Weights that an earlier stage left, on every process."""
        if self.world.is_leader:
            load_weights(path, model)
        self.world.broadcast_(list(model.state_dict().values()))

    @property
    def stats(self) -> Path | None:
        """Where a stage tells its progress to machines."""
        return self.folder / "stats.jsonl" if self.world.is_leader else None

    @property
    def data_id(self) -> str:
        """The keyed hash that names the sensitive set in public files."""
        return self.ledger.to_dict()["data_id"]


@dataclass(frozen=True)
class Stage:
    """`inputs` are compared with the last manifest; `work` returns the files that it wrote.

    Every process of the run does the work; files are the leader's.
    """

    name: str
    inputs: Callable[[Run], dict[str, Any]]
    work: Callable[[Run], list[str]]
    is_shared: bool = False  # its files lie in Run.shared
    charges: str | None = None  # name of the ledger's reservation


def device_of(config: RunConfig) -> torch.device:
    """The one that is set, or for "auto" a GPU where there is one."""
    name = config.performance.device
    return usual_device() if name == "auto" else torch.device(name)


def compute_of(config: RunConfig) -> Compute:
    """Workers, precision and compiling for pre-training and sampling."""
    device, wanted = device_of(config), config.performance
    return Compute(
        num_workers=default_num_workers(device, wanted.num_threads),
        precision=resolved_precision(wanted.precision, device),
        compiled=bool(wanted.compile),
    )


def checkpoint_folder(folder: Path, stage: str) -> Path:
    """Where a stage keeps its states until it is done."""
    return folder / "checkpoints" / stage


def public_set(config: RunConfig, sets: ImageSets) -> dict[str, str]:
    """What names the public images: their set, but not the place of a folder, and their content."""
    name = config.data.public.partition(":")[0]
    return {"name": name, "sha256": sets.public_fingerprint}


def plain(section: Any) -> dict[str, Any]:
    """A configuration section as JSON stores it."""
    return json.loads(json.dumps(dataclasses.asdict(section)))


def save_picture(path: Path, picture: Image.Image) -> None:
    """Write a PNG in one step."""
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG")
    write_durably(path, buffer.getvalue())
