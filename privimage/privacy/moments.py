"""The moments query: what do the images of a label look like on the average? (docs/method.md, 12)

For every label: how many images it has, the sum of their coordinates, and the sum of the products
of their coordinates, each with Gaussian noise. Coordinates are those of a public basis, so few that
the noise is small beside the sums of some hundred images. Private: images, labels, and the sums
before noise, which never leave this file. Public: the noisy sums.
"""

import logging
import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from privimage.data.image_set import ImageSet
from privimage.errors import ConfigError
from privimage.machine.processes import ALONE, World
from privimage.privacy.ledger import PrivacyLedger
from privimage.privacy.noise import add_gaussian
from privimage.privacy.query import query_mechanism
from privimage.privacy.rng import RandomSource

logger = logging.getLogger(__name__)
MOMENTS = "moments_query"  # what it is charged as
# how the unit of sensitivity is shared out among count, sum and products, as squares
COUNT_SHARE, SUM_SHARE, PRODUCT_SHARE = 0.05, 0.25, 0.70
COORDINATE_STEPS = 2**14  # a coordinate is a whole multiple of 2^-14
LARGEST_STEPS = 2.0**20  # of one coordinate before clipping: its square is far below 2^53
COUNT_STEP = 2.0**-20  # the grid of the noise of counts, which are whole numbers
EXACT = 2.0**53  # float64 holds all whole numbers up to here
DIRECTION_STEPS = 2.0**20  # of the basis's longest entry
AT_ONCE = 4096  # images


class Basis(NamedTuple):
    """A public basis in whole numbers: coordinates of pixels p are (p @ directions - offset) /
    scale, of norm 1 at most for most public images.
    """

    directions: Float[Tensor, "pixel coordinate"]  # whole numbers
    offset: Float[Tensor, " coordinate"]  # whole numbers
    scale: float

    @classmethod
    def of(
        cls,
        directions: Float[Tensor, "pixel coordinate"],
        center: Float[Tensor, " pixel"],
    ) -> "Basis":
        """That of real numbers, rounded: coordinates (p - center) @ directions."""
        scale = DIRECTION_STEPS / float(directions.abs().max())
        whole = (directions.double() * scale).round()
        return cls(whole, (center.double() @ whole).round(), scale)


class Moments(NamedTuple):
    """Noisy sums over the images of each label, float64."""

    count: Float[Tensor, " label"]
    total: Float[Tensor, "label coordinate"]  # of the clipped coordinates
    products: Float[Tensor, "label coordinate coordinate"]  # of two of them, symmetric


def noise_deviations(noise_multiplier: float) -> tuple[float, float, float, float]:
    """Standard deviations of the noise of count, sum, squares (the diagonal of the products) and
    products of two different coordinates.

    Scaled by them, one image of coordinates z moves the sums by the norm sqrt(COUNT_SHARE +
    SUM_SHARE |z|^2 + PRODUCT_SHARE |z|^4) / multiplier, for sum over i of z_i^4 + 2 sum over i < j
    of z_i^2 z_j^2 is |z|^4; with |z| <= 1 that is at most 1 / multiplier.
    """
    count, total, products = (
        noise_multiplier / math.sqrt(share) for share in (COUNT_SHARE, SUM_SHARE, PRODUCT_SHARE)
    )
    return count, total, products, products / math.sqrt(2)


def clipped_steps(
    images: UInt8[Tensor, "num channel height width"], basis: Basis
) -> Float[Tensor, "num coordinate"]:
    """Coordinates in whole steps of 2^-14, clipped to the norm 1. PRIVATE.

    Guarantee:
        A row depends on its own image alone, to the last bit, and its norm is at most
        COORDINATE_STEPS. Pixels and basis are whole numbers whose products add up to less than
        2^53, so that float64 is exact in any order; what follows is done number by number.
    """
    pixels = images.flatten(1).double()
    assert 255 * float(basis.directions.abs().sum(0).max()) < EXACT
    coordinates = (pixels @ basis.directions - basis.offset) * (COORDINATE_STEPS / basis.scale)
    steps = coordinates.trunc().clamp(-LARGEST_STEPS, LARGEST_STEPS)
    norm = steps.square().sum(1, keepdim=True).sqrt()  # of an exact sum of squares
    return torch.where(norm > COORDINATE_STEPS, steps * (COORDINATE_STEPS / norm), steps).trunc()


