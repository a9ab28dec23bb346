"""Synthetic images as files for any other program: one folder a class, one PNG an image.

What an earlier export of more images left is removed, so that the folder holds one release.
"""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image
from torch import Tensor

from privimage.files.plain_files import inside, read_bounded
from privimage.release.image_files import load_images

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"


def export_images(archive: Path, folder: Path) -> int:
    """Write `<folder>/<class name>/<number>.png` for an npz of images; returns their number."""
    drawn = load_images(archive)
    folders = [folder / name for name in folder_names(drawn.class_names)]
    for place in folders:
        place.mkdir(parents=True, exist_ok=True)
    labels = drawn.labels.tolist()
    for number, (image, label) in enumerate(zip(drawn.images, labels, strict=True)):
        (folders[label] / f"{number:06}.png").write_bytes(png_of(image))
    for path in folder.glob("*/*.png"):
        if path.stem.isdecimal() and not _is_of(path, folders, labels):
            path.unlink()
    return len(drawn)


def png_of(image: UInt8[Tensor, "channel height width"]) -> bytes:
    """A grey or RGB image as PNG."""
    pixels = image[0] if image.shape[0] == 1 else image.permute(1, 2, 0)
    buffer = io.BytesIO()
    Image.fromarray(pixels.contiguous().numpy()).save(buffer, format="PNG")
    return buffer.getvalue()


def fault_of_export(archive: Path, folder: Path) -> str | None:
    """The first thing in `folder` that is not as `export_images` leaves it; None if all is.

    Pixels are compared, and every byte of a file is covered by one of its checksums: another
    library may pack the same pixels otherwise.
    """
    drawn = load_images(archive)
    names = folder_names(drawn.class_names)
    num_files = sum(path.is_file() for path in folder.rglob("*"))
    if num_files != len(drawn):
        return f"{folder.name}/ holds {num_files} files for {len(drawn)} images"
    labels = drawn.labels.tolist()
    for number, (image, label) in enumerate(zip(drawn.images, labels, strict=True)):
        name = f"{names[label]}/{number:06}.png"
        path = inside(folder, name)
        if not path.is_file():
            return f"{name} is gone"
        content = read_bounded(path)
        wanted = image[0] if image.shape[0] == 1 else image.permute(1, 2, 0)
        if content != png_of(image) and not _shows(content, wanted.numpy()):
            return f"{name} is not the image number {number}"
    return None


def _shows(content: bytes, pixels: np.ndarray) -> bool:
    """Whether it is an undamaged PNG of these pixels, with nothing beside them."""
    place, kinds = len(PNG_SIGNATURE), []
    while content.startswith(PNG_SIGNATURE) and place < len(content):
        length, kind = struct.unpack(">I4s", content[place : place + 8].ljust(8, b"\0"))
        end = place + 8 + length
        if content[end : end + 4] != struct.pack(">I", zlib.crc32(content[place + 4 : end])):
            return False
        kinds.append(kind)
        place = end + 4
    if kinds != [b"IHDR", *[b"IDAT"] * (len(kinds) - 2), b"IEND"]:
        return False
    size = struct.unpack(">II", content[16:24])  # before it is unpacked: it may be a bomb
    if size != pixels.shape[1::-1]:
        return False
    try:
        with Image.open(io.BytesIO(content), formats=["PNG"]) as picture:
            return np.array_equal(np.asarray(picture), pixels)
    except (OSError, SyntaxError, ValueError, zlib.error):
        return False


def _is_of(path: Path, folders: list[Path], labels: list[int]) -> bool:
    number = int(path.stem)
    is_there = number < len(labels) and path.stem == f"{number:06}"
    return is_there and path.parent == folders[labels[number]]


def folder_names(names: tuple[str, ...]) -> list[str]:
    """Class names as folder names: no separators, no leading dot, and no two alike ("a/b" and
    "a_2f_b" would be).
    """
    safe: list[str] = []
    for label, name in enumerate(names):
        folder = "".join(c if c.isalnum() or c in " -_()" else f"_{ord(c):x}_" for c in name)
        safe.append(f"{folder} ({label})" if folder in safe else folder)
    return safe
