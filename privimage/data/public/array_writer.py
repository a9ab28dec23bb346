"""Public archives made into folders of arrays, part by part: what was finished is not done again.

The set grows in `<name>.partial` and gets its name by a rename at the end, so a set that has its
name is whole. A part counts once its rows are on the disk and its name is written down after that.
The arrays are mapped, so memory is bounded by one part; their room on the disk is taken first.
For published sets only: what is prepared here stays on the disk.
"""

import fcntl
import io
import json
import logging
import os
import shutil
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int64, UInt8
from numpy.lib.format import open_memmap
from PIL import Image

from privimage.data.own.archives import Member
from privimage.data.own.array_folder import CLASS_NAMES, IMAGES, LABELS
from privimage.data.own.image_tree import IMAGE_FORMATS
from privimage.data.parallel import for_each_chunk
from privimage.data.preparation import Preparation
from privimage.data.public.pinned_files import Progress
from privimage.errors import DataInvalidError, RunFolderError
from privimage.files.durable import file_sha256, write_json_durably
from privimage.files.plain_files import inside, refuse_links

logger = logging.getLogger(__name__)
NOTE, STATE = "NOTE.json", "progress.json"


@dataclass(frozen=True)
class Part:
    """Images that are prepared together: the row of each, and how the archive is opened."""

    name: str
    rows: Sequence[int]
    open: Callable[[], AbstractContextManager[list[Member]]]


@dataclass(frozen=True)
class Split:
    """One folder of arrays: a label for every row, and the parts that fill the rows."""

    labels: Int64[np.ndarray, " number"]
    parts: list[Part]


@dataclass(frozen=True)
class Plan:
    """A set to be prepared. `origin` goes into its note: archives, checksums, selection."""

    name: str
    splits: dict[str, Split]
    class_names: tuple[str, ...]
    preparation: Preparation
    origin: dict[str, Any]

    @property
    def num_bytes(self) -> int:
        """What the arrays of all splits take on the disk."""
        pixels = self.preparation.num_channels * self.preparation.image_size**2
        return sum(len(split.labels) * (pixels + 8) for split in self.splits.values())

    def describe(self) -> dict[str, Any]:
        """All that decides what the arrays hold."""
        return {
            "preparation": self.preparation.describe(),
            "class_names": list(self.class_names),
            "images": {name: len(split.labels) for name, split in self.splits.items()},
            **self.origin,
        }


def write_set(plan: Plan, data_root: Path, *, on_progress: Progress | None = None) -> Path:
    """Prepare the set, or go on with it, and return its folder; repeat the call after a stop."""
    target, begun = data_root / plan.name, partial_folder(data_root, plan.name)
    try:
        begun.mkdir(parents=True, exist_ok=True)
        _refuse_links(begun)
        with _held(begun):
            done = _begin(begun, plan)
            for name, split in plan.splits.items():
                _write_split(begun / name, split, plan, done=done, on_progress=on_progress)
            _write_note(begun, plan)
            (begun / STATE).unlink()
            begun.replace(target)
    except OSError as error:
        raise RunFolderError(
            f"cannot write {error.filename or begun} ({error.strerror}); free some space, or point "
            "PRIVIMAGE_DATA at another folder, and repeat the command"
        ) from error
    return target


def _refuse_links(begun: Path) -> None:
    """What was begun may be removed, so it must be what it seems."""
    if begun.is_symlink():
        raise RunFolderError(f"{begun} is a link, and what lies there may be removed; remove it")
    refuse_links(begun)


def partial_folder(data_root: Path, name: str) -> Path:
    """Where a set grows until it is whole."""
    return data_root / f"{name}.partial"


def damage_of(folder: Path) -> str | None:
    """What differs from the note that was written when the set was prepared, or None."""
    try:
        recorded = json.loads((folder / NOTE).read_text())["sha256"]
        wrong = [n for n, digest in recorded.items() if file_sha256(inside(folder, n)) != digest]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return f"its {NOTE} or a file that it names cannot be read ({type(error).__name__})"
    return f"{', '.join(wrong)} changed since it was prepared" if wrong else None


