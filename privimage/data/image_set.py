"""What an image set is: square uint8 images, one label each, and a size that may be published.

Used for public and sensitive images alike (paper, section 3.1). `images` and `labels` of a
sensitive set are private, in memory or mapped from their file; `class_names`, the image shape and
`public_size` are used as public facts, declared by the owner or named as assumed in the statement.
The true size of a sensitive set is private under add/remove adjacency, so whatever divides by a
size divides by `public_size`, never by `len()`.
"""

import hashlib
import hmac
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor

from privimage.errors import DataInvalidError

ONE_CLASS = "all"
HASHED_AT_ONCE = 4096  # images; a copy is made of what is hashed, not of a whole mapped set


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Images (number, channel, height, width) as uint8 with int64 labels below `num_classes`."""

    images: Tensor
    labels: Tensor
    class_names: tuple[str, ...]
    source: str
    public_size: int
    left_out: tuple[str, ...] = ()  # PRIVATE: what did not fit the declared classes, for the owner

    def __post_init__(self) -> None:
        fault = _fault(self)
        if fault:
            raise DataInvalidError(f"image set {self.source}: {fault}")

    def __len__(self) -> int:
        return self.images.shape[0]

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    @property
    def num_channels(self) -> int:
        return self.images.shape[1]

    @property
    def image_size(self) -> int:
        return self.images.shape[2]

    def take(self, indices: Int64[Tensor, " chosen"]) -> "ImageSet":
        """The images at `indices`, in that order; their number becomes the public size."""
        return replace(
            self,
            images=self.images[indices],
            labels=self.labels[indices],
            public_size=max(1, len(indices)),
        )

    def without_labels(self) -> "ImageSet":
        """The same images as one class (the unconditional mode)."""
        labels = torch.zeros(1, dtype=torch.int64).expand(len(self))  # one number, seen N times
        return replace(self, labels=labels, class_names=(ONE_CLASS,))

    def with_classes(self, class_names: tuple[str, ...]) -> "ImageSet":
        """The images of these classes, numbered as declared; for () all images, as one class.

        Each image stays or goes by its own label, so that one image more or less changes nothing
        else. What goes is told in `left_out`; a class may be without images.
        """
        if not class_names:
            return self.without_labels()
        places = {name: place for place, name in enumerate(class_names)}
        labels = torch.tensor([places.get(name, -1) for name in self.class_names])[self.labels]
        declared = replace(self, labels=labels.clamp(min=0), class_names=class_names)
        if (kept := labels >= 0).all():
            return declared
        others = torch.bincount(self.labels[~kept], minlength=self.num_classes).tolist()
        told = zip(others, self.class_names, strict=True)
        left_out = (f"{number} images of class {name}" for number, name in told if number)
        return replace(
            declared.take(kept.nonzero().flatten()), left_out=(*self.left_out, *left_out)
        )

    def with_public_size(self, public_size: int) -> "ImageSet":
        """The same images with a size that their owner chose to publish."""
        return replace(self, public_size=public_size)

    def fingerprint(self, key: bytes | None = None) -> str:
        """SHA-256 over shape, images, labels and names, or HMAC-SHA256 under `key`.

        The plain hash of a private set confirms a guess of its content, so a private set is named
        under a secret key only.
        """
        digest = hashlib.sha256() if key is None else hmac.new(key, digestmod=hashlib.sha256)
        digest.update(repr((tuple(self.images.shape), self.class_names)).encode())
        for part in self.images.split(HASHED_AT_ONCE):
            digest.update(part.cpu().contiguous().numpy().data)
        for part in self.labels.split(HASHED_AT_ONCE):
            digest.update(part.cpu().contiguous().numpy().astype("<i8").data)
        return digest.hexdigest()


def made_up_images(num: int, *, num_channels: int, image_size: int, num_classes: int) -> ImageSet:
    """Random pixels, the same in every call, for timing and checks before any real image is
    read.
    """
    shape = (num, num_channels, image_size, image_size)
    return ImageSet(
        torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator()),
        torch.arange(num) % num_classes,
        tuple(map(str, range(num_classes))),
        source="made up",
        public_size=num,
    )


def to_model_range(images: UInt8[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Bytes to [-1, 1], the range of the diffusion model and of the query network."""
    return images.to(torch.float32) / 127.5 - 1


def to_uint8(images: Float[Tensor, "*shape"]) -> UInt8[Tensor, "*shape"]:
    """[-1, 1] to bytes as the paper's sampling does: clamped to the range, then truncated."""
    return ((images / 2 + 0.5).clamp(0, 1) * 255).to(torch.uint8)


def _fault(image_set: ImageSet) -> str | None:
    images, labels = image_set.images, image_set.labels
    if images.dtype != torch.uint8 or images.ndim != 4:
        return (
            f"images are {images.dtype} of shape {tuple(images.shape)}; "
            "give uint8 of shape (number, channel, height, width)"
        )
    if images.shape[2] != images.shape[3] or images.shape[1] not in (1, 3):
        return (
            f"images have shape {tuple(images.shape[1:])}; "
            "give square images of 1 or 3 channels (a Preparation makes them so)"
        )
    if labels.dtype != torch.int64 or tuple(labels.shape) != (images.shape[0],):
        return (
            f"labels are {labels.dtype} of shape {tuple(labels.shape)}; "
            f"give int64 of shape ({images.shape[0]},)"
        )
    num_classes = len(image_set.class_names)
    if len(set(image_set.class_names)) != num_classes or num_classes == 0:
        return "class names are missing or repeated; give each class a name of its own"
    if not all(_is_text(name) for name in image_set.class_names):
        return "a class name cannot be written as UTF-8; rename the class"
    if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < num_classes:
        return f"a label lies outside 0 to {num_classes - 1}; number the classes from 0"
    if image_set.public_size < 1:
        return f"public_size is {image_set.public_size}; give a positive number"
    return None


def _is_text(name: str) -> bool:
    """False for the halves of characters that file systems and JSON may hold."""
    return name.isascii() or not any("\ud800" <= character <= "\udfff" for character in name)
