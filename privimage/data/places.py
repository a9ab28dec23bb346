"""Where published sets and weights may lie on a disk: a look at names, and nothing is opened.

All public. For every set the first place that is complete is used: the layout of torchvision, then
what a system package installs, then `<name>-<split>.zip` and `<name>/<split>/<class>/` under the
data folder. Sets that had to be prepared have one place, `<name>/<split>/images.npy`. Torch is not
imported here: `artifact doctor` looks for data even where torch is broken.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from privimage.data.public.pinned_files import INCEPTION
from privimage.errors import ConfigError

SIZES = (32, 64)
IMAGENET = {f"imagenet{size}": size for size in SIZES}
CELEBA = {f"celeba{size}": size for size in SIZES}
CELEBA_MALE = {f"{name}_male": size for name, size in CELEBA.items()}
PREPARED = IMAGENET | CELEBA | CELEBA_MALE  # name: pixels a side
CIFAR_FOLDERS = {"cifar10": "cifar-10-batches-py", "cifar100": "cifar-100-python"}
IDX_FOLDERS = {  # relative ones are below the data folder
    "fashion_mnist": ("FashionMNIST/raw", "/usr/share/datasets/fashion-mnist"),
    "mnist": ("MNIST/raw",),
}
DOWNLOADED = (*IDX_FOLDERS, *CIFAR_FOLDERS)
ARRAY_FILES = ("images.npy", "labels.npy", "class_names.json")


@dataclass(frozen=True)
class Place:
    """Where one split may lie: what a reader of that kind opens, and all that must be there."""

    kind: Literal["cifar", "idx", "tree", "arrays"]
    path: Path
    files: tuple[Path, ...]

    def is_complete(self) -> bool:
        return all(file.exists() for file in self.files)


def places_of(name: str, split: str, *, data_root: Path) -> list[Place]:
    """Every place in the order in which it is tried."""
    if name in PREPARED:
        folder = data_root / name / split
        return [Place("arrays", folder, tuple(folder / file for file in ARRAY_FILES))]
    places = [*_cifar(name, data_root), *_idx(name, split, data_root)]
    trees = (data_root / f"{name}-{split}.zip", data_root / name / split)
    return places + [Place("tree", path, (path,)) for path in trees]


def find_place(name: str, split: str, *, data_root: Path) -> Place | None:
    """The first place that is complete."""
    places = places_of(name, split, data_root=data_root)
    return next((place for place in places if place.is_complete()), None)


def find_inception(data_root: Path) -> Path | None:
    """The weights for FID: in the data folder, or in torch's own download cache."""
    cache = user_folder("XDG_CACHE_HOME", ".cache")
    hub = Path(os.environ.get("TORCH_HOME") or cache / "torch").expanduser() / "hub"
    candidates = (data_root / INCEPTION.name, hub / "checkpoints" / INCEPTION.name)
    return next((path for path in candidates if path.is_file()), None)


def default_data_root() -> Path:
    """`$PRIVIMAGE_DATA`, else `$XDG_DATA_HOME/privimage`, by default `~/.local/share/privimage`."""
    if given := os.environ.get("PRIVIMAGE_DATA"):
        return Path(given)
    return user_folder("XDG_DATA_HOME", ".local/share") / "privimage"


def user_folder(variable: str, below_home: str) -> Path:
    """The folder that an XDG variable names, else its usual place; ConfigError without a home."""
    if given := os.environ.get(variable):
        return Path(given)
    try:
        return Path.home() / below_home
    except RuntimeError as error:
        raise ConfigError(f"this user has no home folder; set HOME or {variable}") from error


def _cifar(name: str, data_root: Path) -> Iterator[Place]:
    if name in CIFAR_FOLDERS:
        folder = data_root / CIFAR_FOLDERS[name]
        yield Place("cifar", folder, (folder,))


def _idx(name: str, split: str, data_root: Path) -> Iterator[Place]:
    stem = "train" if split == "train" else "t10k"
    for folder in IDX_FOLDERS.get(name, ()):
        for suffix in ("", ".gz"):
            images = data_root / folder / f"{stem}-images-idx3-ubyte{suffix}"
            labels = images.with_name(images.name.replace("images-idx3", "labels-idx1"))
            yield Place("idx", images, (images, labels))
