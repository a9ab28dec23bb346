"""The rendered public set: the same for the same arguments, and like handwritten digits."""

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

from privimage.data.image_set import ImageSet
from privimage.data.public.fonts import bundled_fonts
from privimage.data.public.glyphs import CHARACTERS, DIGITS, render_glyphs, rendering_key

FONTS = [path for path in bundled_fonts() if path.stem in ("DejaVuSans", "DejaVuSerif", "cmtt10")]
NUM_EACH = 6  # 3 faces x 2 variations


@pytest.fixture(scope="module")
def glyphs() -> ImageSet:
    return render_glyphs(8, seed=0, variations=2, fonts=FONTS)


def test_there_is_one_class_per_character_with_all_faces_and_variations(glyphs):
    assert glyphs.class_names == tuple(CHARACTERS)
    assert glyphs.num_classes >= 80
    assert glyphs.images.shape == (glyphs.num_classes * NUM_EACH, 1, 8, 8)
    assert glyphs.labels.bincount().unique().tolist() == [NUM_EACH]
    assert glyphs.public_size == len(glyphs)


def test_the_same_arguments_give_the_same_images_and_another_seed_others(glyphs):
    again = render_glyphs(8, seed=0, variations=2, fonts=FONTS)
    other = render_glyphs(8, seed=1, variations=2, fonts=FONTS)
    assert again.fingerprint() == glyphs.fingerprint()
    assert other.fingerprint() != glyphs.fingerprint()


def test_no_image_is_empty_and_no_two_of_a_class_are_equal(glyphs):
    assert glyphs.images.amax(dim=(1, 2, 3)).min() >= 64
    for label in range(glyphs.num_classes):
        images = glyphs.images[glyphs.labels == label].flatten(1)
        assert len(images.unique(dim=0)) == NUM_EACH


def test_letters_fill_the_height_and_marks_stay_small(glyphs):
    def filled_rows(character: str) -> torch.Tensor:
        images = glyphs.images[glyphs.labels == CHARACTERS.index(character)]
        return (images.amax(dim=(1, 3)) > 32).sum(dim=1)

    for character in "A8ghx":
        assert filled_rows(character).min() >= 6
    assert filled_rows(".").max() <= 4  # a full stop is a fifth of a digit's height


def test_digits_have_the_ink_and_the_width_of_handwritten_ones(glyphs):
    # scikit-learn's digits cover .305 of the image and 98 % of them reach full white.
    digits = glyphs.images[glyphs.labels < len(DIGITS)].float() / 255
    assert 0.25 < digits.mean() < 0.36
    edges = digits[..., [0, -1]].mean()
    assert edges < 0.15  # handwritten ones leave the outer columns almost black


def test_a_classifier_of_rendered_digits_reads_handwritten_ones():
    rendered = render_glyphs(8, seed=0, variations=8, fonts=FONTS)
    is_digit = rendered.labels < len(DIGITS)
    pixels = rendered.images[is_digit].flatten(1).numpy() / 255
    classifier = LogisticRegression(max_iter=300).fit(pixels, rendered.labels[is_digit].numpy())
    handwritten, labels = load_digits(return_X_y=True)
    accuracy = classifier.score(handwritten / 16, labels)
    assert accuracy > 0.5  # chance is .1; a small network on all faces reads three of four


def test_other_sizes_are_rendered_and_not_enlarged():
    small = render_glyphs(8, variations=1, fonts=FONTS[:1])
    large = render_glyphs(32, variations=1, fonts=FONTS[:1])
    averaged = torch.nn.functional.avg_pool2d(large.images.float(), 4)
    assert (averaged - small.images).abs().mean() < 4
    assert np.ptp(large.images.numpy()) == 255


def test_the_cache_key_names_every_argument():
    keys = {
        rendering_key(8, fonts=FONTS),
        rendering_key(16, fonts=FONTS),
        rendering_key(8, seed=1, fonts=FONTS),
        rendering_key(8, variations=1, fonts=FONTS),
        rendering_key(8, fonts=FONTS[:1]),
    }
    assert len(keys) == 5
