"""The published image sets by name: where each may lie on a disk, and how it is read.

All public. For every set the first place that exists is used: the layout of torchvision, then
`<name>-<split>.zip` and `<name>/<split>/<class>/` under the data folder, then what a system
package installs.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import torch

from privimage.data.cifar import CIFAR10, CIFAR100, CifarFiles, read_cifar
from privimage.data.idx import read_idx
from privimage.data.image_set import ImageSet
from privimage.data.image_tree import read_image_tree
from privimage.data.preparation import Preparation
from privimage.errors import DataInvalidError, DataMissingError

logger = logging.getLogger(__name__)

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


@dataclass(frozen=True)
class Published:
    """A published set: torchvision's class for it, and where its own format may lie."""

    torchvision_class: str
    cifar: CifarFiles | None = None
    idx_folders: tuple[Path, ...] = ()  # relative ones are below the data folder
    class_names: tuple[str, ...] = field(default=())
    remedy: str = ""


PUBLISHED = {
    "fashion_mnist": Published(
        torchvision_class="FashionMNIST",
        idx_folders=(Path("FashionMNIST/raw"), Path("/usr/share/dataset-fashion-mnist")),
        class_names=GARMENTS,
        remedy="install the Debian package dataset-fashion-mnist, or ",
    ),
    "mnist": Published(
        torchvision_class="MNIST",
        idx_folders=(Path("MNIST/raw"),),
        class_names=tuple("0123456789"),
    ),
    "cifar10": Published(torchvision_class="CIFAR10", cifar=CIFAR10),
    "cifar100": Published(torchvision_class="CIFAR100", cifar=CIFAR100),
}

Reader = Callable[[Preparation], ImageSet]


def find_published(name: str, split: str, *, data_root: Path) -> tuple[Path, Reader]:
    """The place where the split lies and its reader; DataMissingError names all places tried."""
    places = places_of(name, split, data_root=data_root)
    for path, reader in places:
        if path.exists():
            return path, reader
    tried = ", ".join(str(path) for path, _ in places)
    raise DataMissingError(
        f"{name} ({split}) was not found; tried {tried}; {PUBLISHED[name].remedy}put it at one of "
        "these places, point PRIVIMAGE_DATA at its folder, or load it once with download=True"
    )


def places_of(name: str, split: str, *, data_root: Path) -> list[tuple[Path, Reader]]:
    """Every place in the order in which it is tried."""
    published = PUBLISHED[name]
    places: list[tuple[Path, Reader]] = []
    if published.cifar is not None:
        folder = data_root / published.cifar.folder
        places.append((folder, partial(_read_cifar, folder, split, published.cifar, name)))
    stem = "train" if split == "train" else "t10k"
    for folder in published.idx_folders:
        for suffix in ("", ".gz"):
            path = data_root / folder / f"{stem}-images-idx3-ubyte{suffix}"
            places.append((path, partial(_read_idx_pair, path, published.class_names, name)))
    for path in (data_root / f"{name}-{split}.zip", data_root / name / split):
        places.append((path, partial(_read_tree, path, name)))
    return places


def download(name: str, *, data_root: Path) -> None:
    """Fetch both splits with torchvision, which checks them; DataMissingError if it cannot."""
    from torchvision import datasets  # takes seconds to import, and only this needs it

    try:
        for train in (True, False):
            getattr(datasets, PUBLISHED[name].torchvision_class)(data_root, train, download=True)
    except (OSError, RuntimeError) as error:
        raise DataMissingError(
            f"{name} could not be downloaded to {data_root} ({error}); check the network and the "
            "folder, or fetch it elsewhere and copy it there"
        ) from error


def _read_cifar(
    folder: Path, split: str, files: CifarFiles, name: str, preparation: Preparation
) -> ImageSet:
    return _prepared(read_cifar(folder, split, files=files, source=name), preparation)


def _read_idx_pair(
    path: Path, class_names: tuple[str, ...], name: str, preparation: Preparation
) -> ImageSet:
    labels_path = path.with_name(path.name.replace("images-idx3", "labels-idx1"))
    images = torch.from_numpy(read_idx(path, num_dimensions=3))[:, None]
    labels = torch.from_numpy(read_idx(labels_path, num_dimensions=1)).to(torch.int64)
    if len(images) != len(labels):
        raise DataInvalidError(
            f"{path} has {len(images)} images for {len(labels)} labels; fetch both again"
        )
    return _prepared(ImageSet(images, labels, class_names, name, len(images)), preparation)


def _read_tree(path: Path, name: str, preparation: Preparation) -> ImageSet:
    return read_image_tree(path, split=None, preparation=preparation, source=name)


def _prepared(image_set: ImageSet, preparation: Preparation) -> ImageSet:
    return ImageSet(
        images=preparation.prepare(image_set.images),
        labels=image_set.labels,
        class_names=image_set.class_names,
        source=image_set.source,
        public_size=image_set.public_size,
    )
