"""The denoising loss: closed forms, one value per image, noise multiplicity, label dropout."""

import math

import pytest
import torch

from privimage.diffusion.denoiser import SIGMA_DATA, Denoiser, c_out, c_skip
from privimage.diffusion.loss import (
    denoising_loss,
    drop_labels,
    loss_weight,
    noise_levels,
    sample_noise_levels,
)
from privimage.diffusion.unet import UNet
from tests.networks import small_unet


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def noisy_batch(num: int, copies: int, *, dtype=torch.float32):
    """(images, labels, sigma, noise) for a network of 2 classes and 2x4x4 images."""
    rng = generator(3)
    images = torch.rand(num, 2, 4, 4, generator=rng, dtype=dtype) * 2 - 1
    labels = torch.arange(num) % 3
    sigma = sample_noise_levels(num * copies, generator=rng).view(num, copies).to(dtype)
    noise = torch.randn(num, copies, 2, 4, 4, generator=rng, dtype=dtype)
    return images, labels, sigma, noise


def small_denoiser() -> Denoiser:
    torch.manual_seed(0)
    denoiser = Denoiser(UNet(small_unet(num_channels=2, num_classes=2))).double()
    for parameter in denoiser.parameters():
        if parameter.dim() > 1:
            torch.nn.init.xavier_uniform_(parameter)
    return denoiser


def linear_denoiser(x, sigma, labels):
    """What a denoiser is at initialisation, where F = 0."""
    return c_skip(sigma)[:, None, None, None] * x


def test_a_perfect_denoiser_has_loss_zero():
    images, labels, sigma, noise = noisy_batch(3, 2)

    def perfect(x, sigma, labels):
        return images.repeat_interleave(2, dim=0)

    assert torch.equal(denoising_loss(perfect, images, labels, sigma, noise), torch.zeros(3))


def test_the_weight_undoes_the_scale_of_the_networks_output():
    sigma = torch.tensor([0.002, 0.3, 1.0, 80.0], dtype=torch.float64)
    torch.testing.assert_close(loss_weight(sigma) * c_out(sigma) ** 2, torch.ones_like(sigma))
    # written out for sigma = 1: (1 + 1/3) / (1/3)
    assert loss_weight(torch.ones(1)).item() == pytest.approx(4)


@pytest.mark.parametrize("level", [0.01, 1.0, 30.0])
def test_the_initial_loss_has_its_closed_form(level):
    # D - x = (c_skip - 1) x + c_skip sigma n. With mean(x^2) = m, mean(n^2) = 1, mean(x n) = 0 the
    # weighted mean square is (sigma^2 m / sigma_data^2 + sigma_data^2) / (sigma^2 + sigma_data^2).
    image = 0.7 * torch.tensor([1.0, -1.0]).double().repeat(8).view(1, 1, 4, 4)  # m = .49
    noise = torch.tensor([1.0, 1.0, -1.0, -1.0]).double().repeat(4).view(1, 1, 1, 4, 4)
    sigma = torch.tensor([[level]], dtype=torch.float64)
    loss = denoising_loss(linear_denoiser, image, None, sigma, noise)
    expected = (level**2 * 0.49 * 3 + 1 / 3) / (level**2 + 1 / 3)
    assert loss.item() == pytest.approx(expected, rel=1e-12)


def test_the_expected_initial_loss_is_one_for_data_of_deviation_sigma_data():
    # the closed form above with m = sigma_data^2 is 1 at every noise level
    torch.manual_seed(0)
    denoiser = Denoiser(
        UNet(
            small_unet(
                image_size=8, num_classes=0, channel_multipliers=(1,), attention_resolutions=()
            )
        )
    )
    images = torch.rand(400, 1, 8, 8, generator=generator()) * 2 - 1
    sigma = sample_noise_levels(400, generator=generator())[:, None]
    noise = torch.randn(400, 1, 1, 8, 8, generator=generator(1))
    with torch.no_grad():
        loss = denoising_loss(denoiser, images, None, sigma, noise)
    # 64 pixels: a deviation of about .2 an image, .01 of the mean
    assert loss.mean().item() == pytest.approx(1, abs=0.04)


