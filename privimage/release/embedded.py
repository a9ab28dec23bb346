"""Pictures inside of a page, as data URIs, so that it is one file."""

import base64
from pathlib import Path

from privimage.files.plain_files import read_bounded

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"


def png_uri(path: Path) -> str | None:
    """The PNG file as a data URI, or None if it is not there or is not a PNG."""
    try:
        content = read_bounded(path)
    except OSError:
        return None
    return data_uri(content) if content.startswith(PNG_SIGNATURE) else None


def data_uri(png: bytes) -> str:
    """A PNG as the address that shows it."""
    return "data:image/png;base64," + base64.b64encode(png).decode()
