"""DP-SGD's step around the clipped sum (Abadi et al. 2016, Algorithm 1): what is drawn for an image
before its gradient, and the noise after the sum.

Private: the images, and every gradient until `noisy_mean_gradient` has added its noise. Public
afterwards: the noisy mean. The mean over an image's K noise copies is taken inside its loss, so one
image gives one gradient (noise multiplicity, Dockhorn et al. 2023) and K changes neither the
sensitivity nor the accounting.
"""

import hashlib
from typing import NamedTuple

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from privimage.privacy.clipping import check_positive
from privimage.privacy.noise import add_gaussian, grid_step
from privimage.privacy.rng import RandomSource

DP_SGD = "dp_sgd"  # what its steps are charged as


class Drawn(NamedTuple):
    """Random numbers of each image, for its label, its K noise levels and its K noise images."""

    uniform: Float[Tensor, " image"]
    normal: Float[Tensor, "image copy"]
    noise: Float[Tensor, "image copy channel height width"]


def drawn_for_images(
    pixels: UInt8[Tensor, "image channel height width"],
    *,
    copies: int,
    seed: int,
    step: int,
    device: torch.device,
) -> Drawn:
    """What is drawn for each image in a step. PRIVATE: it follows from the images.

    Guarantee:
        What is drawn for an image is a function of its own bytes, `seed` and `step` alone. So the
        loss of an image does not depend on which others were drawn, or even exist, and the clip
        norm bounds what adding or removing one of them can change, even for someone who knows the
        seed.
    """
    num = len(pixels)
    uniform = torch.empty(num, device=device)
    normal = torch.empty(num, copies, device=device)
    noise = torch.empty(num, copies, *pixels.shape[1:], device=device)
    generator = torch.Generator(device)
    for row, image in enumerate(pixels.cpu().numpy()):
        name = hashlib.sha256(f"{seed} {step} ".encode() + image.tobytes()).digest()
        generator.manual_seed(int.from_bytes(name[:8], "little") >> 1)
        uniform[row : row + 1].uniform_(generator=generator)
        normal[row].normal_(generator=generator)
        noise[row].normal_(generator=generator)
    return Drawn(uniform, normal, noise)


def noisy_mean_gradient(
    clipped_sum: dict[str, Tensor],
    *,
    source: RandomSource,
    clip_norm: float,
    noise_multiplier: float,
    expected_batch_size: float,
) -> dict[str, Tensor]:
    """(clipped_sum + N(0, (clip_norm * noise_multiplier)^2)) / expected_batch_size, in float32.

    The divisor must be a public constant, never the number of images drawn. Call it once for a
    logical batch, also for an empty one. The result may be used freely.

    Guarantee:
        Given the sensitivity that `ClippedGradientSum` promises, this is one Gaussian mechanism of
        `noise_multiplier` over a Poisson sample.
    """
    check_positive("clip_norm", clip_norm)
    check_positive("noise_multiplier", noise_multiplier)
    check_positive("expected_batch_size", expected_batch_size)
    deviation, step = clip_norm * noise_multiplier, grid_step(clip_norm)
    return {
        name: (
            add_gaussian(source, summed, standard_deviation=deviation, step=step)
            / expected_batch_size
        ).float()
        for name, summed in clipped_sum.items()
    }
