"""Made-up images for tests of what compares sets."""

import torch

from privimage.data.image_set import ImageSet

CPU = torch.device("cpu")


def image_set(
    num: int, *, size: int = 8, channels: int = 1, seed: int = 0, shade: int = 0
) -> ImageSet:
    """Blocks of 4x4 equal pixels with noise; `shade` makes all of them brighter."""
    generator = torch.Generator().manual_seed(seed)
    blocks = torch.randint(0, 100, (num, channels, size // 4, size // 4), generator=generator)
    pixels = blocks.repeat_interleave(4, dim=2).repeat_interleave(4, dim=3)
    noise = torch.randint(0, 20, pixels.shape, generator=generator)
    return ImageSet(
        (pixels + noise + shade).to(torch.uint8),
        torch.arange(num) % 2,
        ("cats", "dogs"),
        source="made up",
        public_size=num,
    )
