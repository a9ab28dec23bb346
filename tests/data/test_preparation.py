"""Cropping, resizing and colours."""

import numpy as np
import pytest
import torch
from PIL import Image

from privimage.data.preparation import Preparation
from privimage.errors import ConfigError, DataInvalidError


def test_the_crop_is_the_centre_of_the_long_edge():
    wide = np.zeros((2, 6), np.uint8)
    wide[:, 2:4] = 200
    prepared = Preparation(image_size=2, color="grey").prepare_image(Image.fromarray(wide))
    assert prepared.tolist() == [[[200, 200], [200, 200]]]


def test_shrinking_averages_all_pixels_instead_of_skipping_some():
    checkers = np.indices((8, 8)).sum(axis=0) % 2 * 255
    image = Image.fromarray(checkers.astype(np.uint8))
    prepared = Preparation(image_size=2, color="grey").prepare_image(image)
    assert np.abs(prepared.astype(int) - 127).max() <= 1


def test_rgb_and_grey_have_their_channels_first():
    red = Image.new("RGB", (4, 4), (255, 0, 0))
    assert Preparation(4, "rgb").prepare_image(red)[:, 0, 0].tolist() == [255, 0, 0]
    assert Preparation(4, "grey").prepare_image(red)[:, 0, 0].tolist() == [76]  # 0.299 * 255


def test_palettes_are_resolved_before_resizing():
    image = Image.new("P", (4, 4), 1)
    image.putpalette([0, 0, 0, 10, 20, 30])
    assert Preparation(2, "rgb").prepare_image(image)[:, 0, 0].tolist() == [10, 20, 30]


def test_sixteen_bit_images_are_refused_instead_of_clipped():
    image = Image.fromarray(np.full((4, 4), 40_000, np.uint16))
    with pytest.raises(DataInvalidError, match="more than 8 bits"):
        Preparation(4, "grey").prepare_image(image)


def test_a_stack_is_prepared_image_by_image():
    images = torch.randint(256, (3, 3, 6, 6), dtype=torch.uint8)
    preparation = Preparation(3, "grey")
    prepared = preparation.prepare(images)
    single = preparation.prepare_image(Image.fromarray(images[1].permute(1, 2, 0).numpy()))
    assert prepared.shape == (3, 1, 3, 3)
    assert prepared[1].numpy().tolist() == single.tolist()


def test_a_long_stack_is_prepared_in_order_bit_for_bit():
    images = torch.randint(256, (300, 3, 6, 6), dtype=torch.uint8)
    preparation = Preparation(4, "rgb")
    single = [preparation.prepare_image(Image.fromarray(p)) for p in images.movedim(1, 3).numpy()]
    assert np.array_equal(preparation.prepare(images).numpy(), np.stack(single))


def test_a_stack_that_fits_is_left_alone():
    images = torch.randint(256, (3, 3, 6, 6), dtype=torch.uint8)
    assert Preparation(6, "rgb").prepare(images) is images


def test_grey_becomes_rgb_by_three_equal_channels():
    prepared = Preparation(6, "rgb").prepare(torch.full((1, 1, 6, 6), 9, dtype=torch.uint8))
    assert prepared.unique().tolist() == [9]
    assert prepared.shape == (1, 3, 6, 6)


def test_the_description_tells_all_settings():
    texts = {Preparation(size, color).describe() for size in (8, 32) for color in ("grey", "rgb")}
    assert len(texts) == 4


def test_a_size_below_one_pixel_is_refused():
    with pytest.raises(ConfigError, match="image_size is 0"):
        Preparation(0, "grey")
