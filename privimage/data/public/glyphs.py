"""The rendered public set: letters, digits and signs in many type faces, drawn like handwriting.

It stands in for a public image set where none can be fetched (the paper pre-trains on ImageNet
or CIFAR-100). Nothing private. White on black, each glyph filling the height, with a small seeded
rotation, shear, stretch, bend, shift and change of stroke. Size, stroke and contrast follow the 8x8
digits of scikit-learn, which are 32x32 bitmaps averaged over 4x4 blocks.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import PIL
import torch
from numpy.random import Generator
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from privimage.data.image_set import ImageSet
from privimage.data.public.fonts import fonts_digest, load_face, usable_faces

DIGITS = "0123456789"
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
SIGNS = "!#$%&'()*+,-./:;=?@[]"  # those that TeX's text faces also have at their usual places
CHARACTERS = DIGITS + LETTERS + SIGNS

BINARY = [0] * 128 + [255] * 128  # a lookup table: ink is what is more white than black
DIGIT_HEIGHT = 64  # pixels of a "0" where the outline is drawn
STROKES = (-3, -2, -1, 0, 1, 2, 3, 4, 5)  # pixels added on each side of the outline
ROOM_TO_BEND = 1.6  # times the outline's size
GRID_CELLS = 2
SMALLEST_EXTENT = 0.6  # of a "0": marks smaller than this keep their relative size

# Ranges of the variations. Ink is the share of the image that a digit of the face covers.
INK = (0.24, 0.36)
ROTATION = (-0.14, 0.14)  # radians
SHEAR = (-0.3, 0.1)  # to the right; half of the faces lean that way already
STRETCH = (0.9, 1.35)
BEND = 0.12  # standard deviation of a grid corner's move, as a share of a digit's height
MARGIN = (0.0, 0.06)
SHIFT = (-0.08, 0.08)


@dataclass(frozen=True)
class Face:
    """A type face drawn so that a "0" is `DIGIT_HEIGHT` high; `ink` of its digits by stroke."""

    font: ImageFont.FreeTypeFont
    ink: tuple[float, ...]


def render_glyphs(
    image_size: int,
    *,
    seed: int = 0,
    variations: int = 8,
    fonts: Sequence[Path] | None = None,
) -> ImageSet:
    """Grey glyphs, class by class; the same for the same arguments and font files."""
    faces = [open_face(path) for path in usable_faces(fonts, characters=CHARACTERS)]
    generator = np.random.Generator(np.random.PCG64(seed))
    images = [
        image
        for character in CHARACTERS
        for face in faces
        for image in render_variations(face, character, image_size, variations, generator)
    ]
    return ImageSet(
        images=torch.from_numpy(np.stack(images)[:, None]),
        labels=torch.arange(len(CHARACTERS)).repeat_interleave(len(faces) * variations),
        class_names=tuple(CHARACTERS),
        source="glyphs",
        public_size=len(images),
    )


def rendering_key(
    image_size: int,
    *,
    seed: int = 0,
    variations: int = 8,
    fonts: Sequence[Path] | None = None,
) -> str:
    """Names all that `render_glyphs` depends on: arguments, font files, this code and Pillow."""
    code = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()
    faces = fonts_digest(usable_faces(fonts, characters=CHARACTERS))
    return f"{image_size} {seed} {variations} {faces} {code} {PIL.__version__}"


def open_face(path: Path) -> Face:
    """Size the face by its "0" and measure how much a digit covers at each stroke."""
    probe = load_face(path, DIGIT_HEIGHT)
    assert probe is not None, "usable_faces returns readable files only"
    _, top, _, bottom = probe.getbbox("0")
    font = load_face(path, round(DIGIT_HEIGHT**2 / (bottom - top)))
    assert font is not None
    ink = [
        np.mean([_coverage(draw(font, digit, stroke)) for digit in DIGITS]) for stroke in STROKES
    ]
    return Face(font, tuple(float(value) for value in ink))


def render_variations(
    face: Face, character: str, image_size: int, variations: int, generator: Generator
) -> list[np.ndarray]:
    """`variations` images of one character of one face, each (image_size, image_size) bytes."""
    inks = generator.uniform(*INK, size=variations)
    strokes = [STROKES[int(np.abs(np.array(face.ink) - ink).argmin())] for ink in inks]
    outlines = {stroke: draw(face.font, character, stroke) for stroke in set(strokes)}
    return [place(outlines[stroke], image_size, generator) for stroke in strokes]


def draw(font: ImageFont.FreeTypeFont, character: str, stroke: int) -> Image.Image:
    """The character in white on black, its outline moved outward (or inward) by `stroke`."""
    left, top, right, bottom = font.getbbox(character)
    border = max(STROKES) + 1
    size = (round(right - left) + 2 * border, round(bottom - top) + 2 * border)
    image = Image.new("L", size)
    origin = (border - left, border - top)
    ImageDraw.Draw(image).text(origin, character, 255, font, stroke_width=max(stroke, 0))
    if stroke < 0:
        thinner = image.filter(ImageFilter.MinFilter(1 - 2 * stroke))
        return thinner if _ink_box(thinner) else image
    return image


def place(outline: Image.Image, image_size: int, generator: Generator) -> np.ndarray:
    """Bend the outline a little, fit its ink into the image and average it down to size."""
    bent = bend(outline, generator)
    box = _ink_box(bent) or (0, 0, *bent.size)
    width, height = box[2] - box[0], box[3] - box[1]
    extent = max(width, height, SMALLEST_EXTENT * DIGIT_HEIGHT)
    side = round(extent / (1 - generator.uniform(*MARGIN)))
    room = (side - np.array([width, height])) / 2
    shift = np.clip(generator.uniform(*SHIFT, size=2) * side, -room, room)
    left, top = (int(value) for value in room + shift)
    square = Image.new("L", (side, side))
    square.paste(bent.crop(box), (left, top))
    return np.asarray(square.resize((image_size, image_size), Image.Resampling.BOX))


def bend(outline: Image.Image, generator: Generator) -> Image.Image:
    """Rotate, shear and stretch, with the corners of a coarse grid moved at random as well."""
    size = np.ceil(np.array(outline.size) * ROOM_TO_BEND).astype(int)
    columns, rows = (np.linspace(0, length, GRID_CELLS + 1).astype(int) for length in size)
    corners = np.stack(np.meshgrid(columns, rows, indexing="ij"), axis=-1)
    # PIL asks where each corner of the result comes from, hence the inverse.
    inverse = np.linalg.inv(random_warp(generator))
    sources = (corners - size / 2) @ inverse.T + np.array(outline.size) / 2
    sources += generator.normal(0, BEND * DIGIT_HEIGHT, sources.shape)
    mesh = []
    for i in range(GRID_CELLS):
        for j in range(GRID_CELLS):
            target = (*corners[i, j].tolist(), *corners[i + 1, j + 1].tolist())
            around = sources[[i, i, i + 1, i + 1], [j, j + 1, j + 1, j]]
            mesh.append((target, tuple(around.ravel().tolist())))
    bent_size = (int(size[0]), int(size[1]))
    return outline.transform(bent_size, Image.Transform.MESH, mesh, Image.Resampling.BILINEAR)


def random_warp(generator: Generator) -> np.ndarray:
    """A small rotation, shear and stretch as a 2x2 matrix."""
    angle = generator.uniform(*ROTATION)
    cosine, sine = np.cos(angle), np.sin(angle)
    rotation = np.array([[cosine, -sine], [sine, cosine]])
    shear = np.array([[1, -generator.uniform(*SHEAR)], [0, 1]])
    stretch = np.diag([generator.uniform(*STRETCH), 1])
    return rotation @ shear @ stretch


def _coverage(outline: Image.Image) -> float:
    left, top, right, bottom = _ink_box(outline) or (0, 0, *outline.size)
    extent = max(right - left, bottom - top)
    return float(np.asarray(outline).mean() / 255 * outline.width * outline.height / extent**2)


def _ink_box(outline: Image.Image) -> tuple[int, int, int, int] | None:
    return outline.point(BINARY).getbbox()
