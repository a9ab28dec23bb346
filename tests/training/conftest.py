import pytest
import torch

from privimage.data.image_set import ImageSet
from privimage.diffusion.denoiser import Denoiser
from privimage.diffusion.unet import UNet
from tests.networks import small_unet


@pytest.fixture
def new_denoiser():
    def make(num_classes=3, dropout=0.0):
        torch.manual_seed(0)
        config = small_unet(num_classes=num_classes, dropout=dropout)
        return Denoiser(UNet(config))

    return make


@pytest.fixture
def images():
    generator = torch.Generator().manual_seed(1)
    pixels = torch.randint(0, 256, (20, 1, 4, 4), dtype=torch.uint8, generator=generator)
    return ImageSet(pixels, torch.arange(20) % 3, ("a", "b", "c"), "test", 20)
