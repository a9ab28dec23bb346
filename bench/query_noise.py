"""How many of the query's choices are true words under each noise that was published.

    python bench/query_noise.py [--trials 200]

Made-up histograms: every class has k true words, each in the answers of the same share of its
images (the hit rate); the remaining votes fall evenly on the other words. Noise as it is drawn
here, choices by masking in label order. That is kind to the query: real wrong words gather in few
cells. Nothing private: no image is read.
"""

import argparse
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from harness import publish
from torch import Tensor

from privimage.privacy.noise import add_gaussian
from privimage.privacy.query import VOTE_STEP, query_sensitivity
from privimage.privacy.rng import insecure_source
from privimage.semantics.selection import select_by_masking

NUM_WORDS = 1000
HIT_RATES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
Noise = Callable[[Tensor], Tensor]  # from a histogram to its noisy form


@dataclass(frozen=True)
class Query:
    """A published setting: rows of the histogram, words kept a row, images a row."""

    num_labels: int
    words_per_label: int
    images_per_label: int


CIFAR10, CELEBA = Query(10, 5, 5000), Query(1, 10, 162_770)
MECHANISMS = {  # column: setting, multiplier, law
    "CIFAR-10, Gaussian, 484": (CIFAR10, 484.0, "gaussian"),
    "CIFAR-10, Gaussian, 50": (CIFAR10, 50.0, "gaussian"),
    "CIFAR-10, uniform, 484": (CIFAR10, 484.0, "uniform"),
    "CelebA, Gaussian, 5300": (CELEBA, 5300.0, "gaussian"),
    "CelebA, uniform, 5300": (CELEBA, 5300.0, "uniform"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--trials", type=int, default=200)
    trials = parser.parse_args().trials
    figures = {
        name: {rate: found_words(*mechanism, hit_rate=rate, trials=trials) for rate in HIT_RATES}
        for name, mechanism in MECHANISMS.items()
    }
    rows = [
        [f"{rate:g}", *(f"{figures[name][rate]['mean']:.1f}" for name in MECHANISMS)]
        for rate in HIT_RATES
    ]
    columns = [f"{name} (of {query.words_per_label})" for name, (query, _, _) in MECHANISMS.items()]
    publish(
        "query_noise", title=f"True words among those chosen, mean of {trials} trials",
        columns=["hit rate", *columns], rows=rows,
        settings={"trials": trials, "num_words": NUM_WORDS}, figures=figures,
    )  # fmt: skip


def found_words(
    query: Query, multiplier: float, law: str, *, hit_rate: float, trials: int
) -> dict[str, Any]:
    """Mean over trials and labels of the true words chosen, and its standard error."""
    deviation = query_sensitivity(query.words_per_label) * multiplier
    noise = NOISES[law](deviation)
    found = []
    for histogram in histograms(query, hit_rate=hit_rate, trials=trials):
        chosen = select_by_masking(noise(histogram), query.words_per_label)
        hits = [len({*row} & {*true_words(query, label)}) for label, row in enumerate(chosen)]
        found.append(sum(hits) / query.num_labels)
    return {"mean": float(np.mean(found)), "error": float(np.std(found) / math.sqrt(trials))}


def histograms(query: Query, *, hit_rate: float, trials: int) -> Iterator[Tensor]:
    """Un-noised counts; every image gives k votes on average."""
    k = query.words_per_label
    rates = np.full((query.num_labels, NUM_WORDS), k * (1 - hit_rate) / (NUM_WORDS - k))
    for label in range(query.num_labels):
        rates[label, true_words(query, label)] = hit_rate
    generator = np.random.default_rng(0)
    for _ in range(trials):
        yield torch.from_numpy(generator.binomial(query.images_per_label, rates).astype(float))


def true_words(query: Query, label: int) -> list[int]:
    """No two labels have one in common."""
    first = label * query.words_per_label
    return list(range(first, first + query.words_per_label))


def gaussian(deviation: float) -> Noise:
    """As the query adds it, from a seeded source: there is nothing to protect."""
    source = insecure_source(0, insecure_for_reproduction=True)
    return lambda histogram: add_gaussian(
        source, histogram, standard_deviation=deviation, step=VOTE_STEP
    )


def uniform(width: float) -> Noise:
    """As the published script had it until November 2024: on [0, width)."""
    generator = np.random.default_rng(0)
    return lambda histogram: (
        histogram + torch.from_numpy(generator.uniform(0, width, histogram.shape))
    )


NOISES = {"gaussian": gaussian, "uniform": uniform}

if __name__ == "__main__":
    main()
