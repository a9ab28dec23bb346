"""The little Markdown that privacy statements are written in, as blocks that a template can show.

Headings, paragraphs, lists and tables; text stays text, so a template escapes it as any other.
"""

import re
from dataclasses import dataclass, field

PIPE = re.compile(r"(?<!\\)\|")
MARKS = re.compile(r"\\([!-/:-@\[-`{-~])|\*\*|`")  # an escaped sign, or a mark


@dataclass
class Block:
    """`kind` is heading, paragraph, list or table; a table's first row is its head."""

    kind: str
    lines: list[str] = field(default_factory=list)
    rows: list[list[str]] = field(default_factory=list)


def markdown_blocks(text: str) -> list[Block]:
    """Split into blocks; consecutive lines of one kind belong together."""
    blocks: list[Block] = []
    is_new = True
    for raw in text.splitlines():
        line = raw.strip()
        if not line:
            is_new = True
            continue
        kind, content = _classify(line)
        continues_item = not is_new and kind == "paragraph" and blocks[-1].kind == "list"
        if continues_item:
            blocks[-1].lines[-1] += " " + content
            continue
        is_same = bool(blocks) and blocks[-1].kind == kind and kind != "heading"
        if not is_same or (is_new and kind == "paragraph"):
            blocks.append(Block(kind))
        if kind == "table":
            cells = [_plain(cell.strip()) for cell in PIPE.split(line.strip("|"))]
            if any(cell.strip("-: ") for cell in cells):  # not the rule under the head
                blocks[-1].rows.append(cells)
        else:
            blocks[-1].lines.append(content)
        is_new = False
    return blocks


def _classify(line: str) -> tuple[str, str]:
    if line.startswith("#"):
        return "heading", _plain(line.lstrip("# "))
    if line.startswith(("- ", "* ")):
        return "list", _plain(line[2:])
    if line.startswith("|"):
        return "table", line
    return "paragraph", _plain(line)


def _plain(text: str) -> str:
    """Without marks of bold and code type; what was escaped stands for itself."""
    return MARKS.sub(lambda found: found[1] or "", text)
