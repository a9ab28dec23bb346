"""IDX files: the bytes that they name, plain or gzipped, and nothing else."""

import gzip

import numpy as np
import pytest

from privimage.data.public.idx import read_idx
from privimage.errors import DataInvalidError

# Type 8 (unsigned byte), 2 dimensions: 2 rows of 3.
CONTENT = bytes([0, 0, 8, 2, 0, 0, 0, 2, 0, 0, 0, 3, 1, 2, 3, 4, 5, 6])


@pytest.mark.parametrize("name", ["a-ubyte", "a-ubyte.gz"])
def test_the_stated_array_is_read_plain_and_gzipped(tmp_path, name):
    content = gzip.compress(CONTENT) if name.endswith(".gz") else CONTENT
    (tmp_path / name).write_bytes(content)
    values = read_idx(tmp_path / name, num_dimensions=2)
    assert np.array_equal(values, [[1, 2, 3], [4, 5, 6]])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (CONTENT[:-1], "does not hold"),
        (CONTENT + b"7", "does not hold"),
        (CONTENT[:3], "is not an IDX file"),
        (CONTENT[:10], "cannot be read|does not hold"),
        (bytes([0, 0, 8, 1]) + CONTENT[4:], "is not an IDX file"),
        (bytes([0, 0, 13, 2]) + CONTENT[4:], "is not an IDX file"),
        (bytes([0, 0, 8, 2]) + b"\xff" * 8, "does not hold"),  # a claim of 2^64 bytes
    ],
)
def test_any_other_content_is_refused(tmp_path, content, message):
    (tmp_path / "a").write_bytes(content)
    with pytest.raises(DataInvalidError, match=message):
        read_idx(tmp_path / "a", num_dimensions=2)


def test_a_truncated_gzip_is_refused(tmp_path):
    (tmp_path / "a.gz").write_bytes(gzip.compress(CONTENT)[:-9])
    with pytest.raises(DataInvalidError, match="cannot be read"):
        read_idx(tmp_path / "a.gz", num_dimensions=2)


def test_a_missing_file_is_an_error_of_the_set(tmp_path):
    with pytest.raises(DataInvalidError, match="cannot be read"):
        read_idx(tmp_path / "a", num_dimensions=2)
