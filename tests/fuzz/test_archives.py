"""Folders, zip, npz, npy and tar files of every kind of malice: a set, or a UserError, and no more.

No more: bounded memory, nothing written, no code run. What is read lies below the root.
"""

import io
import os
import pickle
import struct
import tarfile
import zipfile
from pathlib import Path, PurePosixPath

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image

from privimage.data.image_set import ImageSet
from privimage.data.own.archives import open_listing, tar_members
from privimage.data.own.native import native_preparation
from privimage.data.own.npy import map_npy
from privimage.data.own.npz import read_arrays
from privimage.data.preparation import Preparation
from privimage.data.sources import load_image_set
from privimage.errors import DataInvalidError
from tests.fuzz.damage import GIB, attempt, damaged, examples, memory_bounded

GREY4 = Preparation(4, "grey")


def png(value: int) -> bytes:
    Image.new("L", (4, 4), value).save(buffer := io.BytesIO(), "PNG")
    return buffer.getvalue()


def zipped(files: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    with zipfile.ZipFile(buffer := io.BytesIO(), "w", method) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def arrays() -> dict[str, np.ndarray]:
    images = np.arange(2 * 3 * 8 * 8, dtype=np.uint8).reshape(2, 3, 8, 8)
    return {"images": images, "labels": np.array([1, 0]), "class_names": np.array(["cat", "dog"])}


def npz(save=np.savez) -> bytes:
    save(buffer := io.BytesIO(), **arrays())
    return buffer.getvalue()


def is_set(path: Path) -> bool:
    """Read the images as a user's own set: a set, or an error that names it and its remedy."""
    source, before = f"folder:{path}", files_below(path.parent)

    def read() -> ImageSet:
        native_preparation(source)
        return load_image_set(source, "train", preparation=GREY4)

    with memory_bounded():
        found, refusal = attempt(read)
    assert files_below(path.parent) == before
    if refusal is not None:
        assert refusal
        return False
    assert isinstance(found, ImageSet)
    assert found.images.shape[1:] == (1, 4, 4)
    "".join(found.class_names).encode()
    return True


def files_below(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*"))


TREE = {"a/1.png": png(1), "a/2.png": png(2), "b/1.png": png(3), "notes.txt": b"x" * 50}


@examples(200)
@given(st.sampled_from([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED]), st.data())
def test_a_damaged_zip_is_a_set_or_refused(tmp_path, method, data):
    (tmp_path / "set.zip").write_bytes(data.draw(damaged(zipped(TREE, method))))
    is_set(tmp_path / "set.zip")


@examples(150)
@given(st.sampled_from([np.savez, np.savez_compressed]), st.data())
def test_a_damaged_npz_is_a_set_or_refused(tmp_path, save, data):
    (tmp_path / "set.npz").write_bytes(data.draw(damaged(npz(save))))
    is_set(tmp_path / "set.npz")


@examples(150)
@given(st.sampled_from(["images", "labels", "class_names"]), st.data())
def test_a_damaged_folder_of_arrays_is_a_set_or_refused(tmp_path, name, data):
    folder = tmp_path / "set"
    folder.mkdir(exist_ok=True)
    np.save(folder / "images.npy", arrays()["images"])
    np.save(folder / "labels.npy", arrays()["labels"])
    (folder / "class_names.json").write_text('["cat", "dog"]')
    path = folder / (f"{name}.npy" if name != "class_names" else "class_names.json")
    path.write_bytes(data.draw(damaged(path.read_bytes())))
    is_set(folder)


PARTS = st.sampled_from(["..", ".", "", "a", "b", "C:", "~", ".git", "CON", "\\", "a\\..", "1.png"])
NAMES = st.lists(PARTS | st.text(max_size=4), min_size=1, max_size=5).map("/".join)


@examples(200)
@given(st.lists(NAMES, min_size=1, max_size=3, unique=True))
def test_no_name_in_a_zip_leads_anywhere_but_below_its_root(tmp_path, names):
    try:
        content = zipped(dict.fromkeys(names, b"x"))
    except (ValueError, IndexError):
        return  # not even zipfile writes such a name
    (tmp_path / "set.zip").write_bytes(content)
    try:
        with open_listing(tmp_path / "set.zip") as listing:
            for member in listing.files:
                assert member.read() == b"x"
            found = [*(member.parts for member in listing.files), *listing.folders]
    except DataInvalidError:
        return
    for parts in found:
        assert parts
        assert not PurePosixPath(*parts).is_absolute()
        assert not {"..", ""} & set(parts)
        assert not any("\\" in part or "/" in part for part in parts)


@pytest.mark.parametrize("kind", [0o120777, 0o120000])
def test_a_link_in_a_zip_is_never_followed(tmp_path, kind):
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
        link = zipfile.ZipInfo("a/1.png")
        link.external_attr = kind << 16
        archive.writestr(link, "/etc/passwd")
    assert not is_set(tmp_path / "set.zip")


@pytest.mark.parametrize("method", [zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2])
def test_compressions_that_ask_for_memory_beforehand_are_refused(tmp_path, method):
    (tmp_path / "set.zip").write_bytes(zipped({"a/1.png": png(1)}, method))
    with pytest.raises(DataInvalidError, match="pack it again with the usual one, deflate"):
        load_image_set(f"folder:{tmp_path / 'set.zip'}", "train", preparation=GREY4)


def test_a_small_zip_of_a_large_member_is_refused_in_bounded_memory(tmp_path):
    bomb = zipped({"a/1.png": bytes(GIB // 4)})
    assert len(bomb) < GIB // 4000
    (tmp_path / "set.zip").write_bytes(bomb)
    with memory_bounded(GIB // 4), pytest.raises(DataInvalidError, match="larger than 64 MiB"):
        load_image_set(f"folder:{tmp_path / 'set.zip'}", "train", preparation=GREY4)


def header_of(description: str, version: tuple[int, int] = (1, 0)) -> bytes:
    text = description.encode("latin1", "replace")
    length = struct.pack("<H" if version == (1, 0) else "<I", len(text) & 0xFFFF)
    return b"\x93NUMPY" + bytes(version) + length + text


DTYPES = st.sampled_from(
    [
        *("'|u1'", "'<i8'", "'|O'", "'<U0'", "'<U5'", "'|V0'", "'|V4'", "'|S3'", "'<M8[s]'"),
        *("[('a', '|u1')]", "('|u1', (2, 10**9))", "['|O']", "'<f8,<f8'", "'|u1' * 9"),
        *("'x'", "''", "{}", "7", "None"),
    ]
)
SIZES = st.sampled_from([-1, 0, 1, 2, 3, 8, 2**31, 2**62, 2**63, 2**64, 10**40])
SHAPES = st.lists(SIZES, max_size=5).map(lambda s: repr(tuple(s))) | st.sampled_from(
    ["(True,)", "('a',)", "7", "[2]", "None", "(1.5,)", "(" * 300, "-" * 5000 + "1", "{[]: 1}"]
)


@examples(400)
@example("'|u1'", "(True,)", (1, 0), b"x")
@given(DTYPES, SHAPES, st.sampled_from([(1, 0), (2, 0), (3, 0), (9, 9)]), st.binary(max_size=40))
def test_no_array_header_makes_more_than_the_file_holds(tmp_path, dtype, shape, version, body):
    text = f"{{'descr': {dtype}, 'fortran_order': False, 'shape': {shape}}}\n"
    content = header_of(text, version) + body
    (tmp_path / "x.npy").write_bytes(content)
    (tmp_path / "x.npz").write_bytes(zipped({"images.npy": content}))
    for read in (map_npy, lambda path, name: read_arrays(path, source=name)["images"]):
        with memory_bounded(GIB // 4):
            try:
                found = read(tmp_path / ("x.npy" if read is map_npy else "x.npz"), name="it")
            except DataInvalidError:
                continue
        assert found.nbytes <= len(body)
        assert found.dtype.kind in "biufU"


def test_an_npz_that_promises_more_than_deflate_can_hold_is_refused_before_it_is_made(tmp_path):
    header = header_of(f"{{'descr': '|u1', 'fortran_order': False, 'shape': ({3 * GIB},)}}\n")
    content = bytearray(zipped({"images.npy": header}))
    at = content.index(b"PK\x01\x02") + 24  # the size in the central directory
    content[at : at + 4] = struct.pack("<I", 0xFFFFFFF0)
    (tmp_path / "x.npz").write_bytes(content)
    with memory_bounded(GIB // 4), pytest.raises(DataInvalidError, match="more than it holds"):
        read_arrays(tmp_path / "x.npz", source="it")


class LeavesTrace:
    """A pickle of it makes a file when it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_no_array_file_runs_a_pickle(tmp_path):
    trace, folder = tmp_path / "trace", tmp_path / "set"
    folder.mkdir()
    hostile = np.array([LeavesTrace(trace)], dtype=object)
    bare = pickle.dumps(LeavesTrace(trace))
    np.savez(tmp_path / "object.npz", images=hostile)
    (tmp_path / "bare.npz").write_bytes(zipped({"images.npy": bare}))
    (tmp_path / "whole.npz").write_bytes(bare)
    np.save(folder / "images.npy", hostile)
    names = ["object.npz", "bare.npz", "whole.npz", "set"]
    assert [is_set(tmp_path / name) for name in names] == [False] * 4
    assert not trace.exists()
    pickle.loads(bare)  # the trap works
    assert trace.exists()


def test_a_tar_whose_member_leads_back_to_itself_is_refused():
    content = tarfile.TarInfo("x").tobuf()
    size = (-512).to_bytes(12, "big", signed=True)  # base 256, as for sizes above 8 GiB
    raw = bytearray(content)
    raw[124:136] = size
    raw[148:156] = b" " * 8
    raw[148:156] = b"%06o\0 " % sum(raw[:512])
    with tarfile.open(fileobj=io.BytesIO(bytes(raw) + bytes(1024)), mode="r:") as archive:  # noqa: SIM117
        with pytest.raises(DataInvalidError, match="claims -512 bytes"):
            list(tar_members(archive))


def test_what_is_no_file_is_refused_by_name(tmp_path):
    (tmp_path / "set" / "a").mkdir(parents=True)
    (tmp_path / "set" / "a" / "1.png").write_bytes(png(1))
    os.mkfifo(tmp_path / "set" / "a" / "2.png")  # reading it would wait for ever
    with pytest.raises(DataInvalidError, match=r"a/2\.png is a pipe, a device or a link"):
        load_image_set(f"folder:{tmp_path / 'set'}", "train", preparation=GREY4)


def test_a_file_name_that_is_no_text_gives_a_named_error(tmp_path):
    folder = tmp_path / "set" / os.fsdecode(b"ol\xe9")
    folder.mkdir(parents=True)
    (folder / "1.png").write_bytes(png(1))
    (tmp_path / "set" / "b").mkdir()
    (tmp_path / "set" / "b" / "1.png").write_bytes(png(1))
    with pytest.raises(DataInvalidError, match="cannot be written as UTF-8; rename the class"):
        load_image_set(f"folder:{tmp_path / 'set'}", "train", preparation=GREY4)
