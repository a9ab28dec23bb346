"""Synthetic images as a stream into one of three formats: a folder of PNG files, an npz file, or
the tar shards that WebDataset reads.

Memory is that of one batch. What an interruption leaves does not look finished: a folder and an npz
file get their name when all is there. The same images give the same bytes.
"""

import io
import tarfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any

from jaxtyping import Int64
from torch import Tensor

from privimage.errors import ConfigError
from privimage.files.durable import json_bytes, new_folder
from privimage.release.export import folder_names, png_of
from privimage.release.image_files import save_images

IMAGES_PER_SHARD = 10_000
ABOUT = "about.json"
FORMATS = ("folder", "npz", "webdataset")


@dataclass(frozen=True)
class ImageStream:
    """Images to be written: batches of uint8 (batch, channel, height, width), and what is known of
    them beforehand.
    """

    batches: Iterable[Tensor]
    labels: Int64[Tensor, " num"]
    class_names: tuple[str, ...]
    insecure: bool
    about: dict[str, Any]  # JSON values: how they were drawn

    def __iter__(self) -> Iterator[tuple[int, int, bytes]]:
        """Number, label and PNG of each image."""
        images = chain.from_iterable(self.batches)
        for number, (image, label) in enumerate(zip(images, self.labels, strict=True)):
            yield number, int(label), png_of(image)


def check_output(path: Path, *, kind: str) -> None:
    """ConfigError unless `kind` is known and `path` is free for it."""
    if kind not in FORMATS:
        raise ConfigError(f"there is no format {kind!r}; choose {', '.join(FORMATS)}")
    if kind == "npz" and path.suffix != ".npz":
        raise ConfigError(f"{path} does not end with .npz; name the file so, or choose a folder")
    is_empty_folder = kind != "npz" and path.is_dir() and not any(path.iterdir())
    if (path.exists() or path.is_symlink()) and not is_empty_folder:
        raise ConfigError(f"{path} is there already; name a place that is free")


def write_stream(path: Path, stream: ImageStream, *, kind: str) -> None:
    """Write all images to `path`; RunFolderError if that cannot be done, and then nothing is there.

    `folder`: a folder a class, as torchvision's ImageFolder reads it, and `about.json`; `npz`: as
    `images.npz` of a run; `webdataset`: `images-000000.tar` and so on, each with up to
    `IMAGES_PER_SHARD` pairs of NUMBER.png and NUMBER.cls (the label's number), and `about.json`.
    """
    check_output(path, kind=kind)
    if kind == "npz":
        names, insecure = stream.class_names, stream.insecure
        save_images(path, stream.batches, stream.labels, names, insecure=insecure)
        return
    with new_folder(path) as folder:
        if kind == "folder":
            _write_tree(folder, stream)
        else:
            _write_shards(folder, stream)
        facts = {"class_names": list(stream.class_names), "insecure": stream.insecure}
        (folder / ABOUT).write_bytes(json_bytes(facts | stream.about))


def _write_tree(folder: Path, stream: ImageStream) -> None:
    names = folder_names(stream.class_names)
    for label in stream.labels.unique().tolist():
        (folder / names[label]).mkdir()
    for number, label, content in stream:
        (folder / names[label] / f"{number:06}.png").write_bytes(content)


def _write_shards(folder: Path, stream: ImageStream) -> None:
    images, shard = iter(stream), 0
    while first := next(images, None):
        with tarfile.open(
            folder / f"images-{shard:06}.tar", "w", format=tarfile.USTAR_FORMAT
        ) as archive:
            for number, label, content in chain([first], islice(images, IMAGES_PER_SHARD - 1)):
                _add(archive, f"{number:09}.png", content)
                _add(archive, f"{number:09}.cls", str(label).encode())
        shard += 1


def _add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    info = tarfile.TarInfo(name)  # of no date, owner or mode of this machine's
    info.size = len(content)
    archive.addfile(info, io.BytesIO(content))
