"""The evaluation of one set of synthetic images against real test images (paper: utility and FID;
SPEC A.8, A.9).

Reads real images, so its numbers are not covered by the privacy guarantee. Fidelity is a Frechet
distance in the query network's features, and FID beside it where the Inception weights are at
hand.
"""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int, UInt8
from torch import Tensor

from privimage.checkpoint import NOT_KEPT, Checkpoint
from privimage.config import EvaluationConfig
from privimage.data.image_set import ImageSet
from privimage.evaluation.features import (
    Extractor,
    extract_statistics,
    inception_extractor,
    query_network_extractor,
)
from privimage.evaluation.frechet import frechet_distance
from privimage.evaluation.utility import CLASSIFIER_KINDS, UtilityConfig, classify_with
from privimage.semantics.classifier import QueryNetwork
from privimage.world import ALONE, World


def evaluate(
    images: UInt8[Tensor, "num channel height width"],
    labels: Int[Tensor, " num"],
    *,
    real_test: ImageSet,
    real_train: ImageSet | None,
    network: QueryNetwork,
    config: EvaluationConfig,
    with_classifiers: bool,
    seed: int,
    device: torch.device,
    inception_weights: Path | None = None,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
    new_checkpoint: Callable[[str], Checkpoint] = lambda part: NOT_KEPT,
    world: World = ALONE,
) -> dict[str, Any]:
    """Metrics by name. With `real_train` the same numbers for real images stand beside them
    ("real_..."). `new_checkpoint` gives the place of a part's state, "metrics" or a classifier's
    name, so that an interrupted evaluation continues. The processes of `world` share features and
    the CNN; the result is the leader's.
    """
    candidates = {"": (images, labels)}
    if real_train is not None:
        candidates["real_"] = (real_train.images, real_train.labels)
    extractors = [query_network_extractor(network, device=device)]
    if inception := inception_extractor(inception_weights, device=device):
        extractors.append(inception)
    keeper = new_checkpoint("metrics")
    metrics: dict[str, Any] = world.tell(keeper.load()) or {}
    total = len(candidates) * (len(extractors) + len(CLASSIFIER_KINDS) * with_classifiers)
    done = 0
    for prefix, (candidate, candidate_labels) in candidates.items():
        sample = _random_sample(candidate, config.frechet_num_images, seed=seed)
        metrics[prefix + "frechet_num_images"] = len(sample)
        for extractor in extractors:
            if (name := prefix + extractor.metric) not in metrics:
                metrics[name] = frechet_to_real(sample, real_test, extractor, world=world)
                keeper.save(metrics)
            on_progress(done := done + 1, total)
        for kind in CLASSIFIER_KINDS if with_classifiers else ():
            if (name := f"{prefix}{kind}_accuracy") not in metrics and (
                kind == "cnn" or world.leads
            ):
                metrics[name] = classify_with(
                    kind,
                    candidate,
                    candidate_labels,
                    real_test.images,
                    real_test.labels,
                    num_classes=real_test.num_classes,
                    config=utility_config(config, seed=seed, device=device),
                    # weights that come from private images stay in memory
                    checkpoint=NOT_KEPT if prefix else new_checkpoint(kind),
                    world=world,
                )
                keeper.save(metrics)
            on_progress(done := done + 1, total)
    metrics["frechet_reference_num_images"] = len(real_test)
    return metrics


def frechet_to_real(
    images: UInt8[Tensor, "num channel height width"],
    real: ImageSet,
    extractor: Extractor,
    *,
    world: World = ALONE,
) -> float:
    """Frechet distance between the features of `images` and those of the real images; the
    leader's, and not a number on the others.
    """
    synthetic = extract_statistics(images, extractor, batch_size=500, world=world)
    reference = extract_statistics(real.images, extractor, batch_size=500, world=world)
    return frechet_distance(synthetic, reference) if world.leads else math.nan


def utility_config(config: EvaluationConfig, *, seed: int, device: torch.device) -> UtilityConfig:
    """The classifiers' settings of a run."""
    return UtilityConfig(
        seed=seed,
        device=device,
        horizontal_flip=config.horizontal_flip,
        cnn_width=config.cnn_width,
        cnn_epochs=config.cnn_epochs,
        cnn_batch_size=config.cnn_batch_size,
    )


def _random_sample(images: Tensor, num: int, *, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return images[torch.randperm(len(images), generator=generator)[:num]]
