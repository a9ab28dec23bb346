"""Synthetic images: balanced labels, the way to bytes, and the picture of samples."""

import dataclasses

import numpy as np
import pytest
import torch

from privimage.diffusion.denoiser import Denoiser
from privimage.diffusion.generate import drawn_batches, generate_images, sample_grid
from privimage.diffusion.sampler import ddim_sample
from privimage.diffusion.unet import UNet
from privimage.errors import ConfigError
from privimage.settings.config import SamplingConfig
from tests.networks import small_unet


def small_denoiser(num_classes: int = 3, *, num_channels: int = 1) -> Denoiser:
    torch.manual_seed(0)
    return Denoiser(
        UNet(
            small_unet(
                num_channels=num_channels,
                num_classes=num_classes,
                channel_multipliers=(1,),
                attention_resolutions=(),
                dropout=0.5,
            )
        )
    )


CONFIG = SamplingConfig(num_images=7, num_steps=3, batch_size=4)


def noise(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def generate(denoiser: Denoiser, *, seed: int = 0, **changes):
    return generate_images(denoiser, dataclasses.replace(CONFIG, **changes), generator=noise(seed))


def test_labels_go_round_the_classes():
    images, labels = generate(small_denoiser())
    assert labels.tolist() == [0, 1, 2, 0, 1, 2, 0]
    assert images.shape == (7, 1, 4, 4)
    assert images.dtype == torch.uint8


def test_an_unconditional_network_gives_labels_of_zero():
    images, labels = generate(small_denoiser(0, num_channels=3))
    assert labels.tolist() == [0] * 7
    assert images.shape == (7, 3, 4, 4)


def test_images_are_the_samplers_in_bytes_truncated():
    images, labels = generate(small_denoiser(), batch_size=10)
    latents = torch.randn(7, 1, 4, 4, generator=noise())
    x = ddim_sample(small_denoiser().eval(), latents, labels, num_steps=3)
    expected = np.floor(np.clip(x.numpy() / 2 + np.float32(0.5), 0, 1) * np.float32(255))
    assert np.array_equal(images.numpy(), expected.astype(np.uint8))


def test_the_network_is_told_the_label_of_each_image_and_leaves_training_mode():
    denoiser, told = small_denoiser(), []
    denoiser.register_forward_pre_hook(lambda module, inputs: told.append(inputs[2].tolist()))
    generate(denoiser, num_steps=1)
    assert told == [[0, 1, 2, 0], [1, 2, 0]]
    assert not denoiser.training


def test_images_follow_from_the_generator():
    first, _ = generate(small_denoiser())
    same, _ = generate(small_denoiser())
    other, _ = generate(small_denoiser(), seed=1)
    assert torch.equal(first, same)
    assert not torch.equal(first, other)


def grid(size: int, num_channels: int, labels: list[int], names: tuple[str, ...], per_class: int):
    """The picture of images of value 10 * (position + 1), as an array."""
    values = 10 * (torch.arange(len(labels)) + 1)
    images = values.view(-1, 1, 1, 1).expand(-1, num_channels, size, size).to(torch.uint8)
    return np.asarray(sample_grid(images, torch.tensor(labels), names, per_class=per_class))


def test_the_picture_has_a_row_a_class_and_so_many_images_in_it():
    picture = grid(24, 3, [1, 0, 1, 0, 0], ("zero", "one"), 2)
    # rows of 24 with gaps of 4, two columns of 24 with gaps of 4 at the right
    assert picture.shape[0] == 4 + 2 * 28
    columns = [picture.shape[1] - 2 * 28 + 10, picture.shape[1] - 28 + 10]
    assert [[int(picture[y, x, 0]) for x in columns] for y in (16, 44)] == [[20, 40], [10, 30]]
    assert (picture == 50).sum() == 0  # the third zero is left out


def test_tiny_grey_images_are_shown_three_times_as_large():
    picture = grid(8, 1, [0], ("zero",), 5)
    assert (picture[4:28, -28:-4] == 10).all()
    assert (picture[:4] == 255).all()
    assert picture.shape[0] == 32


def test_names_stand_at_the_left_and_long_ones_are_cut():
    short, long = (grid(24, 1, [0], (name,), 1) for name in ("i", "many words " * 50))
    assert short.shape[1] < 60
    assert 200 < long.shape[1] < 300
    assert (short[:, :-32] < 100).any()  # black letters


def test_a_class_without_images_has_no_row():
    assert grid(24, 1, [2, 2], ("a", "b", "c"), 2).shape[0] == 4 + 28


@pytest.mark.parametrize("name", ["two\nlines", "", "Größe"])
def test_any_class_name_can_be_shown(name):
    assert grid(24, 1, [0], (name,), 1).shape[0] == 32


@pytest.mark.parametrize("done", [0, 2, 6, 7])
def test_drawing_goes_on_after_any_batch_with_the_same_images(done):
    expected, _ = generate(small_denoiser(), batch_size=2)
    config = dataclasses.replace(CONFIG, batch_size=2)
    left = drawn_batches(small_denoiser(), config, generator=noise(), done=done)
    assert torch.equal(torch.cat([expected[:0], *left]), expected[done:])


def test_a_generator_that_begins_with_sketches_is_not_drawn_from_without_them():
    denoiser = small_denoiser()
    denoiser.largest_noise = 0.5
    with pytest.raises(ConfigError, match="give `sketches` if, and only if"):
        generate(denoiser)
