"""`SHA256SUMS`: the hash of every file that a run releases, in the format of `sha256sum --check`.

Written last, so that it covers statement and card as well. It names no file that is kept back: the
hash of a ledger that tells where a run ended would tell that, too. `images/` is not in it, for its
files are those of `images.npz` once more.
"""

import re
from collections.abc import Iterable
from pathlib import Path

from privimage.errors import DataInvalidError
from privimage.files.durable import file_sha256, write_durably
from privimage.files.plain_files import inside, read_bounded

CHECKSUMS = "SHA256SUMS"
PAPERS = ("privacy_statement.json", "privacy_statement.md")
# what the statement names in the words of another file
ALONGSIDE = {
    "images.npz": ("samples.png",),
    "pretrained.safetensors": ("pretrained_ema.safetensors",),
    "query/selection.json": ("query/chosen_classes.png",),
    "query/moments.safetensors": ("query/sketches.png",),
}
LINE = re.compile("([0-9a-f]{64})  ([^ ].*)")


def published_files(folder: Path, released: Iterable[str]) -> list[str]:
    """What lies in `folder` of all that a statement releases, with the statement itself."""
    names = {*PAPERS}
    for name in released:
        names |= {name, *ALONGSIDE.get(name, ())}
    return sorted(name for name in names - {CHECKSUMS} if inside(folder, name).is_file())


def write_checksums(folder: Path, released: Iterable[str]) -> None:
    """Hash the files as they lie there; `released` are the names in the privacy statement."""
    names = published_files(folder, released)
    lines = [f"{file_sha256(folder / name)}  {name}\n" for name in names]
    write_durably(folder / CHECKSUMS, "".join(lines).encode())


def read_checksums(folder: Path) -> dict[str, str]:
    """Hash by name; DataInvalidError for anything but lines as `write_checksums` has them, OSError
    as from `open`.
    """
    path = inside(folder, CHECKSUMS)
    found: dict[str, str] = {}
    for number, line in enumerate(read_bounded(path).decode(errors="replace").splitlines(), 1):
        match = LINE.fullmatch(line)
        if match is None or match[2] in found:
            raise DataInvalidError(
                f"line {number} of {path} is no hash of a file of its own; copy it again"
            )
        found[match[2]] = match[1]
    return found