def prepared_image(
    member: Member, preparation: Preparation
) -> UInt8[np.ndarray, "channel size size"]:
    """One image, cropped where torchvision crops it, which is half a pixel from `Preparation`."""
    try:
        with Image.open(io.BytesIO(member.read()), formats=IMAGE_FORMATS) as opened:
            image = opened.convert("RGB")
    except Exception as error:  # a decoder may raise anything
        raise DataInvalidError(
            f"{member.name} is not a readable image ({type(error).__name__}); "
            "fetch the archive again"
        ) from error
    short = min(image.size)
    left, top = (round((edge - short) / 2) for edge in image.size)
    return preparation.prepare_image(image.crop((left, top, left + short, top + short)))


def _begin(begun: Path, plan: Plan) -> set[str]:
    """Names of the finished parts; what was begun under another plan is removed."""
    state, described = begun / STATE, plan.describe()
    if state.exists():
        saved = json.loads(state.read_text())
        if saved["plan"] == described:
            return set(saved["done"])
        logger.warning("%s was begun from other archives or settings; it begins anew", begun)
    for path in begun.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    for name, split in plan.splits.items():
        _make_room(begun / name, split, plan)
    write_json_durably(state, {"plan": described, "done": []})
    return set()


def _make_room(folder: Path, split: Split, plan: Plan) -> None:
    """Files of the full size: a disk that is full is told now, and not by a crash later."""
    folder.mkdir()
    size, number = plan.preparation.image_size, len(split.labels)
    shape = (number, plan.preparation.num_channels, size, size)
    images = open_memmap(folder / IMAGES, mode="w+", dtype=np.uint8, shape=shape)
    images.flush()
    with (folder / IMAGES).open("r+b") as file:
        os.posix_fallocate(file.fileno(), 0, os.fstat(file.fileno()).st_size)
    np.save(folder / LABELS, split.labels)
    write_json_durably(folder / CLASS_NAMES, list(plan.class_names))


def _write_split(
    folder: Path, split: Split, plan: Plan, *, done: set[str], on_progress: Progress | None
) -> None:
    stage, counted = f"{plan.name} {folder.name}", threading.Lock()
    finished = sum(len(part.rows) for part in split.parts if part.name in done)

    def report(number: int) -> None:
        nonlocal finished
        with counted:
            finished += number
            if on_progress:
                on_progress(stage, finished, len(split.labels))

    report(0)
    for part in split.parts:
        if part.name not in done:
            _write_part(folder / IMAGES, part, plan.preparation, report=report)
            done.add(part.name)
            state = {"plan": plan.describe(), "done": sorted(done)}
            write_json_durably(folder.parent / STATE, state)


def _write_part(
    path: Path, part: Part, preparation: Preparation, *, report: Callable[[int], None]
) -> None:
    images = np.load(path, mmap_mode="r+")  # mapped anew, so old pages are let go
    with part.open() as members, warnings.catch_warnings():
        if len(members) != len(part.rows):
            raise DataInvalidError(
                f"{part.name} holds {len(members)} images instead of {len(part.rows)}; "
                "fetch the archive again"
            )
        warnings.filterwarnings("ignore", category=UserWarning, module="PIL")  # odd EXIF tags

        def write_chunk(indices: range) -> None:
            for index in indices:
                images[part.rows[index]] = prepared_image(members[index], preparation)
            report(len(indices))

        for_each_chunk(write_chunk, len(members))
    images.flush()


def _write_note(begun: Path, plan: Plan) -> None:
    """Beside the arrays: what they are, from which files, when, and their checksums."""
    files = (f"{split}/{name}" for split in plan.splits for name in (IMAGES, LABELS, CLASS_NAMES))
    note = {
        "name": plan.name,
        "prepared": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        **{key: value for key, value in plan.describe().items() if key != "class_names"},
        "num_classes": len(plan.class_names),
        "sha256": {name: file_sha256(begun / name) for name in files},
    }
    write_json_durably(begun / NOTE, note)


@contextmanager
def _held(folder: Path) -> Iterator[None]:
    """Only one process at a time prepares a set."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError as error:
        raise RunFolderError(
            f"{folder} is being prepared by another process; wait for it"
        ) from error
    finally:
        os.close(handle)
