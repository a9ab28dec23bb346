"""What an image set promises: valid by construction, named by a hash, two ranges of values."""

import hashlib
import hmac

import pytest
import torch

from privimage.data.image_set import ImageSet, to_model_range, to_uint8
from privimage.errors import DataInvalidError


def make_set(**changes) -> ImageSet:
    settings = {
        "images": torch.arange(3 * 2 * 2, dtype=torch.uint8).reshape(3, 1, 2, 2),
        "labels": torch.tensor([0, 1, 1]),
        "class_names": ("cat", "dog"),
        "source": "a test",
        "public_size": 3,
    }
    return ImageSet(**{**settings, **changes})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"images": torch.zeros(3, 1, 2, 2)}, "uint8"),
        ({"images": torch.zeros(3, 2, 2, dtype=torch.uint8)}, "uint8 of shape"),
        ({"images": torch.zeros(3, 1, 2, 4, dtype=torch.uint8)}, "square"),
        ({"images": torch.zeros(3, 4, 2, 2, dtype=torch.uint8)}, "1 or 3 channels"),
        ({"labels": torch.tensor([0, 1])}, "int64 of shape"),
        ({"labels": torch.tensor([0, 1, 1], dtype=torch.int32)}, "int64"),
        ({"labels": torch.tensor([0, 1, 2])}, "outside 0 to 1"),
        ({"labels": torch.tensor([0, -1, 1])}, "outside 0 to 1"),
        ({"class_names": ("cat", "cat")}, "repeated"),
        ({"public_size": 0}, "positive"),
    ],
)
def test_a_malformed_set_cannot_be_made(changes, message):
    with pytest.raises(DataInvalidError, match=message):
        make_set(**changes)


def test_sizes_are_read_off_the_images():
    image_set = make_set()
    found = (len(image_set), image_set.num_classes, image_set.num_channels, image_set.image_size)
    assert found == (3, 2, 1, 2)


def test_take_keeps_the_order_asked_for_and_the_classes():
    taken = make_set().take(torch.tensor([2, 0]))
    assert taken.images[:, 0, 0, 0].tolist() == [8, 0]  # image i starts at value 4i
    assert taken.labels.tolist() == [1, 0]
    assert (taken.class_names, taken.public_size) == (("cat", "dog"), 2)


def test_without_labels_is_one_class_of_the_same_images():
    image_set = make_set().without_labels()
    assert (image_set.num_classes, image_set.labels.tolist()) == (1, [0, 0, 0])
    assert torch.equal(image_set.images, make_set().images)


def test_a_published_size_replaces_the_true_one():
    assert make_set().with_public_size(1000).public_size == 1000


def test_the_fingerprint_changes_with_pixels_labels_and_names_but_not_with_the_source():
    plain = make_set().fingerprint()
    assert make_set(source="elsewhere", public_size=9).fingerprint() == plain
    others = [
        make_set(images=make_set().images.flip(0)),
        make_set(labels=torch.tensor([1, 0, 1])),
        make_set(class_names=("cat", "dogs")),
        make_set(images=make_set().images.reshape(3, 1, 2, 2).transpose(2, 3)),
    ]
    assert len({plain, *(other.fingerprint() for other in others)}) == 5


def test_the_keyed_fingerprint_is_the_hmac_of_the_hashed_content():
    content = repr(((3, 1, 2, 2), ("cat", "dog"))).encode()
    content += bytes(range(12)) + b"".join(bytes([label, *[0] * 7]) for label in (0, 1, 1))
    assert make_set().fingerprint() == hashlib.sha256(content).hexdigest()
    assert make_set().fingerprint(b"key") == hmac.new(b"key", content, "sha256").hexdigest()


def test_the_model_range_is_minus_one_to_one():
    values = to_model_range(torch.tensor([0, 255], dtype=torch.uint8))
    assert values.tolist() == [-1.0, 1.0]


def test_bytes_are_clamped_and_truncated_not_rounded():
    # (x/2 + .5) * 255: -2 -> below 0; 0 -> 127.5, truncated; .999 -> 254.87, truncated; 2 -> 255
    values = to_uint8(torch.tensor([-2.0, 0.0, 0.999, 2.0]))
    assert values.tolist() == [0, 127, 254, 255]
