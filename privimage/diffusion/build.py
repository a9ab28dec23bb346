"""The whole network from its settings and from what is public of the images: shape and classes."""

import math
from dataclasses import asdict

import torch

from privimage.data.image_set import ImageSet
from privimage.diffusion.denoiser import Denoiser
from privimage.diffusion.unet import UNet, UNetConfig
from privimage.settings.config import RunConfig


def new_denoiser(config: RunConfig, images: ImageSet) -> Denoiser:
    """The network with its initial weights, which follow from the seed."""
    torch.manual_seed(config.seed)
    largest = config.moments.sketch_noise_level if config.moments else math.inf
    return Denoiser(UNet(unet_config(config, images)), largest_noise=largest)


def unet_config(config: RunConfig, images: ImageSet) -> UNetConfig:
    """Its settings, and the shape and classes of the images."""
    return UNetConfig(
        image_size=config.data.image_size,
        num_channels=images.num_channels,
        num_classes=images.num_classes if config.data.conditional else 0,
        **asdict(config.network),
    )


def num_parameters(config: RunConfig, images: ImageSet) -> int:
    return sum(p.numel() for p in new_denoiser(config, images).parameters())
