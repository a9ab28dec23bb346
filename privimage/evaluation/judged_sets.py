"""What `privimage evaluate` compares: any synthetic images, real ones, and features of both.

Features are Inception's where the weights are here; beside them those of the run's query network,
if the images are a run's, or of a classifier of a public set, if one is named. Without any of them
they are coarse pixels, which need nothing, prefer neither set, and are named so. Real images may be
private: nothing of them is written, and no feature is learnt from them.
"""

import json
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from privimage.classifiers.query_network import new_query_network, train_query_network
from privimage.data.image_set import ImageSet
from privimage.data.own.native import native_preparation
from privimage.data.places import default_data_root, find_inception
from privimage.data.preparation import Preparation
from privimage.data.sources import FOLDER_PREFIX, NAMED_SOURCES, load_image_set
from privimage.errors import DataInvalidError, DataMissingError
from privimage.evaluation.features import (
    Extractor,
    inception_extractor,
    public_classifier_extractor,
    query_network_extractor,
)
from privimage.files.plain_files import inside, read_bounded
from privimage.run_folder.checkpoint import load_weights
from privimage.run_folder.runlog import Progress, silent
from privimage.run_folder.training_context import TrainingContext
from privimage.settings.config import EvaluationConfig, QueryNetworkConfig, RunConfig, load_config
from privimage.settings.defaults import default_settings
from privimage.settings.validation import validated

IMAGES, NETWORK = "images.npz", "query_network"
PIXELS_A_SIDE = 16  # of the coarse pixels: few enough for a covariance
MOST_CLASSES = 1000


@dataclass(frozen=True)
class JudgedSets:
    """Images of one shape; `run` is the run folder that made them, if there is one."""

    synthetic: ImageSet
    real: ImageSet
    run: Path | None
    seed: int = 0

    @property
    def settings(self) -> RunConfig | None:
        """Those of the run; None for other images, and of what was published of a run."""
        path = self.run / "config.yaml" if self.run else None
        return load_config(path) if path and path.is_file() else None

    @property
    def evaluation(self) -> EvaluationConfig:
        """As the run was evaluated, or as own images are by default."""
        settings = self.settings
        return settings.evaluation if settings else EvaluationConfig(horizontal_flip=False)

    @property
    def fault_of_labels(self) -> str | None:
        """Why no classifier can be trained on one set and tested on the other."""
        names, wanted = self.synthetic.class_names, self.real.class_names
        if len(wanted) < 2:
            return "the real images are of one class"
        if {*names} != {*wanted}:
            few = [", ".join(some[:5]) + ", ..." * (len(some) > 5) for some in (names, wanted)]
            return f"the classes differ: {few[0]} of the images, {few[1]} of the real ones"
        if len(self.synthetic.labels.unique()) < 2:
            return "the images are of one class"
        return None


def open_sets(
    images: str, against: str, *, data_root: Path | None = None, seed: int = 0
) -> JudgedSets:
    """Read both, the real ones at the size and in the colours of the others.

    Either is a path (a folder, a zip or an npz file), `folder:PATH`, or a named set; `images` may
    be a run folder as well. Of the real ones the test split is taken, and all where there is none.
    Raises ConfigError, DataMissingError and DataInvalidError as `load_image_set` does.
    """
    run, source = Path(images).expanduser(), _source(images)
    if not (run / IMAGES).is_file():
        run = None
    else:
        source = f"{FOLDER_PREFIX}{inside(run, IMAGES)}"
    preparation = native_preparation(source, data_root=data_root)
    load = partial(load_image_set, preparation=preparation, data_root=data_root)
    synthetic, theirs = load(source, "train"), _source(against)
    try:
        real = load(theirs, "test")
    except DataMissingError:
        if theirs in NAMED_SOURCES:
            raise
        real = load(theirs, "train")
    if {*real.class_names} == {*synthetic.class_names}:
        synthetic = synthetic.with_classes(real.class_names)  # numbered alike
    for name, found in ((images, synthetic), (against, real)):
        if len(found) < 2:
            raise DataMissingError(f"{name} has fewer than 2 images; give more")
    return JudgedSets(synthetic, real, run, seed)


def extractors_of(
    sets: JudgedSets,
    *,
    public: str | None,
    device: torch.device,
    data_root: Path | None = None,
    progress: Progress = silent,
) -> list[Extractor]:
    """All features that can be had, as the head of this file says; never none."""
    found = []
    if weights := find_inception(data_root or default_data_root()):
        found.append(inception_extractor(weights, device=device))
    if public is not None:
        found.append(_public_classifier(sets, public, device, data_root, progress))
    elif own := _own_network(sets, device=device):
        found.append(own)
    return found or [pixel_extractor(sets.real, device=device)]


def pixel_extractor(images: ImageSet, *, device: torch.device) -> Extractor:
    """Pixels averaged to at most `PIXELS_A_SIDE` a side: at most 768 features."""
    side = min(PIXELS_A_SIDE, images.image_size)

    def features_of(x: Tensor) -> Tensor:
        return F.adaptive_avg_pool2d(x, side).flatten(1)

    return Extractor("pixels", images.num_channels * side**2, device, features_of)


def _source(text: str) -> str:
    """A path as a source; a named set goes before a path of its name."""
    is_path = text not in NAMED_SOURCES and Path(text).expanduser().exists()
    return f"{FOLDER_PREFIX}{text}" if is_path else text


def _own_network(sets: JudgedSets, *, device: torch.device) -> Extractor | None:
    """The query network of the run, which its own Frechet distance was measured with."""
    config, run = sets.settings, sets.run
    if config is None or run is None or not inside(run, f"{NETWORK}.safetensors").is_file():
        return None
    path = inside(run, f"{NETWORK}.json")
    try:
        num_classes = json.loads(read_bounded(path))["num_classes"]
        if type(num_classes) is not int or not 0 < num_classes <= MOST_CLASSES:
            raise ValueError(num_classes)
    except (OSError, ValueError, LookupError, TypeError, RecursionError) as error:
        raise DataInvalidError(f"{path} cannot be read; copy it again") from error
    channels = sets.real.num_channels
    network = new_query_network(config.query_network, num_classes, num_channels=channels)
    load_weights(run / f"{NETWORK}.safetensors", network)
    return query_network_extractor(network, device=device)


def _public_classifier(
    sets: JudgedSets,
    public: str,
    device: torch.device,
    data_root: Path | None,
    progress: Progress,
) -> Extractor:
    """A classifier of the public set, as a run's query network is trained by default."""
    real = sets.real
    preparation = Preparation(real.image_size, "grey" if real.num_channels == 1 else "rgb")
    images = load_image_set(_source(public), "train", preparation=preparation, data_root=data_root)
    if images.num_classes < 2:
        raise DataInvalidError(f"{public} has one class only; name a set of several")
    usual = default_settings(
        image_size=real.image_size,
        num_labels=1,
        num_public_classes=images.num_classes,
        public_size=len(images),
        epsilon=1.0,  # of no matter for a public network
    )
    config = validated(QueryNetworkConfig, usual["query_network"], where="public classifier")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(sets.seed)
        network = new_query_network(config, images.num_classes, num_channels=real.num_channels)
    order = torch.from_numpy(np.random.default_rng([sets.seed, 1]).permutation(len(images)))
    train_query_network(
        network,
        images.images[order],
        images.labels[order],
        config,
        seed=sets.seed,
        device=device,
        context=TrainingContext(progress=progress),
    )
    return public_classifier_extractor(network, device=device)
