"""How images of any shape become square ones of one size and colour: crop, resize, convert.

The same steps serve public and sensitive images; each image is prepared by itself, so nothing
here mixes two records. Centre crop to the short edge, bilinear resize with antialiasing (the
published preparation of CelebA), then grey or RGB bytes.
"""

from dataclasses import dataclass
from math import prod
from typing import Literal

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image
from torch import Tensor

from privimage.data.parallel import for_each_chunk
from privimage.errors import ConfigError, DataInvalidError

MAX_SET_BYTES = 32 * 2**30
# Deeper than 8 bits a value: PIL would clip these to white instead of scaling them.
DEEP_MODES = ("I", "F", "I;16", "I;16L", "I;16B", "I;16N")


@dataclass(frozen=True)
class Preparation:
    """Images come out as (channel, image_size, image_size) bytes; transparency is dropped."""

    image_size: int
    color: Literal["grey", "rgb"]

    def __post_init__(self) -> None:
        if self.image_size < 1:
            raise ConfigError(f"image_size is {self.image_size}; give a positive number of pixels")
        if self.color not in ("grey", "rgb"):
            raise ConfigError(f"color is {self.color!r}; choose grey or rgb")

    @property
    def num_channels(self) -> int:
        return 1 if self.color == "grey" else 3

    def describe(self) -> str:
        return f"centre crop, bilinear to {self.image_size}x{self.image_size}, {self.color}"

    def empty(self, num: int) -> UInt8[np.ndarray, "number channel size size"]:
        """Room for `num` prepared images; DataInvalidError if that is more than a bounded size."""
        shape = (num, self.num_channels, self.image_size, self.image_size)
        if prod(shape) > MAX_SET_BYTES:
            raise DataInvalidError(
                f"{num} images of {self.image_size} pixels a side need more than "
                f"{MAX_SET_BYTES // 2**30} GiB; choose a smaller image_size, or keep images of "
                "that size in a folder of arrays, which is not read into memory"
            )
        return np.empty(shape, dtype=np.uint8)

    def prepare_image(self, image: Image.Image) -> UInt8[np.ndarray, "channel size size"]:
        """Prepare one PIL image; DataInvalidError if it has more than 8 bits a value."""
        if image.mode in DEEP_MODES:
            raise DataInvalidError(
                f"the image has more than 8 bits a value (mode {image.mode}); "
                "scale it to 8 bits first, in the way that suits its content"
            )
        image = image.convert("L" if self.color == "grey" else "RGB")
        short = min(image.size)
        left, top = (image.width - short) // 2, (image.height - short) // 2
        if image.width != image.height:
            image = image.crop((left, top, left + short, top + short))
        if short != self.image_size:
            size = (self.image_size, self.image_size)
            image = image.resize(size, Image.Resampling.BILINEAR)
        pixels = np.asarray(image, dtype=np.uint8)
        return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)

    def prepare(
        self, images: UInt8[Tensor, "number channels_in height width"]
    ) -> UInt8[Tensor, "number channel size size"]:
        """Prepare a stack of grey or RGB images; one that already fits is returned as it is."""
        if tuple(images.shape[1:]) == (self.num_channels, self.image_size, self.image_size):
            return images
        stack, prepared = images.numpy(), self.empty(len(images))

        def prepare_chunk(indices: range) -> None:
            for index in indices:
                image = stack[index]
                pixels = image[0] if len(image) == 1 else image.transpose(1, 2, 0)
                prepared[index] = self.prepare_image(Image.fromarray(np.ascontiguousarray(pixels)))

        for_each_chunk(prepare_chunk, len(stack), doing="preparing images")
        return torch.from_numpy(prepared)
