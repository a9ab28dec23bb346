"""Files that survive a crash: a reader sees the old content or the new, never half of it.

Everything a later step trusts (ledger, manifests, weights, records) is written through here: to
a temporary file beside the target, flushed to the disk, renamed over the target, and the folder
flushed as well.
"""

import hashlib
import json
import os
import tempfile
from pathlib import Path
from typing import Any

from privimage.errors import RunFolderError


def write_durably(path: Path, content: bytes, *, mode: int = 0o644) -> None:
    """Replace `path` by `content` in one step; when this returns, the bytes are on the disk."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    except OSError as error:
        raise RunFolderError(
            f"cannot write to {path.parent} ({error.strerror}); choose a folder that can be written"
        ) from error
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fchmod(file.fileno(), mode)
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        Path(temporary).unlink(missing_ok=True)
        raise RunFolderError(
            f"cannot write {path} ({error.strerror}); free some space and repeat the command"
        ) from error
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def write_json_durably(path: Path, value: Any, *, mode: int = 0o644) -> None:
    """The same for a JSON document, indented for people; NaN and infinity are refused."""
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)
    write_durably(path, (text + "\n").encode(), mode=mode)


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's content, in hex."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
