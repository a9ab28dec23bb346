"""The denoiser D(x; sigma): the network inside EDM's preconditioning (Karras et al. 2022, Table 1;
docs/method.md, 4).

The four coefficients keep input and target of the network at unit variance at every noise level
for data of standard deviation `SIGMA_DATA`, a public constant: it is not measured on any images.
"""

import math
from collections.abc import Callable

from jaxtyping import Float, Int
from torch import Tensor, nn

from privimage.diffusion.unet import UNet

SIGMA_DATA = math.sqrt(1 / 3)  # of pixels that are uniform in [-1, 1]; EDM itself has 0.5

Denoise = Callable[[Tensor, Tensor, Tensor | None], Tensor]  # (noisy, sigma, labels) -> denoised


class Denoiser(nn.Module):
    """D(x; sigma, labels) = c_skip x + c_out F(c_in x; c_noise, labels)  (Eq. 7).

    `largest_noise` is the noise level from which on it is never used, and not trained.
    """

    def __init__(self, unet: UNet, *, largest_noise: float = math.inf) -> None:
        super().__init__()
        self.unet = unet
        self.largest_noise = largest_noise

    @property
    def is_conditional(self) -> bool:
        return self.unet.config.num_classes > 0

    @property
    def null_label(self) -> int:
        """The label that stands for "no label"."""
        return self.unet.config.num_classes

    def forward(
        self,
        x: Float[Tensor, "batch channel height width"],
        sigma: Float[Tensor, " batch"],
        labels: Int[Tensor, " batch"] | None,
    ) -> Float[Tensor, "batch channel height width"]:
        level = sigma[:, None, None, None]
        output = self.unet(c_in(level) * x, c_noise(sigma), labels)
        return c_skip(level) * x + c_out(level) * output


def c_skip(sigma: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Share of the input that goes straight to the output."""
    return SIGMA_DATA**2 / (sigma**2 + SIGMA_DATA**2)


def c_out(sigma: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Scale of the network's output."""
    return sigma * SIGMA_DATA / (sigma**2 + SIGMA_DATA**2).sqrt()


def c_in(sigma: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Brings the noisy input to unit variance."""
    return (sigma**2 + SIGMA_DATA**2).rsqrt()


def c_noise(sigma: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """How the noise level is told to the network."""
    return sigma.log() / 4
