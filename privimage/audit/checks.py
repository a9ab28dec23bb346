"""Direct checks of the two mechanisms: the sample, the sensitivity, and one or two processes.

Each calls `finetune` or `semantic_query` as the method does and looks at what is released. Where
two runs on neighbouring sets have the same seeded noise, it cancels, and what is left is how far
one image moves the result. All images are made up.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from scipy import stats
from torch import nn

from privimage.audit.noise_tests import correlation_p_value, variance_p_value, worst
from privimage.audit.probes import (
    CLIP_NORM,
    Released,
    labelled_images,
    ledger_of,
    observed_steps,
    released_rows,
)
from privimage.classifiers.query_network import QueryNetwork
from privimage.data.image_set import ImageSet
from privimage.diffusion.denoiser import Denoiser
from privimage.diffusion.unet import UNet, UNetConfig
from privimage.gradients.engine import Engine
from privimage.machine.processes import World
from privimage.privacy.accounting import Mechanism
from privimage.privacy.query import QUERY, semantic_query
from privimage.privacy.rng import RandomSource, insecure_source
from privimage.settings.config import FinetuneConfig

SIZE, LABELS = 8, 3  # of the images of the neighbouring sets
LITTLE_NOISE = 0.01  # a multiplier beside which single images can be seen
COPIED = FinetuneConfig(learning_rate=1e-30, noise_multiplicity=3, label_dropout=0.1)
ENGINES = (
    Engine("loop"),
    Engine("loop", num_workers=2),
    Engine("folded", micro_batch_size=4),
    Engine("folded", micro_batch_size=3, num_workers=2),
    Engine("folded", micro_batch_size=5, precision="bfloat16"),
)


def largest_moves(seed: int) -> dict[str, float]:
    """How far one image moves a step's sum, in clip norms, over engines, precisions, workers,
    micro-batches, places, sizes of the set and images; and how far from a whole number of votes
    one image moves the query.

    1 at most is promised, and reached by these images, whose gradients are long. The network has
    every kind of layer, and dropout.
    """
    moves = [
        move
        for engine in ENGINES
        for num, added, rate in (
            (8, "last", 1.0),
            (9, "first", 1.0),
            (0, "last", 1.0),
            (17, "last", 0.4),
        )
        for move in _moves_of_steps(engine, num, added, rate, seed=seed)
    ]
    return {"largest_move": max(moves), "smallest_move": min(moves)}


def query_moves(seed: int) -> dict[str, float]:
    """How far one image moves the noisy histogram, seeded noise being the same: of `num_cells`
    cells, each by exactly one vote, all in the row of its label.
    """
    classes, k, multiplier = 12, 2, 5.0
    torch.manual_seed(seed)
    network = QueryNetwork(classes, num_channels=1, widths=(8,), blocks=(1,), block="basic").eval()
    cells, other = [], 0.0
    for num, added in ((7, "last"), (4, "first"), (0, "last"), (8, "last")):
        images = made_up_images(num + 1, seed=seed)
        fewer = neighbour(images, added)
        label = int(images.labels[-1 if added == "last" else 0])
        whole, rest = (
            semantic_query(
                network,
                each,
                num_public_classes=classes,
                classes_per_image=k,
                noise_multiplier=multiplier,
                ledger=ledger_of({QUERY: Mechanism(multiplier, 1.0, 1)}, seeded(seed)),
                source=seeded(seed),
                batch_size=4,
                device=torch.device("cpu"),
            )
            for each in (images, fewer)
        )
        moved = whole - rest
        cells.append(float((moved[label] == 1).sum()))
        moved[label][moved[label] == 1] = 0
        other = max(other, float(moved.abs().max()))
    return {"fewest_votes": min(cells), "most_votes": max(cells), "other_moves": other}


def sample_p_values(source: RandomSource) -> dict[str, float]:
    """Who was drawn, read from steps with next to no noise: independent coins of the stated rate?

    Batch sizes too even are fixed or shuffled batches; images that are drawn as often as each other
    are an epoch; a step like the one before is a sample used twice.
    """
    num, mechanism = 300, Mechanism(LITTLE_NOISE, 0.3, 40)
    images = labelled_images(torch.arange(num), num_labels=num, public_size=num)
    engine = Engine("folded", micro_batch_size=32)
    seen = released_rows(images, mechanism, source=source, seed=0, engine=engine).numpy()
    drawn = (seen > 0.5).astype(float)
    rate = mechanism.sampling_rate
    standard = (drawn - rate) / (rate * (1 - rate)) ** 0.5
    total = int(drawn.sum())
    return {
        "rate": float(stats.binomtest(total, drawn.size, rate).pvalue),
        "batches": _spread_p_value(drawn.sum(1), num, rate),
        "images": _spread_p_value(drawn.sum(0), len(drawn), rate),
        "coins": worst(
            [
                correlation_p_value(standard[1:].ravel(), standard[:-1].ravel()),
                correlation_p_value(standard[:, 1:].ravel(), standard[:, :-1].ravel()),
            ]
        ),
        # what a drawn image adds is 1 clip norm, and the noise is there whether it is drawn or not
        "noise": worst(
            variance_p_value((seen - drawn)[drawn == is_in] / LITTLE_NOISE) for is_in in (0.0, 1.0)
        ),
    }


def empty_step_p_value(source: RandomSource) -> float:
    """Steps that draw nobody: is their noise that of any other step?"""
    images = labelled_images(torch.arange(2), num_labels=60, public_size=100)
    mechanism = Mechanism(1.0, 0.01, 60)
    steps = released_rows(images, mechanism, source=source, seed=0, engine=Engine("loop"))
    return worst(variance_p_value(row[2:].numpy()) for row in steps)


def released_by(world: World, seed: int) -> list[list[float]]:
    """Three seeded steps and a query, as numbers: on any number of processes the very same."""
    denoiser, images = made_up_denoiser(seed), made_up_images(13, seed=seed)
    mechanism = Mechanism(1.0, 0.7, 3)
    steps = observed_steps(
        denoiser,
        images,
        COPIED,
        mechanism,
        source=seeded(seed),
        seed=seed,
        engine=Engine("folded", micro_batch_size=3),
        world=world,
    )
    torch.manual_seed(seed)
    network = QueryNetwork(12, num_channels=1, widths=(8,), blocks=(1,), block="basic").eval()
    noisy = semantic_query(
        network,
        images,
        num_public_classes=12,
        classes_per_image=2,
        noise_multiplier=5.0,
        ledger=ledger_of({QUERY: Mechanism(5.0, 1.0, 1)}, seeded(seed)),
        source=seeded(seed),
        batch_size=4,
        device=torch.device("cpu"),
        world=world,
    )
    released = [torch.cat([value.flatten() for value in step.values()]) for step in steps]
    return [values.tolist() for values in (*released, noisy.flatten())] if world.is_leader else []


def made_up_images(num: int, *, seed: int) -> ImageSet:
    """Random pixels; among them a white, a black and a repeated image."""
    drawn = np.random.default_rng([seed, 7])
    pixels = torch.from_numpy(drawn.integers(0, 256, (num, 1, SIZE, SIZE), dtype=np.uint8))
    for place, value in ((1, 255), (2, 0)):
        pixels[place : place + 1] = value
    pixels[3:4] = pixels[0:1]
    names = tuple(map(str, range(LABELS)))
    return ImageSet(pixels, torch.arange(num) % LABELS, names, "made up", public_size=10)


def made_up_denoiser(seed: int) -> Denoiser:
    """A small U-Net with every kind of layer, dropout too, and weights that are nowhere 0."""
    config = UNetConfig(
        image_size=SIZE,
        num_channels=1,
        num_classes=LABELS,
        base_channels=8,
        channel_multipliers=(1, 2),
        blocks_per_level=1,
        attention_resolutions=(4,),
        dropout=0.1,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        denoiser = Denoiser(UNet(config))
        for parameter in denoiser.parameters():
            nn.init.normal_(parameter, std=0.2)
    return denoiser


def _moves_of_steps(engine: Engine, num: int, added: str, rate: float, *, seed: int) -> list[float]:
    """Norms of the difference of two neighbours' steps, of those that drew the image."""
    images = made_up_images(num + 1, seed=seed)
    mechanism = Mechanism(LITTLE_NOISE, rate, 2)
    whole, rest = (
        observed_steps(
            made_up_denoiser(seed),
            each,
            COPIED,
            mechanism,
            source=seeded(seed),
            seed=seed,
            engine=engine,
        )
        for each in (images, neighbour(images, added))
    )
    expected_batch = rate * images.public_size
    moves = [_distance(a, b) * expected_batch / CLIP_NORM for a, b in zip(whole, rest, strict=True)]
    return [move for move in moves if move > 0]  # 0 exactly: the image was not drawn


def _distance(one: Released, other: Released) -> float:
    squares = [(one[name].double() - other[name].double()).square().sum() for name in one]
    return float(torch.stack(squares).sum().sqrt())


def neighbour(images: ImageSet, added: str) -> ImageSet:
    """Without the image that the other set has more; what is public stays as it is."""
    kept = slice(None, -1) if added == "last" else slice(1, None)
    return replace(images, images=images.images[kept], labels=images.labels[kept])


def _spread_p_value(counts: Sequence[float] | np.ndarray, num: int, rate: float) -> float:
    """Two-sided: do counts of independent coins differ as much as they should?"""
    dispersion = float(((np.asarray(counts) - num * rate) ** 2).sum() / (num * rate * (1 - rate)))
    law = stats.chi2(len(counts))
    return 2 * float(min(law.cdf(dispersion), law.sf(dispersion)))


def seeded(seed: int) -> RandomSource:
    return insecure_source(seed, insecure_for_reproduction=True)
