"""Attacks that see every release, know all but noise, samples and one coin, and guess the coin.

Each run is `finetune` or `semantic_query` as the method calls it, with noise from the operating
system, on a set with one other image in it and, by the run's own fair coin, a canary. The canary is
the worst case that the guarantee covers, and the guess the best that there is (the likelihood ratio
of Neyman and Pearson), so that correct code comes close to its claim, and less noise exceeds it.
"""

from collections.abc import Iterable, Sequence

import numpy as np
import torch

from privimage.audit.probes import BrightnessReader, labelled_images, ledger_of, released_rows
from privimage.data.image_set import ImageSet
from privimage.gradients.engine import Engine
from privimage.privacy.accounting import Mechanism
from privimage.privacy.query import QUERY, semantic_query
from privimage.privacy.rng import RandomSource

OTHER, CANARY = 0, 1  # labels
LOOP = Engine("loop")


def guess_dp_sgd(
    mechanism: Mechanism, runs: Sequence[int], *, source: RandomSource, seed: int
) -> int:
    """In how many of these runs DP-SGD gives its canary's coin away: the number of right guesses.

    The guess rests on all steps: the log of (1 - q) + q exp((2 x - 1) / (2 s^2)), summed over them,
    x being what a step shows along the canary's direction, q the rate, s the noise multiplier.
    """
    rate, variance = mechanism.sampling_rate, mechanism.noise_multiplier**2
    correct = 0
    for run, is_in in coins(runs, seed):
        labels = torch.tensor([OTHER, CANARY] if is_in else [OTHER])
        images = labelled_images(labels, num_labels=2, public_size=1)
        seen = released_rows(images, mechanism, source=source, seed=run, engine=LOOP)[:, CANARY]
        evidence = np.logaddexp(
            np.log1p(-rate) if rate < 1 else -np.inf,
            np.log(rate) + (2 * seen.numpy() - 1) / (2 * variance),
        )
        correct += (evidence.sum() > 0) == is_in
    return int(correct)


def guess_query(
    mechanism: Mechanism,
    runs: Sequence[int],
    *,
    classes_per_image: int,
    source: RandomSource,
    seed: int,
) -> int:
    """The same of the semantic query: a canary's votes lie in cells where nobody else votes."""
    network = BrightnessReader(2, classes_per_image)
    correct = 0
    for _, is_in in coins(runs, seed):
        labels = torch.tensor([OTHER, CANARY] if is_in else [OTHER])
        images = ImageSet(
            images=labels.to(torch.uint8).view(-1, 1, 1, 1),  # brightness 0 or 1
            labels=labels,
            class_names=("other", "canary"),
            source="canaries",
            public_size=1,
        )
        noisy = semantic_query(
            network,
            images,
            num_public_classes=2 * classes_per_image,
            classes_per_image=classes_per_image,
            noise_multiplier=mechanism.noise_multiplier,
            ledger=ledger_of({QUERY: mechanism}, source),
            source=source,
            batch_size=2,
            device=torch.device("cpu"),
        )
        votes = noisy[CANARY, classes_per_image:].sum().item()
        correct += (votes > classes_per_image / 2) == is_in
    return int(correct)


def coins(runs: Iterable[int], seed: int) -> Iterable[tuple[int, bool]]:
    """Each run with its own coin: the auditor's, independent of the noise."""
    for run in runs:
        yield run, bool(np.random.default_rng([seed, run]).random() < 0.5)
