"""CelebA (Liu et al. 2015) from its official files, read in place, as the paper's second set.

As the published scripts do: the aligned images, centre crop to 178 pixels (their short edge),
bilinear to 32 or 64. The published partition: its train images, and its test images; the validation
images are left out. One class, or two by the attribute Male. Published images, so a disk may keep
them. torchvision's reader is not used: it wants all 202,599 images unpacked.
"""

import csv
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np

from privimage.data.image_set import ONE_CLASS
from privimage.data.own.archives import DAMAGED, Member, read_zip_member
from privimage.data.preparation import Preparation
from privimage.data.public.array_writer import Part, Plan, Split
from privimage.data.public.pinned_files import CELEBA_ATTRIBUTES, CELEBA_IMAGES, CELEBA_SPLITS
from privimage.errors import DataInvalidError

FOLDER = "img_align_celeba"
PARTITION = {"train": 0, "test": 2}  # 1 is the validation part
MALE = ("not male", "male")
PRESENCE = {"-1": 0, "1": 1}  # of an attribute, as the list says it
PART = 20_000  # images; the zip file's list is read once a part


def plan_celeba(name: str, image_size: int, *, archives: Path, by_male: bool) -> Plan:
    """What is to be prepared; only the two lists are read."""
    partition = read_partition(archives / CELEBA_SPLITS.name)
    is_male = read_attribute(archives / CELEBA_ATTRIBUTES.name, "Male") if by_male else {}
    used = (CELEBA_IMAGES, CELEBA_SPLITS, *((CELEBA_ATTRIBUTES,) if by_male else ()))
    splits = {}
    for split, number in PARTITION.items():
        names = [image for image, part in partition.items() if part == number]
        if by_male and (lacking := [image for image in names if image not in is_male]):
            raise DataInvalidError(
                f"{CELEBA_ATTRIBUTES.name} lacks {lacking[0]} of {CELEBA_SPLITS.name}; "
                "fetch both again"
            )
        labels = np.array([is_male[image] if by_male else 0 for image in names], np.int64)
        splits[split] = Split(labels, _parts(archives / CELEBA_IMAGES.name, split, names))
    return Plan(
        name=name,
        splits=splits,
        class_names=MALE if by_male else (ONE_CLASS,),
        preparation=Preparation(image_size, "rgb"),
        origin={
            "source": "CelebA, aligned and cropped, mmlab.ie.cuhk.edu.hk/projects/CelebA.html "
            "(terms: non-commercial research)",
            "archives": {file.name: file.checksum for file in used},
            "labels": "attribute Male" if by_male else "none",
        },
    )


def read_partition(path: Path) -> dict[str, int]:
    """The number of its part by image name, in the order of the list."""
    try:
        return {name: int(number) for name, number in _rows(path)}
    except (OSError, ValueError, csv.Error) as error:
        raise DataInvalidError(
            f"{path} is not CelebA's partition ({error}); fetch it again"
        ) from error


def read_attribute(path: Path, attribute: str) -> dict[str, int]:
    """1 where the attribute is present and 0 where it is not, by image name."""
    try:
        _, header, *rows = _rows(path)
        column = header.index(attribute) + 1  # the name of the image stands first
        return {row[0]: PRESENCE[row[column]] for row in rows}
    except (OSError, ValueError, LookupError, csv.Error) as error:
        raise DataInvalidError(
            f"{path} is not CelebA's list of attributes ({error}); fetch it again"
        ) from error


def _rows(path: Path) -> list[list[str]]:
    with path.open(newline="") as file:
        rows = csv.reader(file, delimiter=" ", skipinitialspace=True)
        return [[cell for cell in row if cell] for row in rows if row]


def _parts(path: Path, split: str, names: Sequence[str]) -> list[Part]:
    return [
        Part(
            f"{split} {start}",
            range(start, min(start + PART, len(names))),
            partial(_open_images, path, names[start : start + PART]),
        )
        for start in range(0, len(names), PART)
    ]


@contextmanager
def _open_images(path: Path, names: Sequence[str]) -> Iterator[list[Member]]:
    try:
        archive = zipfile.ZipFile(path)
    except DAMAGED as error:
        raise DataInvalidError(f"{path} is not a zip file ({error}); fetch it again") from error
    with archive:
        there = {info.filename: info for info in archive.infolist()}
        paths = [f"{FOLDER}/{name}" for name in names]
        yield [
            Member((path,), partial(read_zip_member, archive, there[path]))
            for path in paths
            if path in there
        ]