def exact_sums(
    images: UInt8[Tensor, "num channel height width"],
    labels: Int[Tensor, " num"],
    *,
    num_labels: int,
    basis: Basis,
) -> Moments:
    """Counts, and sums in whole steps (2^-14, products 2^-28). PRIVATE: noise comes first of all.

    Sums of whole numbers below 2^53 are exact, in any order.
    """
    size = basis.directions.shape[1]
    count = torch.zeros(num_labels, dtype=torch.float64)
    total = torch.zeros(num_labels, size, dtype=torch.float64)
    products = torch.zeros(num_labels, size, size, dtype=torch.float64)
    for start in range(0, len(images), AT_ONCE):
        steps = clipped_steps(images[start : start + AT_ONCE].cpu(), basis)
        of = labels[start : start + AT_ONCE].cpu()
        for label in range(num_labels):
            rows = steps[of == label]
            count[label] += len(rows)
            total[label] += rows.sum(0)
            products[label] += rows.T @ rows
    return Moments(count, total, products)


def moments_query(
    sensitive: ImageSet,
    basis: Basis,
    *,
    noise_multiplier: float,
    ledger: PrivacyLedger,
    source: RandomSource,
    keep: Callable[[Moments], None] = lambda noisy: None,
    world: World = ALONE,
) -> Moments:
    """Release the noisy moments, charged to the ledger before they can be used.

    `keep` gets them just before the charge, to write them to a file that is marked private: a crash
    after the charge then loses nothing, and nobody may read that file before the charge.

    Every process of `world` calls it alike and adds up its part of the images; the sums meet on the
    leader, whose ledger and source are used. The others get zeros.

    Guarantee:
        One Gaussian mechanism of `noise_multiplier`, asked once, without sampling, under adding or
        removing one image. An image moves the sums of its own label alone, whatever the others are,
        and in units of the noise by 1 / noise_multiplier at most (`noise_deviations`). Labels
        without images get the same noise. The answer is charged before it is used.
    """
    if world.is_leader:
        ledger.reserve(MOMENTS, query_mechanism(noise_multiplier))
        ledger.check_charge(MOMENTS)
    mine = world.rows(len(sensitive))
    sums = exact_sums(
        sensitive.images[mine],
        sensitive.labels[mine],
        num_labels=sensitive.num_classes,
        basis=basis,
    )
    world.barrier()
    world.reduce_to_leader_(list(sums))
    if not world.is_leader:
        return Moments(*map(torch.zeros_like, sums))
    noisy = _with_noise(sums, source.stream(MOMENTS), noise_multiplier=noise_multiplier)
    del sums
    keep(noisy)
    ledger.charge(MOMENTS)  # in any case: a fresh answer is never free
    logger.info("moments of %d labels released", len(noisy.count))
    return noisy


def _with_noise(sums: Moments, source: RandomSource, *, noise_multiplier: float) -> Moments:
    """Each number once: of the products those on and above the diagonal, mirrored afterwards."""
    of_count, of_total, of_square, of_product = noise_deviations(noise_multiplier)
    step = 1.0 / COORDINATE_STEPS
    count = add_gaussian(source, sums.count, standard_deviation=of_count, step=COUNT_STEP)
    total = add_gaussian(source, sums.total * step, standard_deviation=of_total, step=step)
    exact = sums.products * step**2
    squares = add_gaussian(
        source,
        exact.diagonal(dim1=1, dim2=2).contiguous(),
        standard_deviation=of_square,
        step=step**2,
    )
    above = torch.triu_indices(*exact.shape[1:], offset=1)
    different = add_gaussian(
        source, exact[:, above[0], above[1]], standard_deviation=of_product, step=step**2
    )
    products = torch.diag_embed(squares)
    products[:, above[0], above[1]] = different
    products[:, above[1], above[0]] = different
    return Moments(count, total, products)


def check_moments_fit(num_components: int, num_pixels: int, num_public: int) -> None:
    """ConfigError where there are no so many directions in the public images."""
    most = min(num_pixels, num_public) // 2
    if num_components > most:
        raise ConfigError(
            f"moments.num_components is {num_components}, but {num_public} public images of "
            f"{num_pixels} values have at most {most} directions to rely on; use fewer"
        )
