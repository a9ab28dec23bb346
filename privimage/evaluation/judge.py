"""Scores of any synthetic images against real ones: Frechet distance, precision, recall, density
and coverage in each kind of features, and the accuracy on real images of classifiers trained on
synthetic ones.

Scores are exact. Where the real images are private, none is covered by a promise of privacy.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from typing import Any

import torch
from torch import Tensor

from privimage.classifiers.downstream import CLASSIFIER_KINDS, classify_with
from privimage.data.image_set import ImageSet
from privimage.evaluation.evaluate import BATCH_SIZE, MOST_FOR_CLASSIFIERS, random_numbers
from privimage.evaluation.features import Extractor
from privimage.evaluation.frechet import FeatureStatistics, frechet_distance
from privimage.evaluation.judged_sets import JudgedSets
from privimage.evaluation.prdc import NEIGHBOURS, prdc
from privimage.run_folder.runlog import Progress, silent

NOT_COVERED = (
    "scores of private real images are not covered by the promise of privacy: they are exact, and "
    "publishing them tells of those images"
)


def judge(
    sets: JudgedSets,
    extractors: list[Extractor],
    *,
    num_images: int,
    with_classifiers: bool,
    device: torch.device,
    progress: Progress = silent,
) -> dict[str, Any]:
    """All scores by name, and how many images they are of.

    At most `num_images` synthetic images are taken at random, and as many real ones where
    neighbours are looked for; the Frechet distance takes all real ones. Memory is that of both
    sets, of features of twice `num_images`, and of a matrix of features by features.
    """
    with_classifiers = with_classifiers and sets.fault_of_labels is None
    total = len(extractors) + len(CLASSIFIER_KINDS) * with_classifiers
    finished = count(1)
    chosen = random_numbers(len(sets.synthetic), num_images, seed=sets.seed)
    judged = sets.synthetic.take(chosen)
    reference = random_numbers(len(sets.real), num_images, seed=sets.seed)
    scores: dict[str, Any] = {
        "num_images": len(chosen),
        "num_real_images": len(sets.real),
        "num_neighbours": NEIGHBOURS,
    }
    for extractor in extractors:
        scores |= _in_features(judged, sets.real, reference, extractor)
        progress("evaluate", next(finished), total)
    if with_classifiers:
        config, first = sets.evaluation, slice(MOST_FOR_CLASSIFIERS)
        images, labels = sets.synthetic.images[first], sets.synthetic.labels[first]
        for kind in CLASSIFIER_KINDS:
            scores[f"{kind}_accuracy"] = classify_with(
                kind, images, labels, test=sets.real, config=config, seed=sets.seed, device=device
            )
            progress("evaluate", next(finished), total)
    return scores


def _in_features(
    judged: ImageSet, real: ImageSet, reference: Tensor, extractor: Extractor
) -> dict[str, float]:
    ours = _Features.of(judged.images, extractor, torch.arange(len(judged)))
    theirs = _Features.of(real.images, extractor, reference)
    scores = {extractor.metric: frechet_distance(ours.statistics, theirs.statistics)}
    if min(len(ours.kept), len(theirs.kept)) > NEIGHBOURS:
        found = prdc(theirs.kept, ours.kept)
        scores |= {f"{name}_{extractor.name}": value for name, value in found.items()}
    return scores


@dataclass(frozen=True)
class _Features:
    statistics: FeatureStatistics  # of all images
    kept: Tensor  # of those that were chosen

    @staticmethod
    def of(images: Tensor, extractor: Callable[[Tensor], Tensor], chosen: Tensor) -> "_Features":
        is_chosen = torch.zeros(len(images), dtype=torch.bool)
        is_chosen[chosen] = True
        statistics, kept = None, []
        for batch, wanted in zip(
            images.split(BATCH_SIZE), is_chosen.split(BATCH_SIZE), strict=True
        ):
            features = extractor(batch).cpu()
            some = FeatureStatistics.of(features)
            statistics = some if statistics is None else statistics.merge(some)
            kept.append(features[wanted])
        assert statistics is not None
        return _Features(statistics, torch.cat(kept))
