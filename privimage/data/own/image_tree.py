"""Image-folder trees, `<class>/<image>`, as a folder or a zip file.

Classes are the folders in natural order (2 before 10); a flat folder is one class. `train/` and
`test/` above the classes are splits. Each image is decoded by itself, from a bounded number of
pixels, so a small file cannot ask for a large memory. What is read may be private: where the owner
has declared the classes, each file is an image of the set or not by its own name and content, and
none is a reason to stop.
"""

import io
import logging
import re
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image, ImageOps
from torch import Tensor

from privimage.data.image_set import ONE_CLASS, ImageSet
from privimage.data.own.archives import Listing, Member, open_listing
from privimage.data.parallel import for_each_chunk
from privimage.data.preparation import Preparation
from privimage.errors import DataInvalidError, DataMissingError

logger = logging.getLogger(__name__)

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".ppm", ".pgm")
IMAGE_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "PPM")
SPLITS = ("train", "test")
MAX_IMAGE_PIXELS = 64 * 2**20


def read_image_tree(
    path: Path,
    *,
    split: str | None,
    preparation: Preparation,
    source: str,
    classes: tuple[str, ...] | None = None,
    blank: bool = False,
) -> ImageSet:
    """Read `split` of a tree, or all of it for None. A tree without split folders is all train.

    With declared `classes` (() for none), what does not fit or cannot be read is left out. `blank`
    images are black and only counted: no file is opened.
    """
    unreadable: dict[int, str] | None = None if classes is None else {}
    with open_listing(path) as listing:
        found, left_out = files_by_class(listing, split=split, source=source, classes=classes)
        members = [member for files in found.values() for member in files]
        if blank:
            images = blank_images(len(members), preparation)
        else:
            images = decode_all(members, preparation, unreadable=unreadable)
    sizes = torch.tensor([len(files) for files in found.values()])
    labels = torch.arange(len(found)).repeat_interleave(sizes)
    if unreadable:
        kept = torch.tensor([number not in unreadable for number in range(len(members))])
        images, labels = images[kept], labels[kept]
        left_out += [unreadable[number] for number in sorted(unreadable)]
    return ImageSet(
        images=images,
        labels=labels,
        class_names=tuple(found),
        source=source,
        public_size=max(1, len(images)),
        left_out=tuple(left_out),
    )


def files_by_class(
    listing: Listing, *, split: str | None, source: str, classes: tuple[str, ...] | None
) -> tuple[dict[str, list[Member]], list[str]]:
    """The images of a split by class, in natural order, and why other files are left out."""
    if classes is None:
        listing = select_split(only_images(without_wrapper(listing)), split, source)
        return by_class(listing, source), []
    return by_declared_class(listing, split, classes)


def by_declared_class(
    listing: Listing, split: str | None, classes: tuple[str, ...]
) -> tuple[dict[str, list[Member]], list[str]]:
    """The same where the classes are declared: a file's own path says of which it is, and so no
    file changes what another one is taken for.
    """
    found: dict[str, list[Member]] = {name: [] for name in classes or (ONE_CLASS,)}
    left_out = []
    for member in sorted(listing.files, key=lambda member: natural_key(member.name)):
        *above, folder, _ = ("", *member.parts)
        if split is not None and split != split_of(above if classes else [*above, folder]):
            continue
        name = folder if classes else ONE_CLASS
        if name in found and _suffix(member) in IMAGE_SUFFIXES:
            found[name].append(member)
        else:
            left_out.append(f"{member.name} is not an image in the folder of a declared class")
    return found, left_out


def split_of(folders: Sequence[str]) -> str:
    """The split that the folders above a file put it in."""
    return "test" if "test" in folders else "train"


def without_wrapper(listing: Listing) -> Listing:
    """Drop folders that hold the whole tree, as in a zip of one folder."""
    while True:
        tops = {member.parts[0] for member in listing.files}
        is_wrapper = all(len(member.parts) > 2 for member in listing.files)
        if len(tops) != 1 or not is_wrapper or tops & set(SPLITS):
            return listing
        listing = _below(listing, tops.pop())


def only_images(listing: Listing) -> Listing:
    """Leave out files that are not images, by their suffix, and say so."""
    images = [file for file in listing.files if _suffix(file) in IMAGE_SUFFIXES]
    others = [file for file in listing.files if _suffix(file) not in IMAGE_SUFFIXES]
    if others:
        logger.warning(
            "%d files are not images and are left out, such as %s", len(others), others[0].name
        )
    return Listing(images, listing.folders)


