"""Pictures for pages that must be one file: data URIs, and curves as plain SVG.

Public: pixels of released images, public losses and norms of noisy gradients.
"""

import base64
import io
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup
from PIL import Image

from privimage.files.plain_files import read_bounded

Lines = list[dict[str, Any]]
WIDTH, HEIGHT, ROOM = 320, 120, 8  # of a curve, in pixels of the page; ROOM is left above and below


def png_uri(path: Path) -> str | None:
    """The PNG file as a data URI, or None if it is not there or is not a PNG."""
    try:
        content = read_bounded(path)
    except OSError:
        return None
    if not content.startswith(b"\x89PNG\r\n\x1a\n"):
        return None
    return _uri(content)


def pixels_uri(pixels: np.ndarray) -> str:
    """One uint8 image, (channel, height, width), as the data URI of a PNG of the same size."""
    image = Image.fromarray(pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0))
    file = io.BytesIO()
    image.save(file, "PNG")
    return _uri(file.getvalue())


def read_stats(path: Path) -> Lines:
    """The lines of `stats.jsonl` that can be read; a stage that was resumed is joined up.

    A run that stopped may have reported steps that were done again: the later report counts.
    """
    lines: Lines = []
    try:
        text = read_bounded(path).decode()
    except (OSError, UnicodeDecodeError):
        return lines
    for row in text.splitlines():
        try:
            line = json.loads(row)
            stage, step = line["stage"], int(line["step"])
        except (ValueError, KeyError, TypeError):
            continue  # the last line of a run that was killed may be cut off
        lines = [old for old in lines if old["stage"] != stage or old["step"] < step]
        lines.append(line)
    return lines


def points_of(lines: Lines, stage: str, entry: str) -> list[tuple[float, float]]:
    """(step, value) of the lines of a stage that have the entry, where it is above 0."""
    found = [(line["step"], line.get(entry)) for line in lines if line["stage"] == stage]
    return [(x, y) for x, y in found if isinstance(y, (int, float)) and 0 < y < math.inf]


def curve(points: Sequence[tuple[float, float]]) -> Markup:
    """A line through (x, y) in a box, from the least to the greatest of both; "" without any."""
    if not points:
        return Markup("")
    (x0, x1), (y0, y1) = [(min(values), max(values)) for values in zip(*points, strict=True)]
    x_scale, y_scale = WIDTH / ((x1 - x0) or 1), (HEIGHT - 2 * ROOM) / ((y1 - y0) or 1)
    path = " ".join(
        f"{(x - x0) * x_scale:.1f},{HEIGHT - ROOM - (y - y0) * y_scale:.1f}" for x, y in points
    )
    return Markup(
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" preserveAspectRatio="none" aria-hidden="true">'
        f'<polyline points="{path}" /></svg>'
    )


def _uri(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode()
