"""The evaluation of one set of synthetic images against real test images (paper: utility and FID;
docs/method.md, 8 and 9).

Reads real images, so its numbers are not covered by the privacy guarantee. Fidelity is a Frechet
distance in the query network's features, and FID beside it where the Inception weights are at
hand.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import torch
from jaxtyping import UInt8
from torch import Tensor

from privimage.classifiers.downstream import CLASSIFIER_KINDS, classify_with
from privimage.classifiers.query_network import QueryNetwork
from privimage.data.image_set import ImageSet
from privimage.evaluation.features import (
    Extractor,
    extract_statistics,
    inception_extractor,
    query_network_extractor,
)
from privimage.evaluation.frechet import frechet_distance
from privimage.machine.processes import ALONE, World
from privimage.run_folder.checkpoint import NOT_KEPT, Checkpoint
from privimage.run_folder.training_context import BY_ITSELF, TrainingContext
from privimage.settings.config import EvaluationConfig

BATCH_SIZE = 500
MOST_FOR_CLASSIFIERS = 100_000  # logistic regression and MLP hold their pixels as floats


def evaluate(
    synthetic: ImageSet | None,
    *,
    real_test: ImageSet,
    real_train: ImageSet | None,
    network: QueryNetwork,
    config: EvaluationConfig,
    with_classifiers: bool,
    seed: int,
    device: torch.device,
    inception_weights: Path | None = None,
    new_checkpoint: Callable[[str], Checkpoint] = lambda part: NOT_KEPT,
    context: TrainingContext = BY_ITSELF,
) -> dict[str, Any]:
    """Metrics by name; `synthetic` is needed on the leader of the processes alone, and may be
    mapped.

    With `real_train` the same numbers for real images stand beside them ("real_...").
    The CNN runs in the context's precision, features always in float32. `new_checkpoint` gives the
    place of a part's state, "metrics" or a classifier's name. The processes share features and the
    CNN; the result is the leader's. Classifiers get at most `MOST_FOR_CLASSIFIERS` images, so
    memory does not grow with the number of images.
    """
    world = context.world
    extractors = _extractors(network, inception_weights, device=device)
    candidates = {"": _of_leader(synthetic, config, like=real_test, seed=seed, world=world)}
    if real_train is not None:
        candidates["real_"] = _of_everybody(real_train, config, seed=seed, world=world)
    keeper = new_checkpoint("metrics")
    metrics: dict[str, Any] = world.broadcast(keeper.load()) or {}
    total = len(candidates) * (len(extractors) + len(CLASSIFIER_KINDS) * with_classifiers)
    finished = count(1)
    distance = partial(frechet_to_real, real=real_test, world=world)
    accuracy = partial(
        classify_with,
        test=real_test,
        config=config,
        seed=seed,
        device=device,
    )

    def measured(name: str, measure: Callable[[], float]) -> None:
        if name not in metrics:  # else an interrupted evaluation has it
            metrics[name] = measure()
            keeper.save(metrics)
        context.progress("evaluate", next(finished), total)

    for prefix, candidate in candidates.items():
        metrics[prefix + "frechet_num_images"] = candidate.frechet_num_images
        for extractor in extractors:
            of_these = partial(distance, candidate.batches(), extractor=extractor)
            measured(prefix + extractor.metric, of_these)
        if not with_classifiers:
            continue
        images, labels = candidate.labelled()
        for kind in CLASSIFIER_KINDS if world.is_leader else ("cnn",):
            # weights that come from private images stay in memory
            keeps = NOT_KEPT if prefix else new_checkpoint(kind)
            around = TrainingContext(checkpoint=keeps, world=world, precision=context.precision)
            of_it = partial(accuracy, kind, images, labels, context=around)
            measured(f"{prefix}{kind}_accuracy", of_it)
    metrics["frechet_reference_num_images"] = len(real_test)
    return metrics


def _extractors(
    network: QueryNetwork, inception_weights: Path | None, *, device: torch.device
) -> list[Extractor]:
    extractors = [query_network_extractor(network, device=device)]
    if inception_weights is not None:
        extractors.append(inception_extractor(inception_weights, device=device))
    return extractors


def frechet_to_real(
    batches: Iterable[UInt8[Tensor, "_ channel height width"]],
    real: ImageSet,
    extractor: Extractor,
    *,
    world: World = ALONE,
) -> float:
    """Frechet distance between the features of synthetic and real images. Each process gives its
    own `batches`; the leader gets the distance, the others NaN.
    """
    own = real.images[world.rows(len(real))].split(BATCH_SIZE)
    synthetic = extract_statistics(batches, extractor, world=world)
    reference = extract_statistics(own, extractor, world=world)
    return frechet_distance(synthetic, reference) if world.is_leader else math.nan


@dataclass(frozen=True)
class _Candidate:
    """Images to be measured: this process's part of them for the Frechet distance, and those that
    the classifiers are trained on.
    """

    frechet_num_images: int
    batches: Callable[[], Iterable[Tensor]]
    labelled: Callable[[], tuple[Tensor, Tensor]]


def _of_leader(
    images: ImageSet | None, config: EvaluationConfig, *, like: ImageSet, seed: int, world: World
) -> _Candidate:
    """Images that the leader alone has: it deals out what the others need."""
    num = world.broadcast(0 if images is None else len(images))
    numbers = random_numbers(num, config.frechet_num_images, seed=seed)

    def batches() -> Iterator[Tensor]:
        parts = numbers.split(BATCH_SIZE)
        for first in range(0, len(parts), world.size):
            own = None
            for receiver, chosen in enumerate(parts[first : first + world.size]):
                batch = torch.empty(len(chosen), *like.images.shape[1:], dtype=torch.uint8)
                batch = batch if images is None else images.images[chosen]
                batch = world.send_from_leader(batch, receiver=receiver)
                own = batch if receiver == world.rank else own
            if own is not None:
                yield own

    def labelled() -> tuple[Tensor, Tensor]:
        first = slice(MOST_FOR_CLASSIFIERS)  # of all classes, for they go round
        nothing = torch.empty(0), torch.empty(0)
        return world.broadcast(
            (images.images[first], images.labels[first]) if images is not None else nothing
        )

    return _Candidate(len(numbers), batches, labelled)


def _of_everybody(
    images: ImageSet, config: EvaluationConfig, *, seed: int, world: World
) -> _Candidate:
    """Images that every process has: each takes its part."""
    numbers = random_numbers(len(images), config.frechet_num_images, seed=seed)
    own = numbers[world.rows(len(numbers))].split(BATCH_SIZE)

    def labelled() -> tuple[Tensor, Tensor]:
        if len(images) <= MOST_FOR_CLASSIFIERS:
            return images.images, images.labels
        chosen = random_numbers(len(images), MOST_FOR_CLASSIFIERS, seed=seed)
        return images.images[chosen], images.labels[chosen]

    return _Candidate(len(numbers), lambda: (images.images[part] for part in own), labelled)


def random_numbers(num: int, most: int, *, seed: int) -> Tensor:
    """At most `most` of `num` images; sorted, so that a mapped file is read forwards."""
    order = torch.randperm(num, generator=torch.Generator().manual_seed(seed))
    return order[:most].sort().values
