"""ImageNet (ILSVRC 2012) from its official archives, read in place, as the paper's public set.

As the published scripts do: centre crop to the short edge, bilinear to 32 or 64 pixels.
Classes are numbered by their sorted WordNet ids, the usual 0 to 999. The labels of the validation
images, which become the test split, come from the development kit. All public. torchvision's reader
is not used: it unpacks the archives into 1.3 million files.
"""

import hashlib
import io
import os
import re
import tarfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np

from privimage.data.own.archives import DAMAGED, MAX_MEMBER_BYTES, Member, tar_members
from privimage.data.preparation import Preparation
from privimage.data.public.array_writer import Part, Plan, Split
from privimage.data.public.pinned_files import IMAGENET_DEVKIT, IMAGENET_TRAIN, IMAGENET_VAL
from privimage.errors import ConfigError, DataInvalidError

META = "ILSVRC2012_devkit_t12/data/meta.mat"
GROUND_TRUTH = "ILSVRC2012_devkit_t12/data/ILSVRC2012_validation_ground_truth.txt"
VAL_PART = 1000  # images


@dataclass(frozen=True)
class Synset:
    """A class: its WordNet id, its first word, and the number of its training images."""

    wnid: str
    word: str
    num_train_images: int

    @property
    def class_name(self) -> str:
        """The word alone would not do: there are two cranes, a bird and a machine."""
        return f"{self.wnid} {self.word}"


@dataclass(frozen=True)
class Devkit:
    """Classes in the usual order, and the WordNet id of every validation image by its number."""

    synsets: tuple[Synset, ...]
    val_wnids: tuple[str, ...]


def plan_imagenet(name: str, image_size: int, *, archives: Path, classes: str | None) -> Plan:
    """What is to be prepared; only the development kit is read. `classes` names a subset."""
    devkit = read_devkit(archives / IMAGENET_DEVKIT.name)
    chosen = list(devkit.synsets)
    if classes is not None:
        chosen = choose_synsets(devkit, classes)
        name = subset_name(name, [synset.wnid for synset in chosen])
    origin: dict[str, Any] = {
        "source": "ImageNet, ILSVRC 2012, image-net.org (terms: non-commercial research)",
        "archives": {f.name: f.checksum for f in (IMAGENET_DEVKIT, IMAGENET_TRAIN, IMAGENET_VAL)},
        "wordnet_ids": [synset.wnid for synset in chosen],
    }
    return Plan(
        name=name,
        splits={
            "train": _train_split(archives / IMAGENET_TRAIN.name, chosen),
            "test": _val_split(archives / IMAGENET_VAL.name, chosen, devkit.val_wnids),
        },
        class_names=tuple(synset.class_name for synset in chosen),
        preparation=Preparation(image_size, "rgb"),
        origin=origin,
    )


def read_devkit(path: Path) -> Devkit:
    """Classes and validation labels; DataInvalidError if the kit is not as it was published.

    Check the file's checksum first: scipy's parser can crash the process on a damaged list.
    """
    from scipy.io import loadmat  # half a second to import, and only this needs it

    try:
        with tarfile.open(path) as kit:
            content = _contents(kit, META, GROUND_TRUTH)
        meta = loadmat(io.BytesIO(content[META]), squeeze_me=True)["synsets"]
        truth = [int(line) for line in content[GROUND_TRUTH].split()]
        leaves = meta[meta["num_children"] == 0]
        wnid_of = {int(row["ILSVRC2012_ID"]): str(row["WNID"]) for row in leaves}
        synsets = [
            Synset(str(row["WNID"]), str(row["words"]).split(",")[0], int(row["num_train_images"]))
            for row in leaves
        ]
        val_wnids = tuple(wnid_of[number] for number in truth)
    except Exception as error:  # loadmat may raise anything on a damaged file
        raise DataInvalidError(
            f"{path} is not the development kit of ILSVRC 2012 ({error}); fetch "
            f"{IMAGENET_DEVKIT.name} again"
        ) from error
    return Devkit(tuple(sorted(synsets, key=lambda synset: synset.wnid)), val_wnids)


