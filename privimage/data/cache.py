"""Prepared public image sets kept on disk, so that the second run starts at once.

For public sets only: an entry holds the prepared images in the clear. One npz an entry, named by
a hash of everything that it depends on; an entry that cannot be read is made again.
"""

import hashlib
import io
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from privimage.data.image_set import ImageSet
from privimage.data.own.npy import as_tensor
from privimage.data.own.npz import read_arrays
from privimage.data.places import user_folder
from privimage.errors import DataInvalidError, RunFolderError
from privimage.files.durable import write_durably

logger = logging.getLogger(__name__)

FORMAT = 1


def default_cache_dir() -> Path:
    """`$XDG_CACHE_HOME/privimage`, by default `~/.cache/privimage`."""
    return user_folder("XDG_CACHE_HOME", ".cache") / "privimage"


def cached_image_set(
    build: Callable[[], ImageSet], *, cache_dir: Path | None, name: str, depends_on: dict[str, Any]
) -> ImageSet:
    """What `build` returns, from the cache where it is there; no cache for None."""
    if cache_dir is None:
        return build()
    key = hashlib.sha256(json.dumps([FORMAT, depends_on], sort_keys=True).encode()).hexdigest()
    path = cache_dir / f"{name}-{key[:32]}.npz"
    if path.is_file():  # a pipe would be waited for
        try:
            return _read(path)
        except (DataInvalidError, KeyError, ValueError) as error:
            logger.warning("%s is damaged (%s); it is made again", path, error)
    image_set = build()
    try:
        write_durably(path, _packed(image_set))
    except RunFolderError as error:
        logger.warning("the prepared images are not kept for the next run: %s", error)
    return image_set


def stamp(path: Path) -> list[Any]:
    """Names, sizes and times of the file, or of all files below the folder, that was read."""
    files = sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
    states = [(str(file), file.stat()) for file in files]
    return [[name, state.st_size, state.st_mtime_ns] for name, state in states]


def _packed(image_set: ImageSet) -> bytes:
    buffer = io.BytesIO()
    np.savez(
        buffer,
        images=image_set.images.numpy(),
        labels=image_set.labels.numpy(),
        class_names=np.array(image_set.class_names),
        source=np.array(image_set.source),
        public_size=np.array(image_set.public_size),
    )
    return buffer.getvalue()


def _read(path: Path) -> ImageSet:
    arrays = read_arrays(path, source=str(path))
    return ImageSet(
        images=as_tensor(arrays["images"]),
        labels=as_tensor(arrays["labels"]),
        class_names=tuple(str(name) for name in arrays["class_names"]),
        source=str(arrays["source"]),
        public_size=int(arrays["public_size"]),
    )
