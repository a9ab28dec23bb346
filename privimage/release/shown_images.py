"""Synthetic images for a page to show: the first ones of each class, each a picture of its own.

Nothing is picked: who sees them sees what the run drew first. They follow from the released model.
"""

from dataclasses import dataclass

from privimage.data.image_set import ImageSet
from privimage.errors import DataInvalidError
from privimage.release.embedded import data_uri
from privimage.release.export import png_of
from privimage.release.released_model import MAX_SIZE

MOST_OF_A_CLASS, FEWEST_OF_A_CLASS = 24, 2
MOST_CLASSES, MOST_IMAGES = 200, 120  # on one page, which a browser has to hold
WANTED_WIDTH = 68  # of an image on the page, about


@dataclass(frozen=True)
class ShownClass:
    """A class, how many images there are of it, and the addresses of those that are shown."""

    name: str
    num_images: int
    pictures: list[str]


def shown_classes(images: ImageSet) -> list[ShownClass]:
    """The first images of each class; of the first classes where there are very many.

    DataInvalidError for images that no generator of ours draws.
    """
    if images.image_size > MAX_SIZE:
        raise DataInvalidError(
            f"{images.source} has images of {images.image_size} pixels, and a run draws at most "
            f"{MAX_SIZE}; copy it again"
        )
    number = MOST_IMAGES // images.num_classes
    number = min(MOST_OF_A_CLASS, max(FEWEST_OF_A_CLASS, number))
    shown = []
    for label, name in enumerate(images.class_names[:MOST_CLASSES]):
        places = (images.labels == label).nonzero().flatten()
        pictures = [data_uri(png_of(images.images[place])) for place in places[:number].tolist()]
        shown.append(ShownClass(name, len(places), pictures))
    return shown


def shown_width(image_size: int) -> int:
    """Pixels of the page for one image: a whole number for each of its own."""
    return image_size * max(1, round(WANTED_WIDTH / image_size))
