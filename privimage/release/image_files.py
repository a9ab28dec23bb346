"""Synthetic images on the disk: parts while they are drawn, one npz file when all are there.

Memory is bounded by one part, however many images there are. The npz file is not compressed, so
that it can be mapped: of a million images only those that are looked at are read.
"""

import zipfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
from jaxtyping import Int64, UInt8
from numpy.lib import format as npy_format
from torch import Tensor

from privimage.data.image_set import ImageSet
from privimage.data.own.npy import as_tensor
from privimage.data.own.npz import read_arrays
from privimage.errors import DataInvalidError
from privimage.files.durable import replaced_durably
from privimage.run_folder.checkpoint import Checkpoint

INSECURE = "insecure"


class ImageParts:
    """The first images of a set that is being drawn, each batch in a file of its own.

    `new_checkpoint` gives the place of a part by its name. What an interrupted run left is found;
    a damaged part and all after it are not used.
    """

    def __init__(self, new_checkpoint: Callable[[str], Checkpoint]) -> None:
        self._place = new_checkpoint
        self.num_parts = self.num_images = 0
        while (known := self._load(self.num_parts)) is not None:
            self._count(known)

    def add(self, images: UInt8[Tensor, "batch channel height width"]) -> None:
        """Keep what was drawn next; when this returns it is on the disk."""
        state = {"first": self.num_images, "images": images}
        self._place(_name(self.num_parts)).save(state)
        self._count(images)

    def __iter__(self) -> Iterator[Tensor]:
        for number in range(self.num_parts):
            images = self._load(number)
            if images is None:
                raise DataInvalidError(
                    "a part of the images was damaged while it was in use; repeat the command: it "
                    "draws that part again"
                )
            yield images

    def _load(self, number: int) -> Tensor | None:
        place = self._place(_name(number))
        state = place.load()
        follows = state is not None and (
            number < self.num_parts or state["first"] == self.num_images
        )
        return state["images"] if state is not None and follows else None

    def _count(self, images: Tensor) -> None:
        self.num_parts += 1
        self.num_images += len(images)


def save_images(
    path: Path,
    parts: Iterable[UInt8[Tensor, "_ channel height width"]],
    labels: Int64[Tensor, " num"],
    class_names: tuple[str, ...],
    *,
    insecure: bool,
) -> None:
    """One npz: images uint8 (N, C, H, W), labels int64 (N,), class_names, and whether the noise of
    the model had a seed, so that no guarantee holds. Parts are written one by one.
    """
    with replaced_durably(path) as file, zipfile.ZipFile(file, "w") as archive:
        with archive.open("images.npy", "w", force_zip64=True) as member:
            for number, part in enumerate(parts):
                if number == 0:
                    shape = (len(labels), *part.shape[1:])
                    header = {"descr": "|u1", "fortran_order": False, "shape": shape}
                    npy_format.write_array_header_1_0(member, header)
                member.write(part.contiguous().numpy().data)
        others = {
            "labels": labels.numpy(),
            "class_names": np.array(class_names),
            INSECURE: np.array(insecure),
        }
        for name, array in others.items():
            with archive.open(f"{name}.npy", "w") as member:
                npy_format.write_array(member, array, allow_pickle=False)


def load_images(path: Path) -> ImageSet:
    """What `save_images` wrote; a large set is mapped. DataInvalidError for anything else."""
    arrays = read_arrays(path, source=path.name)
    if not {"images", "labels", "class_names"} <= arrays.keys():
        raise DataInvalidError(f"{path.name} lacks images, labels or class_names; draw it again")
    return ImageSet(
        images=as_tensor(arrays["images"]),
        labels=as_tensor(arrays["labels"]),
        class_names=tuple(str(name) for name in arrays["class_names"]),
        source=path.name,
        public_size=len(arrays["images"]),
    )


def images_are_insecure(path: Path) -> bool:
    """Whether the images say that no guarantee holds; DataInvalidError if they do not say."""
    said = read_arrays(path, source=path.name).get(INSECURE)
    if said is None or said.dtype != np.bool_ or said.shape != ():
        raise DataInvalidError(f"{path} does not say whether its noise was secure; draw it again")
    return bool(said)


def _name(number: int) -> str:
    return f"part{number:06}"
