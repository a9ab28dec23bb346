"""Files that survive a crash: a reader sees the old content or the new, never half of it.

Everything a later step trusts (ledger, manifests, weights, records) is written through here: to
a temporary file beside the target, flushed to the disk, renamed over the target, and the folder
flushed as well.
"""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from privimage.errors import RunFolderError


@contextmanager
def written_beside(path: Path, *, mode: int = 0o644) -> Iterator[tuple[BinaryIO, Path]]:
    """A new file beside `path`, and where it is; flushed at the end, removed if that fails."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    except OSError as error:
        raise RunFolderError(
            f"cannot write to {path.parent} ({error.strerror}); choose a folder that can be written"
        ) from error
    temporary, is_complete = Path(name), False
    try:
        with writing(path), os.fdopen(descriptor, "wb") as file:  # closing writes as well
            yield file, temporary
            file.flush()
            os.fchmod(file.fileno(), mode)
            os.fsync(file.fileno())
        is_complete = True
    finally:
        if not is_complete:
            temporary.unlink(missing_ok=True)


@contextmanager
def replaced_durably(path: Path, *, mode: int = 0o644) -> Iterator[BinaryIO]:
    """A file to be written, which replaces `path` in one step at the end; after that the bytes are
    on the disk. If anything goes wrong `path` stays as it was.
    """
    with written_beside(path, mode=mode) as (file, temporary):
        yield file
    try:
        with writing(path):
            os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)  # still there only if something went wrong
    flush_folder(path.parent)


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A folder to be filled, hidden beside `path`, which it becomes in one step at the end: its
    files are on the disk by then. If anything goes wrong it is removed, and nothing is at `path`.
    An empty folder may be there before; RunFolderError for anything else.
    """
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}."))
    is_complete = False
    try:
        with writing(path):
            yield temporary
            temporary.chmod(0o755)
            os.sync()  # once for all files, of which there may be a million
            os.replace(temporary, path)
        is_complete = True
    finally:
        if not is_complete:
            shutil.rmtree(temporary, ignore_errors=True)
    flush_folder(path.parent)


def flush_folder(folder: Path) -> None:
    """When this returns, the names in `folder` are on the disk as well."""
    with writing(folder):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Names what the system refuses in here as a RunFolderError about `path`."""
    try:
        yield
    except OSError as error:
        raise RunFolderError(
            f"cannot write {path} ({error.strerror}); free some space and repeat the command"
        ) from error


def write_durably(path: Path, content: bytes, *, mode: int = 0o644) -> None:
    """Replace `path` by `content` in one step; when this returns, the bytes are on the disk."""
    with replaced_durably(path, mode=mode) as file:
        file.write(content)


def write_json_durably(path: Path, value: Any) -> None:
    """The same for a JSON document, indented for people; NaN and infinity are refused."""
    write_durably(path, json_bytes(value))


def json_bytes(value: Any) -> bytes:
    """A JSON document as it is written into a file."""
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)
    return (text + "\n").encode()


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's content, in hex."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
