"""The IDX files of MNIST and Fashion-MNIST, plain or gzipped, read within their stated size.

Both sets are public. Two bytes of zero, a type code, the number of dimensions, the dimensions as
big-endian 32-bit numbers, then the values. torchvision's reader is not used: it reads whatever a
file holds before it looks at the stated size, and wants it unpacked.
"""

import gzip
import zlib
from contextlib import AbstractContextManager, nullcontext
from math import prod
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from jaxtyping import UInt8

from privimage.errors import DataInvalidError
from privimage.files.plain_files import open_plain

UNSIGNED_BYTES = 0x08
MAX_VALUES = 2**28  # the largest of the files has 47 million


def read_idx(path: Path, *, num_dimensions: int) -> UInt8[np.ndarray, "..."]:
    """The array of bytes in an IDX file; DataInvalidError if it is not just that."""
    try:
        with open_plain(path) as plain, _unzipped(plain, path.suffix) as file:
            header = file.read(4 + 4 * num_dimensions)
            if header[:4] != bytes((0, 0, UNSIGNED_BYTES, num_dimensions)):
                raise DataInvalidError(
                    f"{path} is not an IDX file of bytes in {num_dimensions} dimensions; fetch it "
                    "again"
                )
            shape = tuple(int(size) for size in np.frombuffer(header, ">u4", offset=4))
            size = prod(shape)
            content = file.read(size + 1) if size <= MAX_VALUES else b""
    except (OSError, EOFError, zlib.error, ValueError) as error:
        if isinstance(error, DataInvalidError):
            raise
        raise DataInvalidError(f"{path} cannot be read ({error}); fetch it again") from error
    if len(content) != size or len(shape) != num_dimensions or size == 0:
        raise DataInvalidError(f"{path} does not hold the {shape} values it names; fetch it again")
    return np.frombuffer(content, np.uint8).reshape(shape).copy()


def _unzipped(file: BinaryIO, suffix: str) -> AbstractContextManager[Any]:
    return gzip.open(file) if suffix == ".gz" else nullcontext(file)
