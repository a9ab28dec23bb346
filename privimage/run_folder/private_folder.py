"""`private/` of a run folder: what must never leave it, and what nobody else may have put there.

PRIVATE: the key that names the sensitive images, and the query's answer until it is paid for. Who
knows the key can confirm a guess of the images, so a key that another user may have planted or
read is not used. Folder and files belong to this user and are closed to all others; what is ours
and open is closed, and what is a link or another user's is a RunFolderError.
"""

import logging
import os
import stat
from contextlib import suppress
from pathlib import Path

from privimage.errors import RunFolderError
from privimage.files.durable import write_durably

logger = logging.getLogger(__name__)
NEW_FOLDER = "or use a new run folder"
OWN_MODES = "or use a run folder on a file system that keeps owners and modes"


def private_folder(folder: Path) -> Path:
    """`private/` in `folder`, made if need be: this user's own, and closed to all others."""
    path = folder / "private"
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise RunFolderError(
            f"cannot make {path} ({error.strerror}); remove what is there, {NEW_FOLDER}"
        ) from error
    os.close(_closed(path, os.O_DIRECTORY, mode=0o700))
    return path


def read_private(path: Path) -> bytes | None:
    """The content of a file in a private folder; None if it is not there."""
    if not os.path.lexists(path):
        return None
    with open(_closed(path, os.O_NONBLOCK, mode=0o600), "rb") as file:  # a pipe must not block
        return file.read()


def write_private(path: Path, content: bytes) -> None:
    """Replace a file in `private/` of a run folder; it is closed to others from the beginning."""
    private_folder(path.parent.parent)
    write_durably(path, content, mode=0o600)


def _closed(path: Path, flags: int, *, mode: int) -> int:
    """A descriptor of a file or folder that is this user's own, closed to others by now."""
    found, user = os.lstat(path), os.geteuid()
    if found.st_uid != user:
        raise RunFolderError(
            f"{path} belongs to user {found.st_uid}, and this process is user {user}; run it as "
            f"that user (docker run --user {found.st_uid}) if you trust what lies there, "
            f"{NEW_FOLDER}, {OWN_MODES}"
        )
    kind = stat.S_ISDIR if flags & os.O_DIRECTORY else stat.S_ISREG
    if not kind(found.st_mode) or (kind is stat.S_ISREG and found.st_nlink != 1):
        raise RunFolderError(
            f"{path} is a link, or no {'folder' if flags & os.O_DIRECTORY else 'file'}; put a copy "
            f"of the real one in its place, {NEW_FOLDER}"
        )
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | flags)
    except OSError as error:
        raise RunFolderError(
            f"cannot read {path} ({error.strerror}); make it readable for its owner, {NEW_FOLDER}"
        ) from error
    try:
        _close_to_others(path, descriptor, found=found, mode=mode)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _close_to_others(path: Path, descriptor: int, *, found: os.stat_result, mode: int) -> None:
    opened = os.fstat(descriptor)
    if (opened.st_dev, opened.st_ino) != (found.st_dev, found.st_ino):
        raise RunFolderError(
            f"{path} was replaced while it was opened; see who else may write there, {NEW_FOLDER}"
        )
    if stat.S_IMODE(opened.st_mode) == mode:
        return
    with suppress(OSError):  # judged by what it leaves
        os.fchmod(descriptor, mode)
    if stat.S_IMODE(os.fstat(descriptor).st_mode) & 0o077:
        raise RunFolderError(
            f"{path} stays open to other users (mode {stat.S_IMODE(opened.st_mode):o}); close it "
            f"(chmod {mode:o}), {OWN_MODES}"
        )
    if opened.st_mode & 0o077:
        logger.warning("%s was open to other users until now", path)
