"""npz files from strangers: arrays `images`, `labels` and `class_names`, never a pickle.

Headers are checked before any array is made, so neither a pickle nor a false size is acted on.
Images are uint8, (number, height, width), (number, height, width, channel) or (number, channel,
height, width). Without labels the images are one class. What is read may be private.
"""

import zipfile
import zlib
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8
from numpy.lib import format as npy_format

from privimage.data.image_set import ONE_CLASS, ImageSet
from privimage.data.preparation import Preparation
from privimage.errors import DataInvalidError

MAX_ARRAY_BYTES = 32 * 2**30
MAX_CLASSES = 100_000


def read_npz(path: Path, *, preparation: Preparation, source: str) -> ImageSet:
    """Read and prepare the images of one npz file; DataInvalidError for anything doubtful."""
    arrays = read_arrays(path, source=source)
    if "images" not in arrays:
        raise DataInvalidError(
            f"{source} has no array named images; save it with "
            "numpy.savez(file, images=..., labels=..., class_names=...)"
        )
    images = channels_first(arrays["images"], source=source)
    labels = arrays.get("labels", np.zeros(len(images), np.int64))
    if labels.dtype.kind not in "iu" or labels.shape != (len(images),):
        raise DataInvalidError(
            f"{source}: labels are {labels.dtype} of shape {labels.shape}; "
            f"give whole numbers of shape ({len(images)},)"
        )
    return ImageSet(
        images=preparation.prepare(torch.from_numpy(images)),
        labels=torch.from_numpy(labels.astype(np.int64)),
        class_names=_class_names(arrays, labels, source),
        source=source,
        public_size=len(images),
    )


def read_arrays(path: Path, *, source: str) -> dict[str, np.ndarray]:
    """Every array of an npz file, none of them an object array."""
    try:
        with zipfile.ZipFile(path) as archive:
            return {
                info.filename.removesuffix(".npy"): _read_array(archive, info, source)
                for info in archive.infolist()
            }
    except (zipfile.BadZipFile, zlib.error, OSError, EOFError, RuntimeError) as error:
        raise DataInvalidError(
            f"{source} is not a readable npz file ({error}); save or fetch it again"
        ) from error


def channels_first(images: np.ndarray, *, source: str) -> UInt8[np.ndarray, "n c h w"]:
    """Bring any of the three layouts to (number, channel, height, width)."""
    if images.dtype == np.uint8 and images.ndim == 3:
        images = images[:, None]
    elif images.ndim == 4 and images.shape[1] not in (1, 3):
        images = images.transpose(0, 3, 1, 2)
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1] not in (1, 3):
        raise DataInvalidError(
            f"{source}: images are {images.dtype} of shape {images.shape}; give uint8 of shape "
            "(number, height, width), (number, height, width, 3) or (number, 3, height, width)"
        )
    if 0 in images.shape:
        raise DataInvalidError(f"{source} holds no images; save at least one")
    return np.ascontiguousarray(images)


def _read_array(archive: zipfile.ZipFile, info: zipfile.ZipInfo, source: str) -> np.ndarray:
    with archive.open(info) as file:
        try:
            version = npy_format.read_magic(file)
            read_header = {
                (1, 0): npy_format.read_array_header_1_0,
                (2, 0): npy_format.read_array_header_2_0,
            }[version]
            shape, _, dtype = read_header(file)
        except (ValueError, KeyError) as error:
            raise DataInvalidError(
                f"{source}: {info.filename} is not an array ({error}); save it with numpy.savez"
            ) from error
        if dtype.hasobject:
            raise DataInvalidError(
                f"{source}: {info.filename} is a pickle, which can run code when it is read; "
                "save plain arrays of numbers or text"
            )
        num_bytes = int(np.prod(shape, dtype=object)) * dtype.itemsize
        if num_bytes > min(MAX_ARRAY_BYTES, info.file_size):
            raise DataInvalidError(
                f"{source}: {info.filename} claims {num_bytes} bytes, more than it holds or than "
                f"{MAX_ARRAY_BYTES // 2**30} GiB; save fewer or smaller images"
            )
    with archive.open(info) as file:
        return npy_format.read_array(file, allow_pickle=False)


def _class_names(arrays: dict[str, np.ndarray], labels: np.ndarray, source: str) -> tuple[str, ...]:
    if "labels" not in arrays:
        return (ONE_CLASS,)
    names = arrays.get("class_names")
    if names is not None:
        if names.dtype.kind != "U" or names.ndim != 1:
            raise DataInvalidError(
                f"{source}: class_names are {names.dtype} of shape {names.shape}; "
                "give one text per class"
            )
        return tuple(str(name) for name in names)
    if not 0 <= labels.min() <= labels.max() < MAX_CLASSES:
        raise DataInvalidError(
            f"{source}: labels run from {labels.min()} to {labels.max()}; number the classes from 0"
        )
    return tuple(str(label) for label in range(int(labels.max()) + 1))
