"""Sketches: images drawn from a normal distribution per label, whose mean and covariance follow
from the noisy moments (docs/method.md, 12).

A sketch shows what the images of its label look like from afar. At high noise levels there is
nothing else to see: so drawing begins with noise on sketches, and the network, which is trained on
lower levels only, adds what moments do not tell. Everything here is public, or post-processing of
what the moments query released.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from privimage.data.image_set import ImageSet
from privimage.privacy.moments import Basis, Moments, noise_deviations

MOST_PUBLIC = 10_000  # images that the basis follows from
CLIPPED_SHARE = 0.5  # of public images have coordinates longer than 1, and are clipped
SMALLEST_VARIANCE = 0.1  # of a direction, as a share of the usual one


class Frame(NamedTuple):
    """A basis, what leads back from its coordinates to pixels, and how public images lie in it."""

    basis: Basis
    center: Float[Tensor, " pixel"]  # of bytes
    back: Float[Tensor, "coordinate pixel"]
    variance: Float[Tensor, " coordinate"]  # of clipped coordinates of public images
    rest: Float[Tensor, " pixel"]  # deviation of what coordinates do not tell of public images


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
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        _, spread, directions = torch.pca_lowrank(pixels, q=num_components + 10, center=False)
    spread, directions = spread[:num_components], directions[:, :num_components]
    deviation = (spread / len(pixels) ** 0.5).clamp(min=1e-3)  # pixels all alike have none
    coordinates = pixels @ directions / deviation
    length = coordinates.norm(dim=1)
    radius = length.quantile(1 - CLIPPED_SHARE).clamp(min=1e-6)
    clipped = coordinates / length.clamp(min=radius)[:, None]
    pixels -= (pixels @ directions) @ directions.T
    return Frame(
        basis=Basis.of(directions / (deviation * radius), center),
        center=center,
        back=(directions * (deviation * radius)).T.contiguous(),
        variance=clipped.square().mean(0).clamp(min=1e-6),
        rest=pixels.square().mean(0).sqrt(),
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


@dataclass(frozen=True, eq=False)
class Sketches:
    """Draws sketches, for drawing to begin with noise of `noise_level` on them."""

    found: Gaussians
    frame: Frame
    noise_level: float

    def draw(
        self, labels: Int64[Tensor, " num"], *, size: int, generator: torch.Generator
    ) -> Float[Tensor, "num channel size size"]:
        """One sketch for each label, in [-1, 1] or a little beyond, on the generator's device."""
        device, num_components = generator.device, self.found.mean.shape[1]
        mean, root, center, back, rest = (
            tensor.to(device, torch.float32)
            for tensor in (*self.found, self.frame.center, self.frame.back, self.frame.rest)
        )
        of = labels.to(device)
        normal = torch.randn(len(of), num_components, generator=generator, device=device)
        coordinates = mean[of] + torch.einsum("nij,nj->ni", root[of], normal)
        pixels = center + coordinates @ back
        pixels += rest * torch.randn(pixels.shape, generator=generator, device=device)
        return (pixels / 127.5 - 1).view(len(of), -1, size, size)


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


def tensors_of(frame: Frame, moments: Moments | None = None, **numbers: float) -> dict[str, Tensor]:
    """By name, as they lie in a file."""
    found = {**frame.basis._asdict(), **frame._asdict(), **(moments._asdict() if moments else {})}
    found |= {"scale": frame.basis.scale, **numbers}
    return {
        name: torch.as_tensor(value, dtype=None if torch.is_tensor(value) else torch.float64)
        for name, value in found.items()
        if name != "basis"
    }


def frame_from(kept: Mapping[str, Tensor]) -> Frame:
    """The frame among tensors that `tensors_of` named."""
    basis = Basis(kept["directions"], kept["offset"], float(kept["scale"]))
    return Frame(basis, *(kept[name] for name in Frame._fields[1:]))


def sketches_from(kept: Mapping[str, Tensor]) -> Sketches:
    """The sketches that follow from tensors that `tensors_of` named."""
    frame = frame_from(kept)
    moments = Moments(*(kept[name] for name in Moments._fields))
    found = gaussians(moments, frame, noise_multiplier=float(kept["noise_multiplier"]))
    return Sketches(found, frame, float(kept["noise_level"]))
