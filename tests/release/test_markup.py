from privimage.release.markup import Block, markdown_blocks

TEXT = """\
# Privacy statement

Unit: **one image**,
add or remove.

- covered: the `images`
  of the run
- not covered: tuning

| name | times |
|------|------:|
| query | 1 |

Next paragraph.

And another.
"""


def test_headings_paragraphs_lists_and_tables_become_blocks():
    assert markdown_blocks(TEXT) == [
        Block("heading", ["Privacy statement"]),
        Block("paragraph", ["Unit: one image,", "add or remove."]),
        Block("list", ["covered: the images of the run", "not covered: tuning"]),
        Block("table", [], [["name", "times"], ["query", "1"]]),
        Block("paragraph", ["Next paragraph."]),
        Block("paragraph", ["And another."]),
    ]


def test_what_was_escaped_stands_for_itself_and_parts_no_cell():
    text = r"""
- a \`b\` \*\*c\*\* \\

| x \| y | z |
"""
    assert markdown_blocks(text) == [
        Block("list", ["a `b` **c** \\"]),
        Block("table", [], [["x | y", "z"]]),
    ]


def test_no_text_gives_no_blocks():
    assert markdown_blocks("") == []
