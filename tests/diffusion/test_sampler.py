"""The samplers against a data distribution whose denoiser and ODE solution are known.

For data N(mu, s^2), D(x; sigma) = (s^2 x + sigma^2 mu) / (s^2 + sigma^2), so that
dx/dsigma = sigma (x - mu) / (s^2 + sigma^2) and x(sigma) - mu is proportional to
sqrt(s^2 + sigma^2).
"""

import math
from itertools import pairwise

import pytest
import torch

from privimage.diffusion.sampler import (
    SAMPLERS,
    ddim_sample,
    dpm_solver_sample,
    heun_sample,
    karras_grid,
    num_calls,
)
from privimage.errors import ConfigError

MEAN, DEVIATION = 0.3, 0.5


class GaussianDenoiser:
    """The posterior mean of N(MEAN, DEVIATION^2) data; records the noise levels asked for."""

    def __init__(self):
        self.levels, self.labels = [], []

    def __call__(self, x, sigma, labels):
        assert sigma.shape == x.shape[:1]
        assert sigma.dtype == x.dtype
        self.levels.append(sigma[0].item())
        self.labels.append(labels)
        squared = sigma[:, None, None, None] ** 2
        return (DEVIATION**2 * x + squared * MEAN) / (DEVIATION**2 + squared)


def latents(num: int = 4) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(num, 1, 2, 2, generator=generator, dtype=torch.float64)


def scale(sigma: float) -> float:
    return math.sqrt(DEVIATION**2 + sigma**2)


def error(sample, num_steps: int, lowest: float) -> float:
    """Largest distance of the samples from the ODE's exact solution at `lowest`."""
    exact = MEAN + (80 * latents() - MEAN) * scale(lowest) / scale(80)
    if lowest > 0:  # DDIM returns the denoiser's answer there
        exact = MEAN + (exact - MEAN) * DEVIATION**2 / scale(lowest) ** 2
    sampled = sample(GaussianDenoiser(), latents(), None, num_steps=num_steps)
    return (sampled - exact).abs().max().item()


def test_the_grid_goes_from_80_to_002_evenly_in_the_seventh_root():
    grid = karras_grid(50)
    assert grid.shape == (50,)
    assert grid[0].item() == pytest.approx(80, rel=1e-12)
    assert grid[-1].item() == pytest.approx(0.002, rel=1e-12)
    roots = grid ** (1 / 7)
    torch.testing.assert_close(
        roots.diff(), torch.full((49,), (0.002 ** (1 / 7) - 80 ** (1 / 7)) / 49).double()
    )


def test_a_grid_of_other_bounds_has_those_bounds():
    grid = karras_grid(3, sigma_min=1.0, sigma_max=9.0, rho=2.0)
    # roots 3, 2, 1
    assert grid.tolist() == pytest.approx([9, 4, 1])
    assert karras_grid(1).tolist() == pytest.approx([80])


@pytest.mark.parametrize("sample", [ddim_sample, dpm_solver_sample])
def test_the_denoiser_is_called_once_a_grid_point_and_last_at_002(sample):
    denoise = GaussianDenoiser()
    sample(denoise, latents(), None, num_steps=50)
    assert len(denoise.levels) == 50
    assert denoise.levels == pytest.approx(karras_grid(50).tolist())
    assert denoise.levels[0] == pytest.approx(80)
    assert denoise.levels[-1] == pytest.approx(0.002)


def test_heun_calls_the_denoiser_twice_a_step_and_once_in_the_last():
    for num_steps in (1, 2, 18):
        denoise = GaussianDenoiser()
        heun_sample(denoise, latents(), None, num_steps=num_steps)
        assert len(denoise.levels) == 2 * num_steps - 1
        assert min(denoise.levels) > 0


