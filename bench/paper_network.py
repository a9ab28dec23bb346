"""The paper's CIFAR-10 network and examples for it, made up: what the benchmarks measure with."""

import torch

from privimage.diffusion.denoiser import Denoiser
from privimage.diffusion.loss import sample_noise_levels
from privimage.diffusion.unet import UNet, UNetConfig

Examples = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]


def paper_network(size: int, device: torch.device) -> Denoiser:
    """cifar10_32 s: 1,754,499 parameters at 32 pixels, moved off its initial zeros."""
    torch.manual_seed(0)
    denoiser = Denoiser(
        UNet(
            UNetConfig(
                image_size=size, num_channels=3, num_classes=10, attention_resolutions=(size // 2,)
            )
        )
    )
    for parameter in denoiser.parameters():
        parameter.data.add_(0.02 * torch.randn_like(parameter))
    return denoiser.to(device)


def random_examples(images: int, copies: int, size: int, device: torch.device) -> Examples:
    """Pixels, labels, noise levels and noise images for `images` x `copies`."""
    generator = torch.Generator().manual_seed(0)
    pixels = torch.rand(images, 3, size, size, generator=generator) * 2 - 1
    labels = torch.randint(0, 11, (images,), generator=generator)
    sigma = sample_noise_levels(images * copies, generator=generator).view(images, copies)
    noise = torch.randn(images, copies, 3, size, size, generator=generator)
    return pixels.to(device), labels.to(device), sigma.to(device), noise.to(device)
