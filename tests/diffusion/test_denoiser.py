"""EDM's preconditioning: the identities that its coefficients were made for."""

import math
from typing import Any

import pytest
import torch
from torch import nn

from privimage.diffusion.denoiser import SIGMA_DATA, Denoiser, c_in, c_noise, c_out, c_skip
from privimage.diffusion.unet import UNet
from tests.networks import small_unet

LEVELS = torch.tensor([0.002, 0.1, SIGMA_DATA, 3.0, 80.0], dtype=torch.float64)


def small_denoiser(num_classes: int = 0) -> Denoiser:
    torch.manual_seed(0)
    return Denoiser(
        UNet(
            small_unet(num_classes=num_classes, channel_multipliers=(1,), attention_resolutions=())
        )
    )


def test_the_coefficients_at_the_datas_own_level():
    # sigma = sigma_data: half of the input, sigma_data / sqrt(2) of the network
    at = torch.tensor([SIGMA_DATA], dtype=torch.float64)
    assert c_skip(at).item() == pytest.approx(0.5)
    assert c_out(at).item() == pytest.approx(math.sqrt(1 / 6))
    assert c_in(at).item() == pytest.approx(math.sqrt(3 / 2))
    assert c_noise(at).item() == pytest.approx(math.log(1 / 3) / 8)


def test_sigma_data_is_the_deviation_of_uniform_pixels():
    # variance of a uniform law on [-1, 1]: 2^2 / 12
    assert pytest.approx(4 / 12) == SIGMA_DATA**2


def test_the_networks_input_has_unit_variance():
    torch.testing.assert_close(c_in(LEVELS) ** 2 * (SIGMA_DATA**2 + LEVELS**2), LEVELS * 0 + 1)


def test_the_networks_target_has_unit_variance():
    # target (y - c_skip (y + n)) / c_out, y of variance sigma_data^2 and n of variance sigma^2
    skip = c_skip(LEVELS)
    variance = (1 - skip) ** 2 * SIGMA_DATA**2 + skip**2 * LEVELS**2
    torch.testing.assert_close(variance / c_out(LEVELS) ** 2, LEVELS * 0 + 1)


def test_c_skip_is_the_choice_that_needs_least_of_the_network():
    # c_skip minimises c_out^2 = (1 - c_skip)^2 sigma_data^2 + c_skip^2 sigma^2 (EDM, appendix B.6)
    for change in (-1e-3, 1e-3):
        skip = c_skip(LEVELS) + change
        needed = (1 - skip) ** 2 * SIGMA_DATA**2 + skip**2 * LEVELS**2
        assert (needed > c_out(LEVELS) ** 2).all()


def test_the_output_mixes_input_and_network_by_the_coefficients():
    class Echo(nn.Module):
        """Records what it is given and returns a constant."""

        def forward(self, x, c_noise, labels):
            self.seen = (x, c_noise, labels)
            return torch.full_like(x, 2.0)

    denoiser: Any = small_denoiser()
    denoiser.unet = echo = Echo()
    x, sigma, labels = torch.randn(2, 1, 4, 4), torch.tensor([0.5, 4.0]), torch.tensor([1, 0])
    output = denoiser(x, sigma, labels)
    for i, s in enumerate((0.5, 4.0)):
        total = s * s + 1 / 3
        expected = x[i] / 3 / total + 2 * s * math.sqrt(1 / 3 / total)
        torch.testing.assert_close(output[i], expected)
        torch.testing.assert_close(echo.seen[0][i], x[i] / math.sqrt(total))
        assert echo.seen[1][i].item() == pytest.approx(math.log(s) / 4)
    assert torch.equal(echo.seen[2], labels)


def test_a_fresh_denoiser_is_the_best_linear_one():
    # F is about 0, so D = c_skip x
    x, sigma = torch.randn(3, 1, 4, 4), torch.tensor([0.01, 1.0, 50.0])
    expected = c_skip(sigma)[:, None, None, None] * x
    torch.testing.assert_close(small_denoiser()(x, sigma, None), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("num_classes", "is_conditional"), [(0, False), (1, True), (10, True)])
def test_the_null_label_comes_after_the_classes(num_classes, is_conditional):
    denoiser = small_denoiser(num_classes)
    assert denoiser.null_label == num_classes
    assert denoiser.is_conditional == is_conditional
    if is_conditional:
        denoiser(torch.zeros(1, 1, 4, 4), torch.ones(1), torch.tensor([denoiser.null_label]))
