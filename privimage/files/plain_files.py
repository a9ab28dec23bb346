"""Folders that a stranger may have filled: what is read or written there stays inside.

A link would lead a reader to files that nobody meant to show, or a writer to files that nobody
meant to lose; a pipe would let a reader wait for ever. Both are refused by name. Only names appear
in messages, never a content.
"""

import os
import re
import stat
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from privimage.errors import DataInvalidError, RunFolderError

# what a crash leaves of a charge: `privacy/swapped_file.py` sees to where it leads
CLAIM = re.compile(r"\.ledger\.json\.after-[0-9a-z]+")
MAX_TEXT_BYTES = 64 * 2**20  # of a document that is parsed as a whole


def refuse_links(folder: Path) -> None:
    """RunFolderError unless all below `folder` is plain files and folders; it may be absent.

    The folder itself may be reached by a link: that one was made by whoever named it.
    """
    if not folder.is_dir():
        return
    for current, folders, files in os.walk(folder, onerror=_refuse_unreadable):
        for name in folders + files:
            path = Path(current, name)
            mode = _mode(path)
            if CLAIM.fullmatch(name) and Path(current) == folder:
                continue
            if mode is not None and not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
                raise RunFolderError(
                    f"{path} is {_kind(mode)}, and a run folder holds plain files and folders "
                    "alone; remove it, or put the file itself there"
                )


def inside(folder: Path, name: str) -> Path:
    """The path of a file in `folder`; DataInvalidError for a name that leads out, by its parts or
    over a link, and for anything that is there and no plain file.
    """
    parts = PurePosixPath(name).parts
    if not parts or name.startswith("/") or "\\" in name or "\0" in name or ".." in parts:
        raise DataInvalidError(
            f"{name[:80]!r} lies outside of {folder}; do not trust what names it"
        )
    for depth in range(1, len(parts) + 1):
        mode = _mode(folder.joinpath(*parts[:depth]))
        wanted = stat.S_ISREG if depth == len(parts) else stat.S_ISDIR
        if mode is not None and not wanted(mode):
            raise DataInvalidError(
                f"{'/'.join(parts[:depth])} in {folder} is {_kind(mode)}; put the file itself there"
            )
    return folder.joinpath(*parts)


def open_plain(path: Path) -> BinaryIO:
    """Open a file for reading; DataInvalidError for a pipe or a device, without waiting for it.

    A link that the user made is followed. OSError as from `open`.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    mode = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(mode):
        os.close(descriptor)
        raise DataInvalidError(f"{path} is {_kind(mode)}; put the file itself there")
    return os.fdopen(descriptor, "rb")


def read_bounded(path: Path, *, max_bytes: int = MAX_TEXT_BYTES) -> bytes:
    """The content of a plain file; DataInvalidError if it is longer, OSError as from `open`."""
    with open_plain(path) as file:
        # a read takes the memory that it is asked for: only what the file may fill
        content = file.read(min(max_bytes, os.fstat(file.fileno()).st_size) + 1)
    if len(content) > max_bytes:
        raise DataInvalidError(f"{path} is longer than {max_bytes} bytes; check where it is from")
    return content


def _mode(path: Path) -> int | None:
    """What is there, links not followed; None if nothing is."""
    try:
        return path.lstat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return None


def _kind(mode: int) -> str:
    kinds = {
        stat.S_IFLNK: "a link",
        stat.S_IFIFO: "a pipe",
        stat.S_IFSOCK: "a socket",
        stat.S_IFDIR: "a folder",
        stat.S_IFREG: "a file",
    }
    return kinds.get(stat.S_IFMT(mode), "a device")


def _refuse_unreadable(error: OSError) -> None:
    raise RunFolderError(
        f"{error.filename} cannot be listed ({error.strerror}); check its permissions"
    ) from error
