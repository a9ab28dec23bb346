"""The lock of a run folder: one process at a time works in it.

A second process is refused at once. Before every charge it is checked that the lock is still the
one that was taken, because a lock file that was removed or replaced locks nobody out. The ledger
does not rely on it (`privacy/swapped_file.py`); the other files of the folder do.
"""

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from privimage.errors import RunFolderError
from privimage.files.plain_files import refuse_links


@contextmanager
def locked(folder: Path) -> Iterator[Callable[[], None]]:
    """Hold the run folder: a second process gets a RunFolderError instead of mixing its files in.

    Gives a check that raises RunFolderError once the lock file is no longer the one that is held.
    """
    refuse_links(folder)
    path = folder / ".lock"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # never through a link, which would lock, or make, a file elsewhere
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise RunFolderError(
            f"cannot write to {folder} ({error.strerror}); choose another run folder"
        ) from error

    def check() -> None:
        _check_is_held(path, handle)

    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise RunFolderError(
                f"{folder} is in use by another process; wait for it or choose another run folder"
            ) from error
        check()
        yield check
    finally:
        os.close(handle)


def _check_is_held(path: Path, handle: int) -> None:
    held = os.fstat(handle)
    try:
        found = os.stat(path, follow_symlinks=False)
    except OSError:
        found = None
    if found is None or (found.st_dev, found.st_ino) != (held.st_dev, held.st_ino):
        raise RunFolderError(
            f"{path}, the lock of this run, was removed or replaced, so another process may be at "
            "work in the folder; see that none is, and repeat the command: it continues the run"
        )
