"""npz files from strangers: plain arrays, checked member by member, never a pickle.

Headers are checked before any array is made, so neither a pickle nor a false size is acted on. An
array of `MAPPED_FROM_BYTES` or more that lies uncompressed in the file is mapped, and only then is
the file's checksum not compared. What is read may be private.
"""

import struct
import zipfile
from pathlib import Path

import numpy as np
from numpy.lib import format as npy_format

from privimage.data.image_set import ImageSet
from privimage.data.own.archives import COMPRESSIONS, DAMAGED
from privimage.data.own.arrays import image_set_of
from privimage.data.own.npy import map_array, read_header
from privimage.data.preparation import Preparation
from privimage.errors import DataInvalidError
from privimage.files.plain_files import open_plain

MAX_ARRAY_BYTES = 32 * 2**30  # of all arrays together that are read into memory
MAX_ARRAYS = 100
MAX_EXPANSION = 1100  # deflate makes at most 1032 bytes of one
MAPPED_FROM_BYTES = 2**30
LOCAL_HEADER_BYTES = 30  # before the name and the extra field, whose lengths are its last 4 bytes


def read_npz(
    path: Path,
    *,
    preparation: Preparation,
    source: str,
    classes: tuple[str, ...] | None = None,
) -> ImageSet:
    """Read and prepare the images of one npz file; DataInvalidError for anything doubtful."""
    arrays = read_arrays(path, source=source)
    return image_set_of(arrays, preparation=preparation, source=source, classes=classes)


def read_arrays(path: Path, *, source: str) -> dict[str, np.ndarray]:
    """Every array of an npz file, none of them an object array; large ones may be mapped."""
    arrays: dict[str, np.ndarray] = {}
    try:
        with open_plain(path) as file, zipfile.ZipFile(file) as archive:
            for info in archive.infolist():
                name = info.filename.removesuffix(".npy")
                if name in arrays or len(arrays) == MAX_ARRAYS:
                    raise DataInvalidError(
                        f"{source} has too many arrays, as {name!r}; save it again"
                    )
                left = MAX_ARRAY_BYTES - sum(map(_held_bytes, arrays.values()))
                arrays[name] = _read_array(
                    path, archive, info, name=f"{source}: {name}.npy", left=left
                )
        return arrays
    except DataInvalidError:
        raise
    except DAMAGED as error:
        raise DataInvalidError(
            f"{source} is not a readable npz file ({error}); save or fetch it again"
        ) from error


def _read_array(
    path: Path, archive: zipfile.ZipFile, info: zipfile.ZipInfo, *, name: str, left: int
) -> np.ndarray:
    if info.compress_type not in COMPRESSIONS:
        raise DataInvalidError(f"{name} is compressed in an unusual way; save it with numpy.savez")
    with archive.open(info) as file:
        header = read_header(file, name=name, held_bytes=info.file_size)
    stored = info.compress_type == zipfile.ZIP_STORED and info.compress_size == info.file_size
    if stored and header.num_bytes >= MAPPED_FROM_BYTES:
        start = _content_start(path, info)
        if start + info.file_size > path.stat().st_size:
            raise DataInvalidError(f"{name} ends before it should; save or fetch it again")
        return map_array(path, header, start=start)
    if header.num_bytes > left:
        raise DataInvalidError(
            f"{name} unpacks to more than {MAX_ARRAY_BYTES // 2**30} GiB; save it uncompressed"
        )
    if header.num_bytes > MAX_EXPANSION * info.compress_size:
        raise DataInvalidError(
            f"{name} claims {header.num_bytes} bytes, more than it holds; save or fetch it again"
        )
    with archive.open(info) as file:
        return npy_format.read_array(file, allow_pickle=False)


def _held_bytes(array: np.ndarray) -> int:
    return 0 if isinstance(array, np.memmap) else array.nbytes


def _content_start(path: Path, info: zipfile.ZipInfo) -> int:
    """Where a member's bytes begin; opening it has shown that its local header is there."""
    with path.open("rb") as file:
        file.seek(info.header_offset)
        name_length, extra_length = struct.unpack("<26xHH", file.read(LOCAL_HEADER_BYTES))
    return info.header_offset + LOCAL_HEADER_BYTES + name_length + extra_length
