"""Which type faces are used: those that have every character, each with a shape of its own."""

from pathlib import Path

import pytest

from privimage.data.public.fonts import bundled_fonts, fonts_digest, usable_faces
from privimage.data.public.glyphs import CHARACTERS
from privimage.errors import DataMissingError


def bundled(name: str) -> Path:
    return next(path for path in bundled_fonts() if path.name == name)


def test_text_faces_are_kept_and_faces_of_signs_are_not():
    faces = {path.stem for path in usable_faces(None, characters=CHARACTERS)}
    assert {"DejaVuSans", "DejaVuSerif-Bold", "STIXGeneral", "cmr10", "cmtt10"} <= faces
    symbols = {"LastResortHE-Regular", "STIXSizOneSymReg", "DejaVuSansDisplay"}
    assert not faces & {*symbols, "cmsy10", "cmex10", "cmmi10"}
    assert len(faces) >= 20


def test_a_face_given_twice_is_used_once(tmp_path):
    copy = tmp_path / "zz_copy.ttf"
    copy.write_bytes(bundled("DejaVuSans.ttf").read_bytes())
    faces = usable_faces([copy, bundled("DejaVuSans.ttf")], characters=CHARACTERS)
    assert faces == [bundled("DejaVuSans.ttf")]


def test_without_any_usable_face_there_is_an_error_with_a_remedy(tmp_path):
    (tmp_path / "a.ttf").write_text("no font")
    with pytest.raises(DataMissingError, match="none of 2 font files"):
        usable_faces([tmp_path / "a.ttf", bundled("cmsy10.ttf")], characters=CHARACTERS)


def test_the_digest_follows_the_content_and_the_order_of_the_files():
    faces = [bundled("cmr10.ttf"), bundled("cmtt10.ttf")]
    assert fonts_digest(faces) == fonts_digest(list(faces))
    assert fonts_digest(faces) != fonts_digest(faces[::-1])