def test_an_images_loss_is_the_mean_over_its_copies():
    images, labels, sigma, noise = noisy_batch(3, 4, dtype=torch.float64)
    denoiser = small_denoiser()
    together = denoising_loss(denoiser, images, labels, sigma, noise)
    assert together.shape == (3,)
    for i in range(3):
        values = []
        for k in range(4):
            # a plain transcription, one copy at a time
            s, noisy = sigma[i, k], images[i] + sigma[i, k] * noise[i, k]
            denoised = denoiser(noisy[None], s[None], labels[i : i + 1])[0]
            weight = (s**2 + SIGMA_DATA**2) / (s * SIGMA_DATA) ** 2
            values.append((weight * (denoised - images[i]) ** 2).mean())
        torch.testing.assert_close(together[i], torch.stack(values).mean())


def test_the_loss_of_one_image_is_its_entry_of_the_batch():
    images, labels, sigma, noise = examples = noisy_batch(3, 2, dtype=torch.float64)
    denoiser = small_denoiser()
    together = denoising_loss(denoiser, images, labels, sigma, noise)
    for i in range(3):
        alone = denoising_loss(denoiser, *(tensor[i : i + 1] for tensor in examples))
        torch.testing.assert_close(alone[0], together[i])


def test_an_empty_batch_has_no_losses():
    images, labels, sigma, noise = noisy_batch(0, 2, dtype=torch.float64)
    assert denoising_loss(small_denoiser(), images, labels, sigma, noise).shape == (0,)


def test_the_logarithm_of_the_noise_level_is_normal():
    log_sigma = sample_noise_levels(40_000, generator=generator()).log()
    # standard errors: 1.2 / 200 = .006 of the mean, 1.2 / sqrt(80,000) = .0042 of the deviation
    assert log_sigma.mean().item() == pytest.approx(-1.2, abs=0.03)
    assert log_sigma.std().item() == pytest.approx(1.2, abs=0.02)
    standard = (log_sigma + 1.2) / 1.2
    assert (standard < 1).float().mean().item() == pytest.approx(
        (1 + math.erf(math.sqrt(0.5))) / 2, abs=0.01
    )


def test_labels_are_dropped_at_the_given_rate_and_otherwise_kept():
    labels = torch.arange(20_000) % 10
    dropped = drop_labels(labels, null_label=10, rate=0.1, generator=generator())
    is_null = dropped == 10
    assert torch.equal(dropped[~is_null], labels[~is_null])
    # 5 standard deviations: 5 * sqrt(.1 * .9 / 20,000) = .0106
    assert is_null.float().mean().item() == pytest.approx(0.1, abs=0.0106)


@pytest.mark.parametrize(("rate", "num_null"), [(0.0, 0), (1.0, 50)])
def test_a_rate_of_zero_keeps_all_labels_and_one_drops_all(rate, num_null):
    labels = torch.zeros(50, dtype=torch.int64)
    dropped = drop_labels(labels, null_label=7, rate=rate, generator=generator())
    assert int((dropped == 7).sum()) == num_null


def test_label_dropout_takes_one_draw_per_image_which_all_its_copies_share():
    # the generator moves on by exactly one uniform number a label
    used, reference = generator(), generator()
    drop_labels(torch.zeros(6, dtype=torch.int64), null_label=1, rate=0.5, generator=used)
    torch.rand(6, generator=reference)
    assert torch.equal(used.get_state(), reference.get_state())

    images, _, sigma, noise = noisy_batch(3, 4)
    seen = []

    def record(x, sigma, labels):
        seen.append(labels.tolist())
        return x

    denoising_loss(record, images, torch.tensor([5, 2, 9]), sigma, noise)
    assert seen == [[5] * 4 + [2] * 4 + [9] * 4]


@pytest.mark.parametrize("largest", [0.1, 0.5, 3.0])
def test_noise_levels_up_to_a_largest_are_the_usual_ones_that_are_no_larger(largest):
    usual = sample_noise_levels(200_000, generator=generator())
    found = sample_noise_levels(200_000, generator=generator(1), largest=largest)
    assert found.max() <= largest * (1 + 1e-5)
    wanted = usual[usual <= largest].log()
    # quantiles of the same law; the rarest tenth differs by its own chance
    for q in (0.1, 0.5, 0.9):
        assert found.log().quantile(q).item() == pytest.approx(wanted.quantile(q).item(), abs=0.03)


def test_noise_levels_without_a_largest_are_as_ever_and_extreme_draws_are_finite():
    normal = torch.tensor([-40.0, -6.0, 0.0, 6.0, 40.0])
    assert torch.equal(noise_levels(normal), (-1.2 + 1.2 * normal).exp())
    found = noise_levels(normal[1:], largest=0.5)
    assert torch.isfinite(found).all()
    assert (found > 0).all()
    assert (found <= 0.5 * (1 + 1e-5)).all()
    assert (found.diff() >= 0).all()
