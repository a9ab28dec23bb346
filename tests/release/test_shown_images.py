import pytest
import torch

from privimage.data.image_set import ImageSet
from privimage.errors import DataInvalidError
from privimage.release.shown_images import MOST_CLASSES, shown_classes, shown_width


def images_of(num_classes, of_each, size=4):
    labels = torch.arange(num_classes).repeat(of_each)
    names = tuple(f"class {n}" for n in range(num_classes))
    images = torch.zeros(len(labels), 1, size, size, dtype=torch.uint8)
    return ImageSet(images, labels, names, "images.npz", len(labels))


@pytest.mark.parametrize(
    ("num_classes", "number"), [(1, 24), (2, 24), (10, 12), (30, 4), (100, 2), (300, 2)]
)
def test_fewer_of_a_class_are_shown_the_more_classes_there_are(num_classes, number):
    shown = shown_classes(images_of(num_classes, 30))
    assert {len(group.pictures) for group in shown} == {number}
    assert {group.num_images for group in shown} == {30}
    assert len(shown) == min(num_classes, MOST_CLASSES)


def test_a_class_without_images_is_there_and_empty():
    drawn = images_of(2, 3)
    nobody = ImageSet(drawn.images, drawn.labels * 0, drawn.class_names, "images.npz", 6)
    assert [group.num_images for group in shown_classes(nobody)] == [6, 0]


def test_images_are_shown_in_whole_multiples_of_their_pixels():
    assert [shown_width(size) for size in (8, 16, 28, 32, 64, 512)] == [64, 64, 56, 64, 64, 512]


def test_images_that_are_too_large_to_be_ours_are_refused():
    with pytest.raises(DataInvalidError, match="600 pixels"):
        shown_classes(images_of(1, 1, size=600))
