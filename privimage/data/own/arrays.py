"""Image sets given as arrays `images`, `labels` and `class_names`, checked and prepared.

Images are uint8, (number, height, width), (number, height, width, channel) or (number, channel,
height, width). Without labels the images are one class. Images that are already as asked for are
not copied, so a mapped array stays on the disk. What is read may be private: where the owner has
declared the classes, an image whose label is none of them is left out instead of refused.
"""

import numpy as np
from jaxtyping import UInt8

from privimage.data.image_set import ONE_CLASS, ImageSet
from privimage.data.own.npy import as_tensor
from privimage.data.preparation import Preparation
from privimage.errors import DataInvalidError

MAX_CLASSES = 100_000


def image_set_of(
    arrays: dict[str, np.ndarray],
    *,
    preparation: Preparation,
    source: str,
    classes: tuple[str, ...] | None = None,
) -> ImageSet:
    """The set, with its images prepared; DataInvalidError for anything doubtful.

    Declared `classes` name the labels where the file does not; () means that labels don't matter.
    """
    if classes == ():
        arrays = {name: array for name, array in arrays.items() if name != "labels"}
    if "images" not in arrays:
        raise DataInvalidError(
            f"{source} has no array named images; save it with "
            "numpy.savez(file, images=..., labels=..., class_names=...)"
        )
    images = channels_first(arrays["images"], source=source, may_be_empty=classes is not None)
    if classes and "labels" not in arrays:
        raise DataInvalidError(f"{source} has no array named labels; declare no classes, or add it")
    labels = arrays.get("labels", np.zeros(len(images), np.int64))
    if labels.dtype.kind not in "iu" or labels.shape != (len(images),):
        raise DataInvalidError(
            f"{source}: labels are {labels.dtype} of shape {labels.shape}; "
            f"give whole numbers of shape ({len(images)},)"
        )
    class_names, left_out = _class_names(arrays, labels, source, classes), ()
    if classes and not (fits := (labels >= 0) & (labels < len(class_names))).all():
        others = zip(*np.unique(labels[~fits], return_counts=True), strict=True)
        left_out = tuple(f"{number} images of label {label}" for label, number in others)
        images, labels = images[fits], labels[fits]
    return ImageSet(
        images=preparation.prepare(as_tensor(images)),
        labels=as_tensor(np.require(labels, np.int64, "A")),  # copied only if it must be
        class_names=class_names,
        source=source,
        public_size=max(1, len(images)),
        left_out=left_out,
    )


def channels_first(
    images: np.ndarray, *, source: str, may_be_empty: bool = False
) -> UInt8[np.ndarray, "n c h w"]:
    """Bring any of the three layouts to (number, channel, height, width); the last is not copied.

    Channels that come last are copied in front, in memory, even from a mapped array.
    """
    if images.dtype == np.uint8 and images.ndim == 3:
        images = images[:, None]
    elif images.ndim == 4 and images.shape[1] not in (1, 3):
        images = images.transpose(0, 3, 1, 2)
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1] not in (1, 3):
        raise DataInvalidError(
            f"{source}: images are {images.dtype} of shape {images.shape}; give uint8 of shape "
            "(number, height, width), (number, height, width, 3) or (number, 3, height, width)"
        )
    if 0 in images.shape[1:] or not (len(images) or may_be_empty):
        raise DataInvalidError(f"{source} holds no images; save at least one")
    return np.ascontiguousarray(images)


def _class_names(
    arrays: dict[str, np.ndarray],
    labels: np.ndarray,
    source: str,
    classes: tuple[str, ...] | None,
) -> tuple[str, ...]:
    if "labels" not in arrays:
        return (ONE_CLASS,)
    names = arrays.get("class_names")
    if names is not None:
        if names.dtype.kind != "U" or names.ndim != 1:
            raise DataInvalidError(
                f"{source}: class_names are {names.dtype} of shape {names.shape}; "
                "give one text per class"
            )
        try:
            return tuple(str(name) for name in names)
        except ValueError as error:
            raise DataInvalidError(f"{source}: class_names hold no text ({error})") from error
    if classes is not None:
        return classes
    if not 0 <= labels.min() <= labels.max() < MAX_CLASSES:
        raise DataInvalidError(
            f"{source}: labels run from {labels.min()} to {labels.max()}; number the classes from 0"
        )
    return tuple(str(label) for label in range(int(labels.max()) + 1))