def choose_synsets(devkit: Devkit, classes: str) -> list[Synset]:
    """The classes that a text, or the file of that name, lists by index or WordNet id, sorted."""
    path = Path(classes)
    text = path.read_text() if "," not in classes and path.is_file() else classes
    by_name = {s.wnid: s for s in devkit.synsets} | {
        str(i): s for i, s in enumerate(devkit.synsets)
    }
    asked = [word for word in re.split(r"[,\s]+", text) if word]
    unknown = [word for word in asked if word not in by_name]
    if unknown or not asked:
        raise ConfigError(
            f"--classes names {', '.join(unknown[:5]) or 'nothing'}; give a comma list, or a file, "
            f"of indices 0 to {len(devkit.synsets) - 1} or WordNet ids such as "
            f"{devkit.synsets[0].wnid}"
        )
    return sorted({by_name[word] for word in asked}, key=lambda synset: synset.wnid)


def subset_name(name: str, wnids: Sequence[str]) -> str:
    """A name that says that it is a part, and which: the same classes always get the same."""
    digest = hashlib.sha256("\n".join(wnids).encode()).hexdigest()[:8]
    return f"{name}-{len(wnids)}classes-{digest}"


def _train_split(path: Path, chosen: Sequence[Synset]) -> Split:
    numbers = [synset.num_train_images for synset in chosen]
    ends = np.cumsum(numbers)
    parts = [
        Part(synset.wnid, range(end - number, end), partial(_open_class, path, synset.wnid))
        for synset, number, end in zip(chosen, numbers, ends.tolist(), strict=True)
    ]
    return Split(np.repeat(np.arange(len(chosen)), numbers), parts)


def _val_split(path: Path, chosen: Sequence[Synset], val_wnids: Sequence[str]) -> Split:
    label_of = {synset.wnid: label for label, synset in enumerate(chosen)}
    numbers = [n for n, wnid in enumerate(val_wnids, start=1) if wnid in label_of]
    parts = [
        Part(
            f"val {start}",
            range(start, min(start + VAL_PART, len(numbers))),
            partial(_open_val, path, tuple(numbers[start : start + VAL_PART])),
        )
        for start in range(0, len(numbers), VAL_PART)
    ]
    labels = np.array([label_of[val_wnids[number - 1]] for number in numbers], np.int64)
    return Split(labels, parts)


@contextmanager
def _open_class(path: Path, wnid: str) -> Iterator[list[Member]]:
    """The images of one class, some 140 MB in memory, in the order of its inner archive."""
    places = _index(path)
    if f"{wnid}.tar" not in places:
        raise DataInvalidError(f"{path} has no {wnid}.tar; fetch it again")
    content = _read(path, *places[f"{wnid}.tar"])
    try:
        with tarfile.open(fileobj=io.BytesIO(content), mode="r:") as inner:
            infos = list(tar_members(inner))
    except DAMAGED as error:
        raise DataInvalidError(
            f"{path}: {wnid}.tar is damaged ({error}); fetch it again"
        ) from error
    yield [Member((i.name,), partial(_slice, content, i.offset_data, i.size)) for i in infos]


@contextmanager
def _open_val(path: Path, numbers: Sequence[int]) -> Iterator[list[Member]]:
    places = _index(path)
    names = [f"ILSVRC2012_val_{number:08d}.JPEG" for number in numbers]
    yield [Member((name,), partial(_read, path, *places[name])) for name in names if name in places]


@lru_cache(maxsize=2)
def _index(path: Path) -> dict[str, tuple[int, int]]:
    """Where in an uncompressed archive each member's bytes begin, and how many they are."""
    try:
        end = path.stat().st_size
        with tarfile.open(path, "r:") as archive:
            infos = [info for info in tar_members(archive) if info.offset_data + info.size <= end]
            return {Path(info.name).name: (info.offset_data, info.size) for info in infos}
    except DAMAGED as error:
        raise DataInvalidError(
            f"{path} is not a readable archive ({error}); fetch it again"
        ) from error


def _read(path: Path, start: int, size: int) -> bytes:
    with path.open("rb") as file:
        os.posix_fadvise(file.fileno(), start + size, size, os.POSIX_FADV_WILLNEED)  # what follows
        return os.pread(file.fileno(), size, start)


def _slice(content: bytes, start: int, size: int) -> bytes:
    return content[start : start + size]


def _contents(archive: tarfile.TarFile, *names: str) -> dict[str, bytes]:
    contents = {}
    for info in tar_members(archive):
        if info.name in names and info.isreg() and info.size <= MAX_MEMBER_BYTES:
            member = archive.extractfile(info)
            contents[info.name] = member.read() if member else b""
    return contents
