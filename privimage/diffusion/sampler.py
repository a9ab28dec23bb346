"""Samplers: from noise to images along the probability-flow ODE (Karras et al. 2022;
docs/method.md, 7).

All follow dx/dsigma = (x - D(x; sigma)) / sigma (EDM Eq. 3 with sigma(t) = t) down the Karras
grid, without fresh noise and without guidance. `ddim_sample` is the paper's sampler. Sampling
reads nothing but the released weights: post-processing, at no privacy cost.
"""

import math
from collections.abc import Callable
from itertools import pairwise

import torch
from jaxtyping import Float, Int
from torch import Tensor

from privimage.diffusion.denoiser import Denoise
from privimage.errors import ConfigError

SIGMA_MIN, SIGMA_MAX, RHO = 0.002, 80.0, 7.0


def karras_grid(
    num_points: int, *, sigma_min: float = SIGMA_MIN, sigma_max: float = SIGMA_MAX, rho: float = RHO
) -> Float[Tensor, " point"]:
    """Noise levels from `sigma_max` down to `sigma_min`, even in sigma^(1/rho) (EDM Eq. 5).

    In float64. A single point is `sigma_max`.
    """
    if num_points < 1:
        raise ConfigError(f"num_steps is {num_points}; give at least 1 (50 is usual)")
    ramp = torch.linspace(0, 1, num_points, dtype=torch.float64)
    high, low = sigma_max ** (1 / rho), sigma_min ** (1 / rho)
    return (high + ramp * (low - high)) ** rho


@torch.no_grad()
def ddim_sample(
    denoise: Denoise,
    latents: Float[Tensor, "batch channel height width"],
    labels: Int[Tensor, " batch"] | None,
    *,
    num_steps: int = 50,
    largest: float = SIGMA_MAX,
) -> Float[Tensor, "batch channel height width"]:
    """DDIM, which is Euler's method here: `num_steps` denoiser calls.

    `latents` are standard normal, plus images / `largest` where drawing is to begin with images at
    that noise level. The last call is made at the lowest noise level, and what it
    returns is the image.
    """
    grid = karras_grid(num_steps, sigma_max=largest).tolist()
    x = grid[0] * latents
    for sigma, lower in pairwise(grid):
        x = x + (lower - sigma) * _slope(denoise, x, sigma, labels)
    return _denoised(denoise, x, grid[-1], labels)


@torch.no_grad()
def heun_sample(
    denoise: Denoise,
    latents: Float[Tensor, "batch channel height width"],
    labels: Int[Tensor, " batch"] | None,
    *,
    num_steps: int = 50,
    largest: float = SIGMA_MAX,
) -> Float[Tensor, "batch channel height width"]:
    """EDM Algorithm 1: Heun's method down to noise level 0; 2 * num_steps - 1 denoiser calls."""
    grid = [*karras_grid(num_steps, sigma_max=largest).tolist(), 0.0]
    x = grid[0] * latents
    for sigma, lower in pairwise(grid):
        slope = _slope(denoise, x, sigma, labels)
        euler = x + (lower - sigma) * slope
        if lower > 0:  # the slope at 0 is not defined: the last step stays Euler's
            slope = (slope + _slope(denoise, euler, lower, labels)) / 2
            x = x + (lower - sigma) * slope
        else:
            x = euler
    return x


@torch.no_grad()
def dpm_solver_sample(
    denoise: Denoise,
    latents: Float[Tensor, "batch channel height width"],
    labels: Int[Tensor, " batch"] | None,
    *,
    num_steps: int = 50,
    largest: float = SIGMA_MAX,
) -> Float[Tensor, "batch channel height width"]:
    """DPM-Solver++(2M) (Lu et al. 2022, Algorithm 2): second order for DDIM's `num_steps` calls.

    In log sigma the ODE is linear but for D, so a step is exact where D does not change. D is
    carried on along the line through its last two values; the first step has one value, and is
    DDIM's. `latents` and the last call are as in `ddim_sample`.
    """
    grid = karras_grid(num_steps, sigma_max=largest).tolist()
    x = grid[0] * latents
    before, width_before = None, 0.0
    for sigma, lower in pairwise(grid):
        denoised = _denoised(denoise, x, sigma, labels)
        width = math.log(sigma / lower)
        ahead = denoised
        if before is not None:  # the line at the middle of this step
            ahead = denoised + width / (2 * width_before) * (denoised - before)
        x = lower / sigma * x + (1 - lower / sigma) * ahead
        before, width_before = denoised, width
    return _denoised(denoise, x, grid[-1], labels)


Sampler = Callable[..., Tensor]  # (denoise, latents, labels, *, num_steps, largest) -> images
SAMPLERS: dict[str, Sampler] = {
    "ddim": ddim_sample,
    "heun": heun_sample,
    "dpm_solver": dpm_solver_sample,
}


def num_calls(sampler: str, num_steps: int) -> int:
    """Of the denoiser, for one image."""
    return 2 * num_steps - 1 if sampler == "heun" else num_steps


def _slope(denoise: Denoise, x: Tensor, sigma: float, labels: Tensor | None) -> Tensor:
    return (x - _denoised(denoise, x, sigma, labels)) / sigma


def _denoised(denoise: Denoise, x: Tensor, sigma: float, labels: Tensor | None) -> Tensor:
    return denoise(x, torch.full_like(x[:, 0, 0, 0], sigma), labels)
