"""The type faces of the rendered public set: those that have every character, each its own shape.

All public. The default faces are the ones that matplotlib ships, so they follow from the lock
file and not from what a machine has installed: the same set comes out everywhere.
"""

import hashlib
import logging
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import matplotlib
from PIL import Image, ImageDraw, ImageFont

from privimage.errors import DataMissingError

logger = logging.getLogger(__name__)

# These answer to letters with mathematical signs, which no look at the outlines can tell.
SYMBOL_FACES = ("cmex10", "cmmi10", "cmsy10", "Last Resort High-Efficiency")
PROBE_SIZE = 48


def usable_faces(fonts: Sequence[Path] | None, *, characters: str) -> list[Path]:
    """The font files, by name, whose face has `characters`; DataMissingError if there is none."""
    return list(_bundled_faces(characters) if fonts is None else _usable(fonts, characters))


@cache  # each run asks for their names, and these files stay as they are
def _bundled_faces(characters: str) -> tuple[Path, ...]:
    return _usable(bundled_fonts(), characters)


def _usable(given: Sequence[Path], characters: str) -> tuple[Path, ...]:
    faces: dict[tuple[str | None, str | None], Path] = {}
    for path in sorted(given, key=lambda path: (path.name, str(path))):
        font = load_face(path, PROBE_SIZE)
        if font is None or font.getname()[0] in SYMBOL_FACES or not _has_all(font, characters):
            logger.debug("%s has not every character: left out", path.name)
        else:
            faces.setdefault(font.getname(), path)
    if not faces:
        raise DataMissingError(
            f"none of {len(given)} font files has all {len(characters)} characters; "
            "reinstall matplotlib, whose fonts do, or pass other font files"
        )
    return tuple(faces.values())


def bundled_fonts() -> list[Path]:
    """Every TrueType file that matplotlib ships."""
    return sorted((Path(matplotlib.get_data_path()) / "fonts" / "ttf").glob("*.ttf"))


def load_face(path: Path, size: int) -> ImageFont.FreeTypeFont | None:
    """The face at `size` pixels an em, or None if the file is no font that FreeType reads."""
    try:
        return ImageFont.truetype(str(path), size, layout_engine=ImageFont.Layout.BASIC)
    except OSError:
        return None


def fonts_digest(faces: Sequence[Path]) -> str:
    """SHA-256 over the content of the files, in order."""
    digest = hashlib.sha256()
    for path in faces:
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def _has_all(font: ImageFont.FreeTypeFont, characters: str) -> bool:
    shapes = set()
    for character in characters:
        left, top, right, bottom = font.getbbox(character)
        image = Image.new("L", (PROBE_SIZE * 2, PROBE_SIZE * 2))
        ImageDraw.Draw(image).text((-left, 0), character, 255, font)
        if right <= left or bottom <= top or image.getbbox() is None:
            return False
        shapes.add(image.tobytes())
    return len(shapes) == len(characters)
