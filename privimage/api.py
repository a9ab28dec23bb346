"""The library in three calls: `synthesize` makes synthetic images of private ones, `load` reads
what a run left, and `pretrain` trains public weights from which many runs start. The command line
is a thin layer over this file.

Private: the images that are given to `synthesize`; they stay in memory. What a run leaves in its
folder may be published but for `private/` and the record (README, "What may be published").
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from privimage.data.image_set import ImageSet
from privimage.data.own.arrays import channels_first, image_set_of
from privimage.data.own.native import native_preparation
from privimage.data.parallel import watched
from privimage.data.preparation import Preparation
from privimage.data.sources import load_image_set
from privimage.diffusion.denoiser import Denoiser
from privimage.errors import ConfigError, RunFolderError
from privimage.privacy.ledger import PrivacyLedger
from privimage.release.image_files import load_images
from privimage.release.released_model import open_released_model
from privimage.release.run_page import write_run_page
from privimage.run_folder.public_weights import PublicWeights, open_public_weights
from privimage.run_folder.run import ImageSets
from privimage.run_folder.runlog import Progress, silent
from privimage.semantics.sketches import Sketches
from privimage.settings.config import RunConfig, load_config
from privimage.settings.defaults import default_settings
from privimage.settings.description import Description, described
from privimage.settings.public_config import (
    PublicConfig,
    default_public_settings,
    load_public_config,
)
from privimage.stages import known_networks
from privimage.stages.estimate import Numbers
from privimage.stages.pipeline import check_fits, load_image_sets, may_cache, run_pipeline
from privimage.stages.public_training import public_numbers, train_public_weights
from privimage.stages.starting_weights import check_networks, check_public_set
from privimage.stages.time_budget import chosen_before, fitted, fitted_public

IN_MEMORY = "memory"  # the name of images that come from no file
Sensitive = dict[str, np.ndarray] | ImageSet | str  # arrays by name, a set, or a source


@dataclass(frozen=True, kw_only=True)
class SyntheticImages:
    """What a finished run released, read from its folder when it is asked for."""

    folder: Path

    @cached_property
    def images(self) -> ImageSet:
        """Synthetic images, (number, channel, height, width) as uint8, with labels and names."""
        return load_images(self.folder / "images.npz")

    @cached_property
    def statement(self) -> dict[str, Any]:
        """What is promised, and what is not; in words in `privacy_statement.md`."""
        return json.loads((self.folder / "privacy_statement.json").read_text())

    @cached_property
    def ledger(self) -> PrivacyLedger:
        """A copy of the account: what was reserved and charged, and its epsilon."""
        return PrivacyLedger.replica(json.loads((self.folder / "ledger.json").read_text()))

    @cached_property
    def record(self) -> dict[str, Any]:
        """Metrics, times, memory and machine. Not for publication: times follow the images."""
        return json.loads((self.folder / "record.json").read_text())

    def show(self, out: str | Path | None = None, *, for_owner: bool = False) -> Path:
        """Write one HTML page to look at, by default into the folder, and return its path; with
        `for_owner` also what the run keeps back (`privimage show --private`).
        """
        return write_run_page(self.folder, Path(out) if out else None, for_owner=for_owner)

    def model(self) -> Denoiser:
        """The private model, on the CPU: more images from it cost no privacy."""
        return open_released_model(self.folder).denoiser

    def sketches(self) -> Sketches | None:
        """What drawing from `model` begins with (`generate_images(..., sketches=...)`), or None
        where it begins with noise alone.
        """
        return open_released_model(self.folder).sketches


def load(folder: str | Path) -> SyntheticImages:
    """What a finished run left in its folder; RunFolderError if it did not finish."""
    found = SyntheticImages(folder=Path(folder))
    if not (found.folder / "record.json").is_file():
        raise RunFolderError(f"{folder} holds no finished run; repeat the call that makes it")
    return found


def synthesize(
    images: np.ndarray | Tensor | ImageSet | str,
    labels: np.ndarray | Tensor | None = None,
    *,
    public: str | ImageSet,
    epsilon: float,
    folder: str | Path,
    class_names: tuple[str, ...] | None = None,
    public_size: int | None = None,
    image_size: int | None = None,
    color: str | None = None,
    settings: Mapping[str, Any] | None = None,
    hours: float | None = None,
    seed: int = 0,
    start_from: str | Path | None = None,
    data_root: Path | None = None,
    progress: Progress = silent,
) -> SyntheticImages:
    """Synthetic images with (epsilon, delta)-differential privacy for each private image.

    `images` are uint8, (number, height, width) or with channels last or first; or an `ImageSet`
    with labels, names and public size; or a source such as `folder:/data/mine`. `public` is a
    labelled set or the name of one, such as `glyphs`. The run lives in `folder`: the same call
    continues a run that stopped, at no new cost. `hours` is how long the run may take: networks and
    numbers are chosen for this machine. `settings` are overrides with dotted names, as
    {"privacy.num_steps": 100}. `start_from` is a folder that `pretrain` filled: query network and
    network are its. Raises a UserError, before any work, for what can be put right.

    Guarantee:
        What is released is (epsilon, delta)-differentially private under adding or removing one
        image; `result.statement` says what that covers. `class_names`, `public_size`, `image_size`
        and `color` are public: what is not declared is taken from the images, and the statement
        names it as an assumption.
    """
    facts = {
        "public_size": public_size,
        "classes": None if class_names is None else list(class_names),
        "image_size": image_size,
        "color": color,
    }
    start = None if start_from is None else open_public_weights(Path(start_from))
    overrides = dict(settings or {}) | {"seed": seed}
    before = chosen_before(Path(folder), overrides, hours=hours)
    with watched(progress):
        config, sets = own_images(
            _set_or_arrays(images, labels),
            public,
            epsilon=epsilon,
            description=described(None, facts, overrides),
            overrides=(before or {}) | overrides,
            hours=hours if before is None else None,
            start_from=start,
            data_root=data_root,
        )
    run_pipeline(
        config,
        Path(folder),
        sets=sets,
        progress=progress,
        data_root=data_root,
        known_networks=known_networks.default_place(),
        start_from=start,
    )
    return load(folder)


def pretrain(
    public: str | ImageSet,
    *,
    image_size: int,
    color: str,
    folder: str | Path,
    settings: Mapping[str, Any] | None = None,
    hours: float | None = None,
    seed: int = 0,
    data_root: Path | None = None,
    progress: Progress = silent,
) -> PublicWeights:
    """Public weights, trained once, for `synthesize(..., start_from=folder)`: the query network and
    a diffusion model of the whole public set. No private image has a place here, and nothing is
    charged. The same call continues one that stopped; the rest is as in `synthesize`.
    """
    overrides = dict(settings or {}) | {"seed": seed}
    before = chosen_before(Path(folder), overrides, hours=hours, read=load_public_config)
    config, images = public_images(
        public,
        image_size=image_size,
        color=color,
        overrides=(before or {}) | overrides,
        hours=hours if before is None else None,
        data_root=data_root,
    )
    return train_public_weights(
        config,
        images,
        Path(folder),
        progress=progress,
        known_networks=known_networks.default_place(),
    )


def public_images(
    public: str | ImageSet,
    *,
    image_size: int,
    color: str,
    overrides: dict[str, Any],
    hours: float | None = None,
    only_if_longer: bool = False,
    data_root: Path | None = None,
) -> tuple[PublicConfig, ImageSet]:
    """Settings of public weights with what the user set on top, and the set, read once."""
    source = public if isinstance(public, str) else IN_MEMORY
    values = default_public_settings(public=source, image_size=image_size, color=color)
    config = load_public_config(values, overrides)
    preparation = Preparation(image_size=config.image_size, color=config.color)
    if isinstance(public, str):
        name = config.public
        images = load_image_set(
            name, "train", preparation=preparation, data_root=data_root, cache=may_cache(name)
        )
    else:
        images = replace(public, images=preparation.prepare(public.images))
    if hours is not None:
        config = fitted_public(
            values, overrides, public_numbers(images), hours=hours, only_if_longer=only_if_longer
        )
    return config, images


def own_images(
    sensitive: Sensitive,
    public: ImageSet | str,
    *,
    epsilon: float,
    description: Description,
    overrides: dict[str, Any],
    evaluate_on: str | None = None,
    hours: float | None = None,
    only_if_longer: bool = False,
    blank: bool = False,
    start_from: PublicWeights | None = None,
    data_root: Path | None = None,
) -> tuple[RunConfig, ImageSets]:
    """Defaults for these images with what the user set on top, and the sets, each read once.

    With `hours` the numbers are chosen for that time. `blank`: private images in folders are
    counted, not read. The networks are those of `start_from`.
    """
    if start_from is not None:
        overrides = start_from.settings() | overrides
    preparation = _preparation(sensitive, description, data_root=data_root)
    load_source = partial(load_image_set, preparation=preparation, data_root=data_root)
    load_mine = partial(load_source, blank=blank)
    mine = _private_set(sensitive, preparation, description.classes, load_mine)
    if isinstance(public, str):
        theirs = load_source(public, "train", cache=may_cache(public))
    else:
        theirs = replace(public, images=preparation.prepare(public.images))
    facts = {
        "public_size": description.public_size or mine.public_size,
        "classes": description.classes,
        "image_size": preparation.image_size,
        "color": preparation.color,
    }
    values = default_settings(
        image_size=preparation.image_size,
        num_labels=mine.num_classes,
        num_public_classes=theirs.num_classes,
        public_size=facts["public_size"],
        epsilon=epsilon,
    )
    values["data"] = {
        "sensitive": sensitive if isinstance(sensitive, str) else IN_MEMORY,
        "public": public if isinstance(public, str) else IN_MEMORY,
        "conditional": mine.num_classes > 1,
        "evaluate_on": evaluate_on,
        **facts,
        "assumed": description.missing,
    }
    settled = {f"data.{fact}" for fact in facts}
    overrides = {k: v for k, v in overrides.items() if k not in settled}
    config = load_config(values, overrides)
    if start_from is not None:
        check_networks(start_from, config)
    sets = load_image_sets(
        config,
        data_root=data_root,
        # what an override names is another set
        sensitive=mine if config.data.sensitive == values["data"]["sensitive"] else None,
        public=theirs if config.data.public == values["data"]["public"] else None,
        blank=blank,
    )
    if hours is not None:
        check_fits(config, sets)  # before anything is timed
        if start_from is not None:
            check_public_set(start_from, config, sets)
        facts = Numbers.of(sets, has_query_network=start_from is not None)
        config = fitted(values, overrides, facts, hours=hours, only_if_longer=only_if_longer)
    return config, sets


def _set_or_arrays(
    images: np.ndarray | Tensor | ImageSet | str, labels: np.ndarray | Tensor | None
) -> Sensitive:
    """Arrays by the names that they would have in a file; sets and sources have labels already."""
    if isinstance(images, (str, ImageSet)):
        if labels is not None:
            raise ConfigError("labels are given beside a set that has its own; leave them out")
        return images
    arrays = {"images": np.asarray(images)}
    if labels is not None:
        arrays["labels"] = np.asarray(labels)
    return arrays


def _private_set(
    sensitive: Sensitive,
    preparation: Preparation,
    classes: tuple[str, ...] | None,
    load_source: Callable[..., ImageSet],
) -> ImageSet:
    """The private images, prepared; of the declared classes alone, where some are declared."""
    if isinstance(sensitive, str):
        return load_source(sensitive, "train", classes=classes)
    if isinstance(sensitive, ImageSet):
        mine = replace(sensitive, images=preparation.prepare(sensitive.images))
        return mine if classes is None else mine.with_classes(classes)
    return image_set_of(sensitive, preparation=preparation, source=IN_MEMORY, classes=classes)


def _preparation(
    sensitive: Sensitive, description: Description, *, data_root: Path | None
) -> Preparation:
    """Size and colour as declared; what is not is that of the images."""
    size, color = description.image_size, description.color
    if size is not None and color is not None:
        return Preparation(image_size=size, color=color)
    if isinstance(sensitive, str):
        native = native_preparation(sensitive, data_root=data_root, classes=description.classes)
    else:
        images = sensitive.images if isinstance(sensitive, ImageSet) else sensitive["images"]
        shown = channels_first(np.asarray(images[:1]), source=IN_MEMORY)
        native = Preparation(min(shown.shape[2:]), "grey" if shown.shape[1] == 1 else "rgb")
    size = rounded_size(native.image_size) if size is None else size
    return Preparation(image_size=size, color=color or native.color)


def rounded_size(pixels: int) -> int:
    """The images' own size where the network can take it, at most 64."""
    return max(8, min(64, pixels // 4 * 4))
