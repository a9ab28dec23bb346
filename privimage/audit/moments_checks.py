"""Direct checks of the moments query: how far one image moves what is released, and in which units.

The weights of count, sums and products are spelled out here and not taken from the mechanism: their
squares have to add up to 1. All images are made up.
"""

import torch
from torch import Tensor

from privimage.audit.checks import SIZE, made_up_images, neighbour, seeded
from privimage.audit.probes import ledger_of
from privimage.data.image_set import ImageSet
from privimage.machine.processes import ALONE, World
from privimage.privacy.accounting import Mechanism
from privimage.privacy.moments import MOMENTS, Basis, Moments, moments_query

COUNT, SUM, PRODUCT = 0.05, 0.25, 0.70  # squares of the weights
COORDINATES, MULTIPLIER = 6, 5.0
LENGTHS = (0.5, 1e3)  # of the images' coordinates before clipping, about
ROUNDING = 1e-4  # coordinates are cut to whole steps of 2^-14, so that a move is a little short


def weighted_moments(moments: Moments) -> Tensor:
    """Every released number once, a row for each label, in units in which one image moves all of
    them together by 1 at most, and by 1 where its coordinates are clipped.
    """
    size = moments.total.shape[1]
    above = torch.triu_indices(size, size, offset=1)
    products = moments.products * PRODUCT**0.5
    parts = [
        moments.count[:, None] * COUNT**0.5,
        moments.total * SUM**0.5,
        products.diagonal(dim1=1, dim2=2),
        products[:, above[0], above[1]] * 2**0.5,
    ]
    return torch.cat(parts, dim=1)


def moments_moves(seed: int) -> dict[str, float]:
    """How far one image moves the moments of its label, seeded noise being the same; and how far
    those of the other labels.
    """
    largest, longest_least, other = 0.0, 1.0, 0.0
    for length in LENGTHS:
        for num, added in ((7, "last"), (4, "first"), (0, "last"), (8, "last")):
            images = made_up_images(num + 1, seed=seed)
            label = int(images.labels[-1 if added == "last" else 0])
            whole, rest = (
                weighted_moments(asked(each, length=length, seed=seed))
                for each in (images, neighbour(images, added))
            )
            moved = whole - rest
            move = float(moved[label].norm())
            largest = max(largest, move)
            if length > 1:
                longest_least = min(longest_least, move)
            moved[label] = 0
            other = max(other, float(moved.abs().max()))
    return {
        "largest_moments_move": largest,
        "clipped_moments_move": longest_least,
        "other_moments_moves": other,
    }


def asked(images: ImageSet, *, length: float, seed: int, world: World = ALONE) -> Moments:
    """Seeded moments of images whose coordinates are about so long."""
    generator = torch.Generator().manual_seed(seed)
    directions = torch.randn(SIZE**2, COORDINATES, generator=generator)
    directions *= length / (74 * SIZE * COORDINATES**0.5)  # 74: the deviation of a random byte
    return moments_query(
        images,
        Basis.of(directions, torch.full((SIZE**2,), 127.5)),
        noise_multiplier=MULTIPLIER,
        ledger=ledger_of({MOMENTS: Mechanism(MULTIPLIER, 1.0, 1)}, seeded(seed)),
        source=seeded(seed),
        world=world,
    )
