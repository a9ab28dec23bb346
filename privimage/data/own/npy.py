"""One array in numpy's format: its header is checked before anything is made, never a pickle.

An array can be mapped instead of read: its pages are fetched from the file when they are looked at
and given back when memory is short, so a set may be larger than the memory. The mapping is
read-only. What is read may be private; a mapping writes nothing anywhere.
"""

import warnings
import zipfile
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.lib import format as npy_format
from torch import Tensor

from privimage.errors import DataInvalidError
from privimage.files.plain_files import open_plain

PLAIN_KINDS = "biufU"  # truth values, whole numbers, floats, text
MAX_DIMENSIONS = 8
READERS = {
    (1, 0): npy_format.read_array_header_1_0,
    (2, 0): npy_format.read_array_header_2_0,
}


@dataclass(frozen=True)
class Header:
    """What an array is, and how many bytes after the header's start its values begin."""

    shape: tuple[int, ...]
    dtype: np.dtype
    fortran_order: bool
    size: int

    @property
    def num_bytes(self) -> int:
        return prod(self.shape) * self.dtype.itemsize


def read_header(file: Any, *, name: str, held_bytes: int) -> Header:
    """The header where a binary file stands; DataInvalidError for a pickle or a false size."""
    start = file.tell()
    try:
        shape, fortran_order, dtype = READERS[npy_format.read_magic(file)](file)
        if not all(type(size) is int for size in shape):  # such as True
            raise ValueError(f"shape {shape}")
    except zipfile.BadZipFile:
        raise  # the caller knows what is damaged
    except Exception as error:  # the text of a header goes through Python's own parser
        raise DataInvalidError(
            f"{name} is not an array ({error}); save it with numpy.save or numpy.savez"
        ) from error
    header = Header(shape, dtype, fortran_order, file.tell() - start)
    if dtype.hasobject:
        raise DataInvalidError(
            f"{name} is a pickle, which can run code when it is read; "
            "save plain arrays of numbers or text"
        )
    if dtype.kind not in PLAIN_KINDS or dtype.itemsize == 0 or dtype.subdtype:
        raise DataInvalidError(f"{name} is of type {dtype}; save plain numbers or text")
    if min(shape, default=0) < 0 or header.num_bytes > held_bytes - header.size:
        raise DataInvalidError(
            f"{name} claims {header.num_bytes} bytes, more than it holds; save or fetch it again"
        )
    if len(shape) > MAX_DIMENSIONS or prod(n for n in shape if n) * dtype.itemsize >= 2**60:
        raise DataInvalidError(
            f"{name} has the shape {str(shape)[:80]}; save images in at most 4 dimensions"
        )
    return header


def map_npy(path: Path, *, name: str) -> np.ndarray:
    """The array of a .npy file, mapped."""
    try:
        with open_plain(path) as file:
            header = read_header(file, name=name, held_bytes=path.stat().st_size)
        return map_array(path, header, start=0)
    except OSError as error:
        raise DataInvalidError(
            f"{name} cannot be read ({error.strerror}); check its permissions"
        ) from error


def map_array(path: Path, header: Header, *, start: int) -> np.ndarray:
    """The array whose header, already checked against the file's size, begins at byte `start`."""
    if header.num_bytes == 0:
        return np.empty(header.shape, header.dtype)  # nothing cannot be mapped
    order = "F" if header.fortran_order else "C"
    offset = start + header.size
    return np.memmap(path, header.dtype, "r", offset, header.shape, order)


def as_tensor(array: np.ndarray) -> Tensor:
    """A tensor of the same memory, of a mapped array as well: such a one is never written to."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(array)
