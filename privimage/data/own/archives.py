"""Folders and zip files from strangers, listed and read without trusting them.

Nothing is ever extracted. Refused: names that climb out of the archive or stand in it twice, links
that lead out of the folder or nowhere, pipes and devices, encrypted members, unusual compressions,
members above a bounded number of bytes. What is read may be private; only relative names appear in
messages.
"""

import os
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from privimage.errors import DataInvalidError
from privimage.files.plain_files import open_plain

MAX_MEMBER_BYTES = 64 * 2**20
MAX_MEMBERS = 10_000_000
MAX_NAME_LENGTH = 1024
COMPRESSIONS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)  # the others ask for memory beforehand
# what zipfile and tarfile raise on damaged files; an odd zip version is a RuntimeError
DAMAGED = (
    zipfile.BadZipFile,
    tarfile.TarError,
    zlib.error,
    struct.error,
    OSError,
    EOFError,
    RuntimeError,
    OverflowError,
    ValueError,
)


@dataclass(frozen=True)
class Member:
    """One file: its relative path as parts, and how its bytes are read."""

    parts: tuple[str, ...]
    read: Callable[[], bytes]

    @property
    def name(self) -> str:
        return "/".join(self.parts)


@dataclass(frozen=True)
class Listing:
    """All visible files and folders below one root."""

    files: list[Member]
    folders: list[tuple[str, ...]]


@contextmanager
def open_listing(path: Path) -> Iterator[Listing]:
    """List a folder or a zip file; its members can be read, by several threads, until the end."""
    if path.is_dir():
        yield _list_folder(path.resolve())
        return
    with ExitStack() as opened:
        try:
            file = opened.enter_context(open_plain(path))
            archive = opened.enter_context(zipfile.ZipFile(file))
        except DataInvalidError:
            raise
        except DAMAGED as error:
            raise DataInvalidError(
                f"{path} is neither a folder nor a readable zip file ({error}); check or fetch it "
                "again"
            ) from error
        yield _list_zip(archive)


def read_zip_member(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> bytes:
    """The bytes of one member; DataInvalidError if they are damaged or too many."""
    if info.compress_type not in COMPRESSIONS:
        raise DataInvalidError(
            f"{info.filename} in the zip file is compressed by method {info.compress_type}; "
            "pack it again with the usual one, deflate"
        )
    try:
        with archive.open(info) as file:
            content = file.read(MAX_MEMBER_BYTES + 1)
    except DAMAGED as error:
        raise DataInvalidError(
            f"{info.filename} in the zip file is damaged ({error}); fetch or pack it again"
        ) from error
    return _bounded(content, info.filename)


def tar_members(archive: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    """All members in turn; DataInvalidError for one that would lead back to those before it."""
    for number, info in enumerate(archive):
        if info.size < 0 or number == MAX_MEMBERS:
            raise DataInvalidError(
                f"{info.name[:80]!r} in the tar file claims {info.size} bytes, as member {number}; "
                "fetch it again"
            )
        yield info


def _list_folder(root: Path) -> Listing:
    files, folders = [], []
    for current, folder_names, file_names in os.walk(root, onerror=_refuse_unreadable):
        parts = Path(current).relative_to(root).parts
        folder_names[:] = [name for name in folder_names if _is_visible((name,))]
        for name in folder_names:
            if (Path(current) / name).is_symlink():
                raise DataInvalidError(
                    f"{'/'.join((*parts, name))} is a link to a folder; put the folder itself there"
                )
            folders.append((*parts, name))
        for name in filter(lambda name: _is_visible((name,)), file_names):
            file = Path(current) / name
            if file.is_symlink() and not file.resolve().is_relative_to(root):
                raise DataInvalidError(
                    f"{'/'.join((*parts, name))} is a link that leads out of the folder; "
                    "put the file itself there"
                )
            member = (*parts, name)
            if not file.is_file():  # to leave it out would change the set without a word
                raise DataInvalidError(
                    f"{'/'.join(member)} is a pipe, a device or a link that leads nowhere; put the "
                    "file itself there, or remove it"
                )
            files.append(Member(member, partial(_read_file, file, "/".join(member))))
    return Listing(files, folders)


def _list_zip(archive: zipfile.ZipFile) -> Listing:
    files: list[Member] = []
    folders: set[tuple[str, ...]] = set()
    if len(archive.infolist()) > MAX_MEMBERS:
        raise DataInvalidError(f"the zip file has more than {MAX_MEMBERS} members; split it up")
    for info in archive.infolist():
        parts = _safe_parts(info)
        if not _is_visible(parts):
            continue
        depth = len(parts) if info.is_dir() else len(parts) - 1
        folders.update(parts[:length] for length in range(1, depth + 1))
        if not info.is_dir():
            files.append(Member(parts, partial(read_zip_member, archive, info)))
    if len({file.parts for file in files}) < len(files):
        raise DataInvalidError(
            "the zip file has two members of one name; do not trust it, or pack its folder again"
        )
    return Listing(files, sorted(folders))


def _safe_parts(info: zipfile.ZipInfo) -> tuple[str, ...]:
    name = info.filename
    parts = tuple(part for part in name.split("/") if part not in ("", "."))
    climbs = name.startswith("/") or "\\" in name or ".." in parts or parts[:1] == (name[:1] + ":",)
    if climbs or not parts or len(name) > MAX_NAME_LENGTH:
        raise DataInvalidError(
            f"the zip file has a member named {name[:80]!r}, which is not a relative path; "
            "do not trust this file, or pack its folder again"
        )
    if stat.S_ISLNK(info.external_attr >> 16):
        raise DataInvalidError(f"{name} in the zip file is a link; pack the file itself")
    if info.flag_bits & 1:
        raise DataInvalidError(
            f"{name} in the zip file is encrypted; unpack it and give the folder"
        )
    return parts


def _read_file(path: Path, name: str) -> bytes:
    try:
        with open_plain(path) as file:
            return _bounded(file.read(MAX_MEMBER_BYTES + 1), name)
    except OSError as error:
        raise DataInvalidError(
            f"{name} cannot be read ({error.strerror}); check its permissions"
        ) from error


def _bounded(content: bytes, name: str) -> bytes:
    if len(content) > MAX_MEMBER_BYTES:
        raise DataInvalidError(
            f"{name} is larger than {MAX_MEMBER_BYTES // 2**20} MiB; store it in fewer pixels"
        )
    return content


def _is_visible(parts: tuple[str, ...]) -> bool:
    return not any(part.startswith(".") or part == "__MACOSX" for part in parts)


def _refuse_unreadable(error: OSError) -> None:
    raise DataInvalidError(
        f"{error.filename} cannot be listed ({error.strerror}); check its permissions"
    ) from error
