"""CIFAR-10 and CIFAR-100 in the layout of their authors' archives: pickles, read with suspicion.

Both sets are public (Krizhevsky 2009). A file is read only if its MD5 is the published one, and
even then by an unpickler that can make numpy arrays and basic types and nothing else.
torchvision's reader is not used: it unpickles whatever objects a file asks for.
"""

import hashlib
import io
import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from privimage.data.image_set import ImageSet
from privimage.errors import DataInvalidError
from privimage.files.plain_files import read_bounded

MAX_BYTES = 2**28  # the largest of the files has 155 million


@dataclass(frozen=True)
class CifarFiles:
    """File names with their published MD5, and the keys of labels and class names in them."""

    folder: str
    train: dict[str, str]
    test: dict[str, str]
    meta: dict[str, str]
    labels_key: str
    names_key: str


CIFAR10 = CifarFiles(
    folder="cifar-10-batches-py",
    train={
        "data_batch_1": "c99cafc152244af753f735de768cd75f",
        "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
        "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
        "data_batch_4": "634d18415352ddfa80567beed471001a",
        "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
    },
    test={"test_batch": "40351d587109b95175f43aff81a1287e"},
    meta={"batches.meta": "5ff9c542aee3614f3951f8cda6e48888"},
    labels_key="labels",
    names_key="label_names",
)
CIFAR100 = CifarFiles(
    folder="cifar-100-python",
    train={"train": "16019d7e3df5f24257cddd939b257f8d"},
    test={"test": "f0ef6b0ae62326f3e7ffdfab6717acfc"},
    meta={"meta": "7973b15100ade9c7d40fb424638fde48"},
    labels_key="fine_labels",
    names_key="fine_label_names",
)


def read_cifar(root: Path, split: str, *, files: CifarFiles, source: str) -> ImageSet:
    """One split, 32x32 RGB; DataInvalidError if a file is missing, altered or of another form."""
    batches = files.train if split == "train" else files.test
    contents = [read_pickle(root / name, expected_md5=md5) for name, md5 in batches.items()]
    ((meta_name, meta_md5),) = files.meta.items()
    meta = read_pickle(root / meta_name, expected_md5=meta_md5)
    try:
        pixels = np.concatenate([content["data"] for content in contents])
        labels = np.concatenate([content[files.labels_key] for content in contents])
        images = torch.from_numpy(pixels.reshape(-1, 3, 32, 32))
        labels = torch.from_numpy(labels.astype(np.int64))
        names = tuple(str(name) for name in meta[files.names_key])
    except (KeyError, TypeError, ValueError) as error:
        raise DataInvalidError(
            f"{root} does not hold CIFAR's arrays ({error}); fetch the archive again"
        ) from error
    return ImageSet(images, labels, names, source, len(images))


def read_pickle(path: Path, *, expected_md5: str) -> dict[str, Any]:
    """A dictionary of arrays, numbers, texts and lists; nothing in the file can run code."""
    try:
        content = read_bounded(path, max_bytes=MAX_BYTES)
    except OSError as error:
        raise DataInvalidError(
            f"{path} cannot be read ({error.strerror}); fetch the archive again"
        ) from error
    found = hashlib.md5(content, usedforsecurity=False).hexdigest()
    if found != expected_md5:
        raise DataInvalidError(
            f"{path} is not the published file (MD5 {found}, published {expected_md5}); "
            "fetch the archive again"
        )
    try:
        value = ArrayUnpickler(io.BytesIO(content), encoding="latin1").load()
    except DataInvalidError:
        raise
    except Exception as error:  # an unpickler may raise anything on a damaged file
        raise DataInvalidError(
            f"{path} is damaged ({type(error).__name__}); fetch the archive again"
        ) from error
    if not isinstance(value, dict):
        raise DataInvalidError(f"{path} holds no dictionary; fetch the archive again")
    return value


class ArrayUnpickler(pickle.Unpickler):
    """Resolves the three names that a pickled numpy array needs, and refuses all others."""

    def find_class(self, module_name: str, global_name: str) -> Any:
        allowed = {
            "_reconstruct": np.empty(0).__reduce__()[0],
            "ndarray": np.ndarray,
            "dtype": np.dtype,
        }
        if module_name.split(".")[0] == "numpy" and global_name in allowed:
            return allowed[global_name]
        raise DataInvalidError(
            f"the pickle asks for {module_name}.{global_name}, which image batches do not need; "
            "do not trust this file"
        )
