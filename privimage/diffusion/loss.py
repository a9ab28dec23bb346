"""The denoising loss with noise multiplicity (EDM Eq. 2 and Table 1; Dockhorn et al. 2023, DPDM;
docs/method.md, 4).

An image's loss is the mean over K noisy copies of it, so that in fine-tuning one clipped gradient
covers all of them and K costs no privacy. With sensitive images every value here is PRIVATE: it
may only leave as a clipped, noised sum of gradients.
"""

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor

from privimage.diffusion.denoiser import SIGMA_DATA, Denoise

# ln(sigma) of a training image is normal with this mean and standard deviation (EDM Table 1)
LOG_SIGMA_MEAN, LOG_SIGMA_STANDARD_DEVIATION = -1.2, 1.2


def denoising_loss(
    denoise: Denoise,
    images: Float[Tensor, "batch channel height width"],
    labels: Int[Tensor, " batch"] | None,
    sigma: Float[Tensor, "batch copy"],
    noise: Float[Tensor, "batch copy channel height width"],
) -> Float[Tensor, " batch"]:
    """One value per image: the mean over its copies and all pixels of lambda(sigma) (D - x)^2.

    `noise` is standard normal; copy k of image b is image b plus sigma[b, k] * noise[b, k].
    """
    clean = images[:, None].expand(noise.shape)
    noisy = clean + sigma[:, :, None, None, None] * noise
    if labels is not None:
        labels = labels[:, None].expand(sigma.shape).flatten()
    denoised = denoise(noisy.flatten(0, 1), sigma.flatten(), labels).reshape(noise.shape)
    error = (denoised - clean).square().mean(dim=(2, 3, 4))  # (batch, copy)
    return (loss_weight(sigma) * error).mean(dim=1)


def loss_weight(sigma: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """lambda(sigma) = 1 / c_out(sigma)^2: the network's own error counts alike at every level."""
    return (sigma**2 + SIGMA_DATA**2) / (sigma * SIGMA_DATA) ** 2


def sample_noise_levels(
    num: int, *, generator: torch.Generator, largest: float = math.inf
) -> Float[Tensor, " num"]:
    """Independent noise levels of training, on the generator's device."""
    normal = torch.randn(num, generator=generator, device=generator.device)
    return noise_levels(normal, largest=largest)


def noise_levels(
    normal: Float[Tensor, "*shape"], *, largest: float = math.inf
) -> Float[Tensor, "*shape"]:
    """Noise levels of training from standard normal draws: of the usual law, given that they are
    at most `largest`.
    """
    if largest < math.inf:
        z = torch.tensor((math.log(largest) - LOG_SIGMA_MEAN) / LOG_SIGMA_STANDARD_DEVIATION)
        share = torch.special.ndtr(normal.double()) * torch.special.ndtr(z.double())
        normal = torch.special.ndtri(share).to(normal).clamp(max=float(z))
    return (LOG_SIGMA_MEAN + LOG_SIGMA_STANDARD_DEVIATION * normal).exp()


def drop_labels(
    labels: Int[Tensor, " batch"], *, null_label: int, rate: float, generator: torch.Generator
) -> Int[Tensor, " batch"]:
    """Each label replaced by the null label with probability `rate`: one draw per image, before
    its copies are made.
    """
    draws = torch.rand(labels.shape, generator=generator, device=generator.device)
    return torch.where(draws < rate, null_label, labels)
