"""Sketches: images drawn from a normal distribution per label, whose mean and covariance follow
from the noisy moments (docs/method.md, 12).

A sketch shows what the images of its label look like from afar; what the moments do not tell, fine
detail, is borrowed from a random public image. Pre-training on sketches at high noise levels
teaches the network what a label means before DP-SGD begins. Everything here is public, or
post-processing of what the moments query released.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor

from privimage.data.image_set import ImageSet
from privimage.privacy.moments import Basis, Moments, noise_deviations

MOST_PUBLIC = 10_000  # images that the basis follows from
CLIPPED_SHARE = 0.5  # of public images have coordinates longer than 1, and are clipped
SMALLEST_VARIANCE = 0.1  # of a direction, as a share of the usual one
BATCH = 1000


class Frame(NamedTuple):
    """A basis, what leads back from its coordinates to pixels, and how public images lie in it."""

    basis: Basis
    center: Float[Tensor, " pixel"]  # of bytes
    back: Float[Tensor, "coordinate pixel"]
    variance: Float[Tensor, " coordinate"]  # of clipped coordinates of public images


class Gaussians(NamedTuple):
    """A normal distribution of coordinates for each label."""

    mean: Float[Tensor, "label coordinate"]
    root: Float[Tensor, "label coordinate coordinate"]  # Cholesky factor of the covariance


def public_frame(public: ImageSet, *, num_components: int, seed: int) -> Frame:
    """The principal components of public images, whitened: all count alike, so that noise, which
    does too, hides none of them more than others. Radius 1 holds half of the public images.
    """
    chosen = torch.randperm(len(public), generator=torch.Generator().manual_seed(seed))
    pixels = public.images[chosen[:MOST_PUBLIC]].flatten(1).float()
    center = pixels.mean(0)
    pixels -= center
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        _, spread, directions = torch.pca_lowrank(pixels, q=num_components + 10, center=False)
    spread, directions = spread[:num_components], directions[:, :num_components]
    deviation = (spread / len(pixels) ** 0.5).clamp(min=1e-3)  # pixels all alike have none
    coordinates = pixels @ directions / deviation
    length = coordinates.norm(dim=1)
    radius = length.quantile(1 - CLIPPED_SHARE).clamp(min=1e-6)
    clipped = coordinates / length.clamp(min=radius)[:, None]
    return Frame(
        basis=Basis.of(directions / (deviation * radius), center),
        center=center,
        back=(directions * (deviation * radius)).T.contiguous(),
        variance=clipped.square().mean(0).clamp(min=1e-6),
    )


def gaussians(moments: Moments, frame: Frame, *, noise_multiplier: float) -> Gaussians:
    """Mean and covariance of each label: of what the moments say as much as stands out of noise of
    known size, and beside that what all labels have in common, or else public images.

    Three times the same shrinkage (empirical Bayes): the noisy deviation of a label's mean from all
    labels' mean, of the common covariance from that of public images, and of a label's covariance
    from the common one.
    """
    of_count, of_total, of_square, of_product = noise_deviations(noise_multiplier)
    num_labels, size = moments.total.shape
    variance = frame.variance.double()
    count = moments.count.clamp(min=of_count)  # a label without images has noise alone
    everyone = count.sum()
    share = count / everyone

    # means: about that of all labels, itself about that of public images
    overall = _shrunk(
        moments.total.sum(0) / everyone,
        noise=(of_total / everyone) ** 2 * num_labels,
        usual=variance,
    )
    deviations = moments.total / count[:, None] - overall
    noise = (of_total / count[:, None]) ** 2
    mean = overall + _shrunk(deviations, noise=noise, usual=variance)

    # covariances: within labels; diagonal and other entries have noise of their own
    unit = torch.full((size, size), of_product, dtype=torch.float64).fill_diagonal_(of_square) ** 2
    between = torch.einsum("l,li,lj->ij", share, mean, mean)
    within = moments.products.sum(0) / everyone - between
    level = (within.trace() / variance.sum()).clamp(min=SMALLEST_VARIANCE)
    usual = level * torch.diag(variance)
    squared = torch.outer(variance, variance)
    common = usual + _shrunk(within - usual, noise=unit * num_labels / everyone**2, usual=squared)
    own = moments.products / count[:, None, None] - mean[:, :, None] * mean[:, None, :]
    noise = unit / count[:, None, None] ** 2
    covariance = common + _shrunk(own - common, noise=noise, usual=squared)

    # positive in every direction, measured against the usual variances
    scale = (level * variance).sqrt()
    relative = covariance / scale / scale[:, None]
    values, vectors = torch.linalg.eigh((relative + relative.mT) / 2)
    values = values.clamp(min=SMALLEST_VARIANCE)
    # any square root will do: V sqrt(D) times independent normal numbers
    root = scale[:, None] * (vectors * values.sqrt()[:, None, :])
    return Gaussians(mean, root)


def draw_sketches(
    found: Gaussians, frame: Frame, public: ImageSet, *, num_images: int, seed: int
) -> tuple[UInt8[Tensor, "num channel height width"], Int64[Tensor, " num"]]:
    """`num_images` sketches and their labels, in turn; `public` lends detail. Another seed gives
    others.
    """
    generator = torch.Generator().manual_seed(seed)
    shape, num_labels = public.images.shape[1:], len(found.mean)
    labels = torch.arange(num_images) % num_labels
    mean, root = found.mean.float(), found.root.float()
    directions = frame.basis.directions.float() / frame.basis.scale
    drawn = torch.empty(num_images, *shape, dtype=torch.uint8)
    for part in torch.arange(num_images).split(BATCH):
        of = labels[part]
        normal = torch.randn(len(part), mean.shape[1], generator=generator)
        coordinates = mean[of] + torch.einsum("nij,nj->ni", root[of], normal)
        lender = torch.randint(len(public), (len(part),), generator=generator)
        detail = public.images[lender].flatten(1).float() - frame.center
        detail -= (detail @ directions) @ frame.back
        pixels = frame.center + coordinates @ frame.back + detail
        drawn[part] = pixels.round().clamp(0, 255).to(torch.uint8).view(len(part), *shape)
    return drawn, labels


def _shrunk(
    found: Float[Tensor, "*shape"],
    *,
    noise: Float[Tensor, "*#shape"],
    usual: Float[Tensor, "*#shape"],
) -> Float[Tensor, "*shape"]:
    """`found` = truth + noise of variance `noise`, the truth being of variance t * `usual`: the
    mean of the truth given what was found, with t estimated from all numbers together.
    """
    noise, usual = noise.expand_as(found), usual.expand_as(found)
    weight = (usual / noise) ** 2
    ratio = (((found**2 - noise) / usual * weight).sum() / weight.sum()).clamp(min=0)
    return found * ratio * usual / (ratio * usual + noise)
