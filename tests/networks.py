"""The smallest U-Net with all kinds of layers, for tests."""

from typing import Any

from privimage.diffusion.unet import UNetConfig

SMALL = {
    "image_size": 4,
    "num_channels": 1,
    "num_classes": 3,
    "base_channels": 8,
    "channel_multipliers": (1, 2),
    "blocks_per_level": 1,
    "attention_resolutions": (2,),
}


def small_unet(**changes: Any) -> UNetConfig:
    return UNetConfig(**(SMALL | changes))
