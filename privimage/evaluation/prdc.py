"""Precision and recall (Kynkaanniemi et al. 2019, section 2), density and coverage (Naeem et al.
2020, section 3) of synthetic images, from features of them and of real ones (docs/method.md, 8).

A set's manifold is the union of balls around its points, each reaching to the point's k-th nearest
neighbour in the set. Distances are taken chunk by chunk, in float64: memory grows with the number
of images and not with its square. Scores of private images are private as well: take test images.
"""

from collections.abc import Iterator

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from privimage.errors import ConfigError

NEIGHBOURS = 5  # as Naeem et al. advise; Kynkaanniemi et al. have 3
CHUNK = 1024  # rows of distances at a time
ROUNDING = 1e-12  # of the squared norms: a point on the rim of a ball is in it


def prdc(
    real: Float[Tensor, "num_real feature"],
    synthetic: Float[Tensor, "num_synthetic feature"],
    *,
    num_neighbours: int = NEIGHBOURS,
    chunk: int = CHUNK,
) -> dict[str, float]:
    """The four scores by name. Density may exceed 1, the others lie in [0, 1].

    ConfigError for features that are not finite, and for no more points than neighbours.
    """
    for features in (real, synthetic):
        if len(features) <= num_neighbours:
            raise ConfigError(
                f"{len(features)} images have no {num_neighbours} neighbours each; give at least "
                f"{num_neighbours + 1} of real and of synthetic ones"
            )
        if not features.isfinite().all():
            raise ConfigError("some features are not finite; look for what is wrong in the images")
    real, synthetic = real.double(), synthetic.double()
    of_real = _radii(real, num_neighbours, chunk)
    of_synthetic = _radii(synthetic, num_neighbours, chunk)
    is_precise, num_balls = [], 0
    is_covered = torch.zeros(len(real), dtype=torch.bool)
    for inside in _inside(synthetic, real, of_real, chunk):  # (chunk of synthetic, real)
        is_precise.append(inside.any(dim=1))
        num_balls += int(inside.sum())
        is_covered |= inside.any(dim=0)
    recalled = [
        inside.any(dim=1) for inside in _inside(real, synthetic, of_synthetic, chunk)
    ]  # (chunk of real, synthetic)
    return {
        "precision": _share(torch.cat(is_precise)),
        "recall": _share(torch.cat(recalled)),
        "density": num_balls / (num_neighbours * len(synthetic)),
        "coverage": _share(is_covered),
    }


def _radii(points: Tensor, num_neighbours: int, chunk: int) -> Float[Tensor, " num"]:
    """Squared distance of each point to its k-th nearest other one."""
    found = []
    for first in range(0, len(points), chunk):
        distances = _squared(points[first : first + chunk], points)
        rows = torch.arange(len(distances))
        distances[rows, first + rows] = torch.inf  # the point itself
        found.append(distances.kthvalue(num_neighbours, dim=1).values)
    return torch.cat(found)


def _inside(
    points: Tensor, centres: Tensor, radii: Tensor, chunk: int
) -> Iterator[Bool[Tensor, "point centre"]]:
    """Which ball each point lies in, chunk by chunk of the points."""
    slack = ROUNDING * centres.square().sum(dim=1)
    for some in points.split(chunk):
        rim = radii + slack + ROUNDING * some.square().sum(dim=1, keepdim=True)
        yield _squared(some, centres) <= rim


def _squared(a: Tensor, b: Tensor) -> Float[Tensor, "a b"]:
    """|a - b|^2 = |a|^2 - 2 a b + |b|^2 for every pair; the product is a matrix product."""
    norms = a.square().sum(dim=1)[:, None] + b.square().sum(dim=1)
    return norms.addmm(a, b.T, alpha=-2).clamp(min=0)


def _share(those: Tensor) -> float:
    return float(those.double().mean())
