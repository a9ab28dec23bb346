"""The published image sets by name: how each is read from the place where it lies.

All public. Where that may be is said in `privimage.data.places`; sets that can be downloaded come
from `privimage.data.public.downloads`, ImageNet and CelebA from archives that a person obtained.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

from privimage.data.image_set import ImageSet
from privimage.data.own.array_folder import read_array_folder
from privimage.data.own.image_tree import SPLITS, read_image_tree
from privimage.data.places import DOWNLOADED, PREPARED, Place, find_place, places_of
from privimage.data.preparation import Preparation
from privimage.data.public.cifar import CIFAR10, CIFAR100, CifarFiles, read_cifar
from privimage.data.public.downloads import install
from privimage.data.public.idx import read_idx
from privimage.errors import DataInvalidError, DataMissingError

GARMENTS = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
PUBLISHED = (*DOWNLOADED, *PREPARED)
IDX_CLASSES = {"fashion_mnist": GARMENTS, "mnist": tuple("0123456789")}
CIFAR_FILES = {"cifar10": CIFAR10, "cifar100": CIFAR100}
OTHER_REMEDIES = {"fashion_mnist": "or install the Debian package dataset-fashion-mnist, "}

Reader = Callable[[Preparation], ImageSet]


def find_published(name: str, split: str, *, data_root: Path) -> tuple[Path, Reader]:
    """The place where the split lies and its reader; DataMissingError names all places tried."""
    if place := find_place(name, split, data_root=data_root):
        return place.path, _reader(place, name, split)
    tried = ", ".join(str(place.path) for place in places_of(name, split, data_root=data_root))
    how = " --from FOLDER (of its official archives)" if name in PREPARED else ""
    raise DataMissingError(
        f"{name} ({split}) was not found; tried {tried}; type: artifact fetch {name}{how}, "
        f"{OTHER_REMEDIES.get(name, '')}or point PRIVIMAGE_DATA at the folder that has it"
    )


def download(name: str, *, data_root: Path) -> None:
    """Fetch the set if a split of it is lacking; DataMissingError if it cannot be had."""
    if not all(find_place(name, split, data_root=data_root) for split in SPLITS):
        install(name, data_root=data_root)


def _reader(place: Place, name: str, split: str) -> Reader:
    if place.kind == "arrays":
        return lambda preparation: read_array_folder(
            place.path, preparation=preparation, source=name
        )
    if place.kind == "cifar":
        return partial(_read_cifar, place.path, split, CIFAR_FILES[name], name)
    if place.kind == "idx":
        return partial(_read_idx_pair, *place.files, IDX_CLASSES[name], name)
    return lambda preparation: read_image_tree(
        place.path, split=None, preparation=preparation, source=name
    )


def _read_cifar(
    folder: Path, split: str, files: CifarFiles, name: str, preparation: Preparation
) -> ImageSet:
    return _prepared(read_cifar(folder, split, files=files, source=name), preparation)


def _read_idx_pair(
    images_path: Path,
    labels_path: Path,
    class_names: tuple[str, ...],
    name: str,
    preparation: Preparation,
) -> ImageSet:
    images = torch.from_numpy(read_idx(images_path, num_dimensions=3))[:, None]
    labels = torch.from_numpy(read_idx(labels_path, num_dimensions=1)).to(torch.int64)
    if len(images) != len(labels):
        raise DataInvalidError(
            f"{images_path} has {len(images)} images for {len(labels)} labels; fetch both again"
        )
    return _prepared(ImageSet(images, labels, class_names, name, len(images)), preparation)


def _prepared(image_set: ImageSet, preparation: Preparation) -> ImageSet:
    return ImageSet(
        images=preparation.prepare(image_set.images),
        labels=image_set.labels,
        class_names=image_set.class_names,
        source=image_set.source,
        public_size=image_set.public_size,
    )
