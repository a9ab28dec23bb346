"""Sets too large for memory: a folder of `images.npy`, `labels.npy` and `class_names.json`.

The arrays are mapped, so memory does not grow with the number of images: only the pages of those
that are looked at are fetched, and the system gives them back when it needs room. That holds for
images of the size and colours asked for, channels first; others are prepared into memory, and never
into a file, for they may be private. `train/` and `test/` folders of arrays are splits.
"""

import json
import os
from pathlib import Path

import numpy as np

from privimage.data.image_set import ImageSet
from privimage.data.own.arrays import MAX_CLASSES, image_set_of
from privimage.data.own.npy import map_npy
from privimage.data.preparation import Preparation
from privimage.errors import DataInvalidError, DataMissingError
from privimage.files.plain_files import open_plain

SPLITS = ("train", "test")
IMAGES, LABELS, CLASS_NAMES = "images.npy", "labels.npy", "class_names.json"
MAX_NAMES_BYTES = 64 * 2**20
MAX_NAME_LENGTH = 1024  # an array of texts gives each of them the room of the longest


def find_array_folder(path: Path, split: str, *, source: str) -> Path | None:
    """The folder that holds the arrays of `split`, None if `path` is not a folder of arrays."""
    if (path / split / IMAGES).is_file():
        return _inside(path, split)
    is_whole = (path / IMAGES).is_file()
    if is_whole and split == "train":
        return path
    if is_whole or any((path / other / IMAGES).is_file() for other in SPLITS):
        raise DataMissingError(
            f"{source} has no {split} images; put train/ and test/ folders around the arrays"
        )
    return None


def read_array_folder(
    folder: Path,
    *,
    preparation: Preparation,
    source: str,
    classes: tuple[str, ...] | None = None,
) -> ImageSet:
    """The mapped set, prepared; DataInvalidError for anything doubtful."""
    arrays = map_arrays(folder, source=source)
    return image_set_of(arrays, preparation=preparation, source=source, classes=classes)


def map_arrays(folder: Path, *, source: str) -> dict[str, np.ndarray]:
    """`images` and, where they are there, `labels` and `class_names`."""
    arrays = {"images": map_npy(_inside(folder, IMAGES), name=f"{source}: {IMAGES}")}
    if os.path.lexists(folder / LABELS):  # a link that leads nowhere is not passed over
        arrays["labels"] = map_npy(_inside(folder, LABELS), name=f"{source}: {LABELS}")
    if os.path.lexists(folder / CLASS_NAMES):
        arrays["class_names"] = _read_class_names(_inside(folder, CLASS_NAMES), source)
    return arrays


def _inside(folder: Path, name: str) -> Path:
    path = folder / name
    if path.is_symlink() and not path.resolve().is_relative_to(folder.resolve()):
        raise DataInvalidError(
            f"{name} is a link that leads out of the folder; put what it leads to there"
        )
    return path


def _read_class_names(path: Path, source: str) -> np.ndarray:
    try:
        with open_plain(path) as file:
            names = json.loads(file.read(MAX_NAMES_BYTES))
    except (OSError, ValueError, RecursionError) as error:
        raise DataInvalidError(
            f"{source}: {CLASS_NAMES} cannot be read ({error}); give a JSON list of texts"
        ) from error
    if not isinstance(names, list) or len(names) > MAX_CLASSES:
        raise DataInvalidError(
            f"{source}: {CLASS_NAMES} is not a list of texts; give one per class"
        )
    if not all(isinstance(name, str) and len(name) <= MAX_NAME_LENGTH for name in names):
        raise DataInvalidError(
            f"{source}: {CLASS_NAMES} is not a list of texts of at most {MAX_NAME_LENGTH} "
            "characters; give one per class"
        )
    return np.array(names, dtype=np.str_)
