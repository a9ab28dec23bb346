"""Named image sets and `folder:PATH`: what a configuration calls a set, and how it is found.

Named sets are public benchmarks. A `folder:` set may be private: it is read into memory, or mapped
if it is large (`privimage.data.own.array_folder`), and nothing of it is written to a disk unless
the caller asks for the cache. Nothing is downloaded unless the caller asks for that.
"""

import difflib
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor

from privimage.data.cache import cached_image_set, default_cache_dir, stamp
from privimage.data.image_set import ImageSet
from privimage.data.own.array_folder import IMAGES, find_array_folder, read_array_folder
from privimage.data.own.image_tree import SPLITS, read_image_tree
from privimage.data.own.npz import read_npz
from privimage.data.places import DOWNLOADED, default_data_root
from privimage.data.preparation import Preparation
from privimage.data.public import published_sets as published
from privimage.data.public.glyphs import render_glyphs, rendering_key
from privimage.errors import ConfigError, DataMissingError

FOLDER_PREFIX = "folder:"
NAMED_SOURCES = ("digits", "glyphs", *published.PUBLISHED)
DIGITS_MAXIMUM = 16
HELD_OUT_EVERY = 5


def load_image_set(
    source: str,
    split: str,
    *,
    preparation: Preparation,
    data_root: Path | None = None,
    cache: bool = False,
    cache_dir: Path | None = None,
    download: bool = False,
    classes: tuple[str, ...] | None = None,
    blank: bool = False,
) -> ImageSet:
    """One split of a set, prepared; with `blank` the files of a folder are only counted, for a plan
    that needs no image.

    `classes` are those that the owner of a private set declares, in order, () for none: images of
    others, and those that cannot be read, are left out one by one, and a class may be empty.
    Without them they are taken from the set, and an image that does not fit is an error.

    `cache=True` keeps the prepared images under `cache_dir`, by default the user's cache folder;
    never ask for it with a private set. ConfigError for an unknown name, DataMissingError for a
    set that is not there, DataInvalidError for one that cannot be read safely.
    """
    if split not in SPLITS:
        raise ConfigError(f"there is no split {split!r}; choose train or test")
    kept_in = (cache_dir or default_cache_dir()) if cache else None
    if source == "digits":
        image_set = load_digits(split, preparation=preparation)
    elif source == "glyphs":
        image_set = load_glyphs(split, preparation=preparation, cache_dir=kept_in)
    else:
        data_root = data_root or default_data_root()
        if download and source in DOWNLOADED:
            published.download(source, data_root=data_root)
        path, reader = locate(source, split, data_root=data_root, classes=classes, blank=blank)
        asked = {"source": source, "split": split, "classes": classes}
        image_set = _read_or_cached(path, reader, preparation, asked, kept_in=kept_in)
    return image_set if classes is None else image_set.with_classes(classes)


def locate(
    source: str,
    split: str,
    *,
    data_root: Path,
    classes: tuple[str, ...] | None = None,
    blank: bool = False,
) -> tuple[Path, published.Reader]:
    """Where a set lies and how it is read, without reading it."""
    if source in published.PUBLISHED:
        return published.find_published(source, split, data_root=data_root)
    if not source.startswith(FOLDER_PREFIX):
        raise ConfigError(_unknown(source))
    path = Path(source.removeprefix(FOLDER_PREFIX)).expanduser()
    if not path.exists():
        raise DataMissingError(
            f"{source}: there is no {path.absolute()}; give a folder of class folders, "
            "a zip file of one, an npz file, or a folder of images.npy and labels.npy"
        )
    if folder := find_array_folder(path, split, source=source):
        return folder, lambda preparation: read_array_folder(
            folder, preparation=preparation, source=source, classes=classes
        )
    if path.suffix != ".npz" or path.is_dir():
        return path, lambda preparation: read_image_tree(
            path,
            split=split,
            preparation=preparation,
            source=source,
            classes=classes,
            blank=blank,
        )
    if split != "train":
        raise DataMissingError(
            f"{source} has no {split} images; an npz file is all train: give the {split} images "
            "as a set of their own"
        )
    return path, lambda preparation: read_npz(
        path, preparation=preparation, source=source, classes=classes
    )


def load_digits(split: str, *, preparation: Preparation) -> ImageSet:
    """The 1,797 handwritten digits of 8x8 pixels that scikit-learn ships (Alpaydin 1998)."""
    from sklearn.datasets import load_digits as load_bundled_digits  # a second to import

    bundled: Any = load_bundled_digits()
    labels = torch.from_numpy(bundled.target.astype(np.int64))
    pixels = np.rint(bundled.images * (255 / DIGITS_MAXIMUM)).astype(np.uint8)
    chosen = split_indices(labels, split)
    return ImageSet(
        images=preparation.prepare(torch.from_numpy(pixels)[chosen, None]),
        labels=labels[chosen],
        class_names=tuple("0123456789"),
        source="digits",
        public_size=len(chosen),
    )


def load_glyphs(split: str, *, preparation: Preparation, cache_dir: Path | None = None) -> ImageSet:
    """Rendered characters at the size asked for; see `privimage.data.public.glyphs`."""
    size = preparation.image_size
    glyphs = cached_image_set(
        partial(render_glyphs, size),
        cache_dir=cache_dir,
        name="glyphs",
        depends_on={"rendering": rendering_key(size)},
    )
    chosen = glyphs.take(split_indices(glyphs.labels, split))
    return replace(chosen, images=preparation.prepare(chosen.images))


def split_indices(labels: Int64[Tensor, " number"], split: str) -> Int64[Tensor, " chosen"]:
    """Every fifth image, counted class by class, is for the test; a fixed and stratified split."""
    by_class = torch.argsort(labels, stable=True)
    is_test = torch.arange(len(labels)) % HELD_OUT_EVERY == 0
    return by_class[is_test if split == "test" else ~is_test].sort().values


def _read_or_cached(
    path: Path,
    reader: published.Reader,
    preparation: Preparation,
    asked: dict[str, Any],
    *,
    kept_in: Path | None,
) -> ImageSet:
    if (path / IMAGES).is_file():
        return reader(preparation)  # a folder of arrays is on the disk already
    depends_on = {"preparation": preparation.describe(), "files": stamp(path) if kept_in else None}
    return cached_image_set(
        partial(reader, preparation),
        cache_dir=kept_in,
        name=asked["source"].partition(":")[0],
        depends_on=asked | depends_on,
    )


def _unknown(source: str) -> str:
    close = difflib.get_close_matches(source, NAMED_SOURCES, n=1)
    guess = f"did you mean {close[0]}? " if close else ""
    return (
        f"there is no image set {source!r}; {guess}choose {', '.join(NAMED_SOURCES)}, "
        "or folder:PATH for images of your own"
    )
