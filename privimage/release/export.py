"""Synthetic images as files for any other program: one folder a class, one PNG an image.

What an earlier export of more images left is removed, so that the folder holds one release.
"""

from pathlib import Path

from PIL import Image

from privimage.release.image_files import load_images


def export_images(archive: Path, folder: Path) -> int:
    """Write `<folder>/<class name>/<number>.png` for an npz of images; returns their number."""
    drawn = load_images(archive)
    folders = [folder / name for name in _safe_names(drawn.class_names)]
    for place in folders:
        place.mkdir(parents=True, exist_ok=True)
    labels = drawn.labels.tolist()
    for number, (image, label) in enumerate(zip(drawn.images, labels, strict=True)):
        pixels = image[0] if image.shape[0] == 1 else image.permute(1, 2, 0)
        Image.fromarray(pixels.numpy()).save(folders[label] / f"{number:06}.png")
    for path in folder.glob("*/*.png"):
        if path.stem.isdecimal() and not _is_of(path, folders, labels):
            path.unlink()
    return len(drawn)


def _is_of(path: Path, folders: list[Path], labels: list[int]) -> bool:
    number = int(path.stem)
    is_there = number < len(labels) and path.stem == f"{number:06}"
    return is_there and path.parent == folders[labels[number]]


def _safe_names(names: tuple[str, ...]) -> list[str]:
    """Class names as folder names: no separators, no leading dot, and no two alike ("a/b" and
    "a_2f_b" would be).
    """
    safe: list[str] = []
    for label, name in enumerate(names):
        folder = "".join(c if c.isalnum() or c in " -_()" else f"_{ord(c):x}_" for c in name)
        safe.append(f"{folder} ({label})" if folder in safe else folder)
    return safe
