"""Single images from strangers: prepared pixels, or a DataInvalidError that names the file."""

import io
import struct
import zlib
from functools import partial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from privimage.data.own.archives import Member
from privimage.data.own.image_tree import decode
from privimage.data.preparation import Preparation
from privimage.data.public.array_writer import prepared_image
from privimage.errors import DataInvalidError
from tests.fuzz.damage import GIB, attempt, damaged, examples, memory_bounded

RGB8 = Preparation(8, "rgb")
FORMATS = ["PNG", "JPEG", "GIF", "WEBP", "BMP", "PPM"]
MAGIC = [
    b"\x89PNG\r\n\x1a\n",
    b"\xff\xd8\xff\xe0",
    b"GIF89a",
    b"RIFF    WEBPVP8X",
    b"BM",
    b"P6 9 9 255\n",
]


def encoded(mode: str, kind: str, size: tuple[int, int] = (11, 9), **options) -> bytes:
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).convert(mode).save(buffer := io.BytesIO(), kind, **options)
    return buffer.getvalue()


def is_image(content: bytes, *, more: int = GIB // 2) -> bool:
    """Whether both readers take it; each gives 8 x 8 pixels or names the file."""
    member, taken = Member(("a", "1.png"), lambda: content), []
    for read in (decode, prepared_image):
        with memory_bounded(more):
            pixels, refusal = attempt(partial(read, member, RGB8), DataInvalidError)
        if refusal is not None:
            assert refusal.startswith("a/1.png")
        else:
            assert (pixels.shape, pixels.dtype) == ((3, 8, 8), np.uint8)
        taken.append(refusal is None)
    return taken[0]


@examples(300)
@given(st.sampled_from(FORMATS), st.data())
def test_a_damaged_image_is_read_or_named(kind, data):
    is_image(data.draw(damaged(encoded("RGB", kind))))


@examples(150)
@given(st.sampled_from(["", *MAGIC]), st.binary(max_size=200))
def test_random_bytes_are_named(magic, content):
    is_image(bytes(magic or b"") + content)


@pytest.mark.parametrize("kind", FORMATS)
def test_an_image_that_is_cut_off_before_its_pixels_is_named(kind):
    content = encoded("RGB", kind)
    for end in range(0, 20, 3):
        assert not is_image(content[:end])


@pytest.mark.parametrize(
    ("mode", "kind"),
    [
        *((mode, "PNG") for mode in ("1", "L", "P", "LA", "RGBA")),
        *(("P", "GIF"), ("CMYK", "JPEG"), ("L", "JPEG"), ("RGBA", "WEBP"), ("1", "PPM")),
    ],
)
def test_images_of_other_modes_are_read(mode, kind):
    assert is_image(encoded(mode, kind))


def test_images_of_sixteen_bits_are_refused_and_not_clipped_to_white():
    Image.fromarray(np.full((9, 9), 40_000, np.uint16)).save(buffer := io.BytesIO(), "PNG")
    assert not is_image(buffer.getvalue())
    assert not is_image(b"P5 9 9 65535\n" + b"\x9c\x40" * 81)


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG"])
def test_of_an_animation_the_first_picture_is_taken(kind):
    first, second = (Image.new("RGB", (8, 8), color) for color in ("black", "white"))
    options = {"lossless": True} if kind == "WEBP" else {}
    first.save(buffer := io.BytesIO(), kind, save_all=True, append_images=[second] * 3, **options)
    pixels = decode(Member(("x",), buffer.getvalue), RGB8)
    assert int(pixels.max()) < 10


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png_of(width: int, height: int, *more: bytes) -> bytes:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return MAGIC[0] + header + b"".join(more)


TEXT_BOMB = chunk(b"zTXt", b"x\0\0" + zlib.compress(bytes(GIB // 4)))
LARGE = {
    "png": png_of(2**31 - 1, 2**31 - 1, chunk(b"IDAT", b"")),
    "png, just above Pillow's limit": png_of(20_000, 20_000, chunk(b"IDAT", b"")),
    "png with a text": png_of(8, 8, TEXT_BOMB, chunk(b"IDAT", b"")),
    "gif": b"GIF89a"
    + struct.pack("<HHBBB", 65535, 65535, 0, 0, 0)
    + b","
    + struct.pack("<HHHHB", 0, 0, 65535, 65535, 0)
    + b"\x08\0;",
    "gif of a large frame": b"GIF89a"
    + struct.pack("<HHBBB", 8, 8, 0, 0, 0)
    + b","
    + struct.pack("<HHHHB", 0, 0, 65535, 65535, 0)
    + b"\x08\0;",
    "bmp": b"BM"
    + struct.pack("<IHHIIiiHHIIiiII", 100, 0, 0, 54, 40, 2**31 - 1, 2**30, 1, 24, 0, 0, 0, 0, 0, 0),
    "ppm": b"P6 2147483647 2147483647 255\n",
    "webp": b"RIFF"
    + struct.pack("<I", 30)
    + b"WEBPVP8X"
    + struct.pack("<I", 10)
    + bytes(4)
    + b"\xff" * 6,
    "jpeg": b"\xff\xd8\xff\xc0\x00\x0b\x08\xff\xff\xff\xff\x01\x01\x11\x00"
    + b"\xff\xda\x00\x08\x01\x01\x00\x00\x3f\x00",
}


@pytest.mark.parametrize("name", LARGE)
def test_a_few_bytes_that_claim_a_large_image_are_refused_in_bounded_memory(name):
    assert not is_image(LARGE[name], more=GIB // 4)
