"""Published files fetched over the network, or taken from a folder, and put where sets are read.

A download that stopped is continued by the next attempt. A file gets its name only after its
checksum was found right, and an unpacked folder only when it is whole, so nothing half done is ever
taken for the whole. With PRIVIMAGE_OFFLINE=1 nothing is downloaded. All public.
"""

import os
import shutil
import tarfile
import tempfile
from http.client import HTTPException
from pathlib import Path, PurePosixPath
from urllib.error import HTTPError
from urllib.parse import urlparse
from urllib.request import Request, urlopen

from privimage.data.own.archives import DAMAGED, tar_members
from privimage.data.places import CIFAR_FOLDERS
from privimage.data.public.pinned_files import (
    BLOCK_BYTES,
    DOWNLOADS,
    MB,
    Progress,
    PublishedFile,
    check_file,
)
from privimage.errors import DataInvalidError, DataMissingError, RunFolderError
from privimage.files.durable import replaced_durably
from privimage.files.plain_files import open_plain

TIMEOUT_SECONDS = 30


def install(
    name: str,
    *,
    data_root: Path,
    archives: Path | None = None,
    on_progress: Progress | None = None,
) -> None:
    """Bring the files of `name` to where they are read, from the folder `archives` if it is given.

    DataMissingError if they cannot be had, DataInvalidError if one is not the published file.
    """
    try:
        for file in DOWNLOADS[name]:
            target = data_root / file.folder / file.name
            target.parent.mkdir(parents=True, exist_ok=True)
            source = archives / file.name if archives else target
            if archives:
                check_file(file, source, on_progress=on_progress)
            elif target.exists():
                check_file(file, target, on_progress=on_progress)
            else:
                download_file(file, target, on_progress=on_progress)
            if name in CIFAR_FOLDERS:
                _unpack(source, CIFAR_FOLDERS[name], data_root)
                if not archives:
                    target.unlink()
            elif archives:
                _copy(source, target)
    except PermissionError as error:
        raise RunFolderError(
            f"cannot write {error.filename} ({error.strerror}); point PRIVIMAGE_DATA at a folder "
            "that can be written"
        ) from error


def download_file(
    file: PublishedFile, target: Path, *, on_progress: Progress | None = None
) -> None:
    """Fetch one file from the first address that has it, going on where an attempt stopped."""
    by_hand = (
        f"get {file.name} ({file.checksum}) from {file.urls[0]} into a folder, and repeat the "
        "command with --from FOLDER"
    )
    if is_offline():
        raise DataMissingError(
            f"{file.name} is not here, and PRIVIMAGE_OFFLINE forbids downloads; {by_hand}"
        )
    begun = target.with_name(target.name + ".part")
    faults = []
    for url in file.urls:
        try:
            _fetch(url, begun, on_progress=on_progress)
            check_file(file, begun, on_progress=on_progress)
        except DataInvalidError:
            begun.unlink()
            faults.append(f"{urlparse(url).hostname}: sent another file")
        except PermissionError:
            raise
        except (OSError, HTTPException, ValueError) as error:  # ValueError: a length that is none
            faults.append(f"{urlparse(url).hostname}: {_reason(error)}")
        else:
            begun.replace(target)
            return
    raise DataMissingError(
        f"{file.name} could not be downloaded ({'; '.join(faults)}); check the network and repeat "
        f"the command, which goes on where it stopped; or {by_hand}"
    )


def is_offline() -> bool:
    """True if the user forbade downloads."""
    return os.environ.get("PRIVIMAGE_OFFLINE", "0") not in ("", "0")


def _fetch(url: str, begun: Path, *, on_progress: Progress | None) -> None:
    if begun.is_symlink() or (begun.exists() and not begun.is_file()):
        begun.unlink()  # another file would be written to
    have = begun.stat().st_size if begun.exists() else 0
    headers = {"User-Agent": "privimage"} | ({"Range": f"bytes={have}-"} if have else {})
    try:
        response = urlopen(Request(url, headers=headers), timeout=TIMEOUT_SECONDS)
    except HTTPError as error:
        error.close()
        if error.code == 416 and have:  # nothing is left to send: the checksum decides
            return
        raise
    with response:
        have = have if response.status == 206 else 0  # a server may send all of it again
        total = have + int(response.headers.get("Content-Length") or 0)
        with begun.open("ab" if have else "wb") as out:
            while block := response.read(BLOCK_BYTES):
                have += out.write(block)
                if on_progress:
                    on_progress(f"fetching {begun.stem} (MB)", have // MB, total // MB)
    if have < total:
        raise OSError(f"the connection ended after {have:,} of {total:,} bytes")


def _unpack(archive: Path, folder: str, data_root: Path) -> None:
    """The plain files right in the archive's only folder, which appears whole or not at all."""
    with tempfile.TemporaryDirectory(dir=data_root, prefix=f".{folder}.") as scratch:
        unpacked = Path(scratch, folder)
        unpacked.mkdir()
        try:
            with tarfile.open(archive) as content:
                for info in tar_members(content):
                    file = content.extractfile(info) if info.isreg() else None
                    if file and PurePosixPath(info.name).parent == PurePosixPath(folder):
                        with (unpacked / PurePosixPath(info.name).name).open("xb") as out:
                            shutil.copyfileobj(file, out)
        except DAMAGED as error:
            if isinstance(error, PermissionError | DataInvalidError):
                raise
            raise DataInvalidError(
                f"{archive} cannot be unpacked ({error}); free some space, or fetch it again"
            ) from error
        unpacked.replace(data_root / folder)


def _copy(source: Path, target: Path) -> None:
    with open_plain(source) as file, replaced_durably(target) as out:
        shutil.copyfileobj(file, out)


def _reason(error: Exception) -> str:
    """What the system or the server said, on one line."""
    reason = getattr(error, "reason", None) or getattr(error, "strerror", None) or error
    code = f"{error.code} " if isinstance(error, HTTPError) else ""
    return " ".join(f"{code}{reason}".split())