def select_split(listing: Listing, split: str | None, source: str) -> Listing:
    """The part of the tree that belongs to `split`; DataMissingError if it has no such part."""
    tops = {parts[0] for parts in listing.folders}
    has_splits = bool(tops) and tops <= set(SPLITS) and all(len(f.parts) > 1 for f in listing.files)
    if split is None or (split == "train" and not has_splits):
        return listing
    if split not in tops or not has_splits:
        raise DataMissingError(
            f"{source} has no {split} images; put train/ and test/ folders above the classes"
        )
    return _below(listing, split)


def by_class(listing: Listing, source: str) -> dict[str, list[Member]]:
    """Images by class name, both in natural order; DataInvalidError for any other layout.

    An empty folder is a class without images.
    """
    if not listing.files:
        raise DataInvalidError(
            f"{source} holds no images; give one folder per class with files named "
            f"{', '.join('*' + suffix for suffix in IMAGE_SUFFIXES[:4])}"
        )
    depths = {len(member.parts) for member in listing.files}
    files = sorted(listing.files, key=lambda member: natural_key(member.name))
    if depths == {1} and not listing.folders:
        return {ONE_CLASS: files}
    for member in files:
        if len(member.parts) != 2:
            raise DataInvalidError(
                f"{source}: {member.name} does not lie directly in a class folder; "
                "arrange the images as <class>/<image>"
            )
    names = sorted({parts[0] for parts in listing.folders}, key=natural_key)
    classes: dict[str, list[Member]] = {name: [] for name in names}
    for member in files:
        classes[member.parts[0]].append(member)
    return classes


def blank_images(num: int, preparation: Preparation) -> UInt8[Tensor, "num channel size size"]:
    """Black images of the prepared shape, which take no memory."""
    shape = (1 if preparation.color == "grey" else 3, *[preparation.image_size] * 2)
    return torch.zeros(1, *shape, dtype=torch.uint8).expand(num, *shape)


def decode_all(
    members: Sequence[Member],
    preparation: Preparation,
    *,
    num_threads: int = 0,
    unreadable: dict[int, str] | None = None,
) -> UInt8[Tensor, "number channel height width"]:
    """Decode and prepare with all cores; the first fault, in order, is raised.

    With `unreadable` faults go there instead, and their images are left undefined.
    """
    images = preparation.empty(len(members))

    def decode_chunk(indices: range) -> None:
        for index in indices:
            try:
                images[index] = decode(members[index], preparation)
            except DataInvalidError as error:
                if unreadable is None:
                    raise
                unreadable[index] = str(error)

    for_each_chunk(decode_chunk, len(members), doing="reading images", num_threads=num_threads)
    return torch.from_numpy(images)


def decode(member: Member, preparation: Preparation) -> UInt8[np.ndarray, "channel size size"]:
    """One image as prepared bytes; DataInvalidError with its name if it is damaged or too large."""
    content = member.read()
    try:
        with Image.open(io.BytesIO(content), formats=IMAGE_FORMATS) as image:
            if image.width * image.height > MAX_IMAGE_PIXELS:
                raise Image.DecompressionBombError(f"{image.width} x {image.height} pixels")
            return preparation.prepare_image(ImageOps.exif_transpose(image))
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise DataInvalidError(
            f"{member.name} has more than {MAX_IMAGE_PIXELS} pixels; store it smaller"
        ) from error
    except DataInvalidError as error:
        raise DataInvalidError(f"{member.name}: {error}") from error
    except Exception as error:  # a decoder may raise anything on a damaged or hostile file
        raise DataInvalidError(
            f"{member.name} is not a readable image ({type(error).__name__}); repair or remove it"
        ) from error


def natural_key(name: str) -> tuple[list[str | int], str]:
    """Sorts 2 before 10 and upper case beside lower case."""
    pieces = re.split(r"([0-9]{1,18})", name.casefold())
    return [int(piece) if index % 2 else piece for index, piece in enumerate(pieces)], name


def _below(listing: Listing, top: str) -> Listing:
    return Listing(
        [Member(file.parts[1:], file.read) for file in listing.files if file.parts[0] == top],
        [parts[1:] for parts in listing.folders if parts[0] == top and len(parts) > 1],
    )


def _suffix(member: Member) -> str:
    return PurePosixPath(member.parts[-1]).suffix.lower()