def test_ddim_is_the_product_of_its_linear_steps():
    # one Euler step from a to b multiplies x - mu by 1 + (b - a) a / (s^2 + a^2); the last call by
    # s^2 / (s^2 + .002^2)
    grid = karras_grid(50).tolist()
    factor = DEVIATION**2 / scale(grid[-1]) ** 2
    for a, b in pairwise(grid):
        factor *= 1 + (b - a) * a / scale(a) ** 2
    expected = MEAN + (80 * latents() - MEAN) * factor
    sampled = ddim_sample(GaussianDenoiser(), latents(), None, num_steps=50)
    torch.testing.assert_close(sampled, expected, rtol=1e-10, atol=1e-12)


def test_ddim_approaches_the_exact_solution_at_first_order():
    errors = [error(ddim_sample, n, 0.002) for n in (200, 400, 800)]
    assert errors[-1] < 0.01
    for coarse, fine in pairwise(errors):
        assert coarse / fine == pytest.approx(2, rel=0.1)


def test_heun_approaches_the_exact_solution_at_second_order():
    errors = [error(heun_sample, n, 0.0) for n in (100, 200, 400)]
    assert errors[-1] < 1e-3
    for coarse, fine in pairwise(errors):
        assert coarse / fine == pytest.approx(4, rel=0.15)


def test_dpm_solver_approaches_the_exact_solution_at_second_order():
    errors = [error(dpm_solver_sample, n, 0.002) for n in (100, 200, 400)]
    assert errors[-1] < 1e-3
    for coarse, fine in pairwise(errors):
        assert coarse / fine == pytest.approx(4, rel=0.15)


def test_dpm_solver_is_exact_where_the_denoised_image_does_not_change():
    sampled = dpm_solver_sample(lambda x, sigma, labels: x * 0 + MEAN, latents(), None, num_steps=7)
    torch.testing.assert_close(sampled, latents() * 0 + MEAN, rtol=0, atol=0)


@pytest.mark.parametrize(("steps", "ddim_steps"), [(5, 18), (20, 50)])
def test_few_steps_of_dpm_solver_are_as_near_as_many_of_ddim(steps, ddim_steps):
    assert error(dpm_solver_sample, steps, 0.002) < error(ddim_sample, ddim_steps, 0.002)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_the_number_of_calls_is_known_beforehand(sampler):
    denoise = GaussianDenoiser()
    SAMPLERS[sampler](denoise, latents(), None, num_steps=7)
    assert len(denoise.levels) == num_calls(sampler, 7)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_samples_have_the_mean_and_deviation_of_the_data(sampler):
    samples = SAMPLERS[sampler](GaussianDenoiser(), latents(5_000), None, num_steps=200)
    # 20,000 pixels: standard errors .0035 and .0025; DDIM's own error at 200 steps is below .02
    assert samples.mean().item() == pytest.approx(MEAN, abs=0.02)
    assert samples.std().item() == pytest.approx(DEVIATION, abs=0.03)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_call_gets_the_labels_and_no_gradient_is_kept(sampler):
    denoise, labels = GaussianDenoiser(), torch.arange(4)
    samples = SAMPLERS[sampler](denoise, latents().requires_grad_(), labels, num_steps=3)
    assert all(seen is labels for seen in denoise.labels)
    assert not samples.requires_grad


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_no_steps_are_refused(sampler):
    with pytest.raises(ConfigError, match="num_steps is 0; give at least 1"):
        SAMPLERS[sampler](GaussianDenoiser(), latents(), None, num_steps=0)


@pytest.mark.parametrize("sampler", sorted(SAMPLERS))
def test_drawing_may_begin_at_a_lower_level_with_images(sampler):
    levels, seen = [], []

    def denoise(x, sigma, labels):
        levels.append(sigma[0].item())
        seen.append(x)
        return torch.full_like(x, 0.25)

    begun = torch.full((4, 1, 2, 2), 0.5)
    noise = torch.randn(4, 1, 2, 2, generator=torch.Generator().manual_seed(0))
    found = SAMPLERS[sampler](denoise, noise + begun / 0.4, None, num_steps=5, largest=0.4)
    assert levels[0] == pytest.approx(0.4)
    assert max(levels) == levels[0]
    assert torch.allclose(seen[0], begun + 0.4 * noise, atol=1e-6)
    assert torch.allclose(found, torch.full_like(found, 0.25), atol=0.02)
