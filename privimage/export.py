"""Synthetic images as files for any other program: one folder a class, one PNG an image.

What an earlier export of more images left is removed, so that the folder holds one release.
"""

from pathlib import Path

import numpy as np
from PIL import Image


def export_images(archive: Path, folder: Path) -> int:
    """Write `<folder>/<class name>/<number>.png` for an npz of images; returns their number."""
    with np.load(archive, allow_pickle=False) as arrays:
        images, labels, names = arrays["images"], arrays["labels"], arrays["class_names"]
    for name in names:
        (folder / _safe(str(name))).mkdir(parents=True, exist_ok=True)
    written = set()
    for number, (image, label) in enumerate(zip(images, labels, strict=True)):
        pixels = image[0] if image.shape[0] == 1 else image.transpose(1, 2, 0)
        path = folder / _safe(str(names[label])) / f"{number:06}.png"
        Image.fromarray(pixels).save(path)
        written.add(path)
    for path in folder.glob("*/*.png"):
        if path.stem.isdecimal() and path not in written:
            path.unlink()
    return len(images)


def _safe(name: str) -> str:
    """A class name as a folder name: no separators, no leading dot."""
    return "".join(c if c.isalnum() or c in " -_()" else f"_{ord(c):x}_" for c in name)
