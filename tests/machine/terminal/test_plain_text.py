"""Text from outside reaches people as text: on a terminal, in a log, on a page."""

import ast
import logging
import warnings
from pathlib import Path

import pytest
from markdown_it import MarkdownIt

from privimage.machine.terminal.plain_text import (
    PlainFormatter,
    code_span,
    escaped,
    one_line,
    plain_warnings,
    printable,
    say,
)

ROOT = Path(__file__).parents[2]
# what a terminal obeys, what turns letters round, what is no text at all
ACTING = (
    "\x1b[2J\x1b]0;title\x07",
    "real\rfake",
    "a\b\b\bc",
    "\x9b31m",
    "one\ntwo",
    "\u202egnp.exe",
    "\u2066a\u2069",
    "a\u200bb",
    "line\u2028line",
    "\x7f\x00",
    b"\xff".decode("utf-8", "surrogateescape"),
)
PLAIN = "Ünïcode, 猫 ± 2 ★ [/x] {y} 'z' \\n"
MARKUP = (
    "<script>alert(1)</script>",
    "[a](http://b) ![c](d)",
    "a | b | c",
    "`code` **bold** *em* _em_ __bold__ ~~gone~~",
    "# head",
    "- item",
    "+ item",
    "1. item",
    "---",
    "===",
    "> quote",
    "&lt;b&gt;",
    "a\n\n# b\n\n| c |\n|---|",
    "```\nfence",
    "<!-- rest",
    "back\\slash \\",
    "snake_case_name",
)


@pytest.mark.parametrize("text", ACTING)
def test_nothing_that_a_terminal_obeys_is_left(text):
    for shown in (printable(text), one_line(text), escaped(text)):
        assert shown.isprintable()
        shown.encode()  # half characters are none of UTF-8
    assert printable(text) != text
    # letters and signs are all still there
    assert all(c in printable(text) for c in text if c.isprintable())


def test_letters_and_signs_of_any_language_stay_as_they_are():
    assert printable(PLAIN) == one_line(PLAIN) == PLAIN
    assert printable("a\nb\tc", keep="\n\t") == "a\nb\tc"


def structure(markdown):
    """What is on the page beside text, the kinds of its parts in their order; and its text."""
    page = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])
    tokens = page.parse(markdown)
    parts = [(token.type, [child.type for child in token.children or ()]) for token in tokens]
    inline = [child for token in tokens for child in token.children or ()]
    words = [word for part in inline for word in part.children or (part,)]  # of a picture, too
    return parts, "".join(word.content for word in words)


PAGES = ("# {}", "{}", "- {}", "| a | {} |\n|---|---|\n| {} | b |\n\nend", "![{}](a.png)", "x {} y")


@pytest.mark.parametrize("text", [*MARKUP, *ACTING])
@pytest.mark.parametrize("page", PAGES)
def test_a_name_on_a_page_is_text_and_nothing_else(page, text):
    parts, content = structure(page.format(*[escaped(text)] * 2))
    assert parts == structure(page.format("name", "name"))[0]
    assert one_line(text) in content


@pytest.mark.parametrize("text", [*MARKUP, *ACTING])
def test_a_code_span_holds_all_of_its_text_also_in_a_table(text):
    parts, _ = structure(f"| a |\n|---|\n| {code_span(text)} |\n")
    assert [kind for kind, _ in parts] == [kind for kind, _ in structure("|a|\n|---|\n|b|\n")[0]]
    assert "html_inline" not in str(parts)


def test_no_message_forges_a_line_of_the_log():
    message = "read \x1b[31mx\n2026-01-01 INFO privimage: guarantee holds"
    record = logging.LogRecord("privimage", logging.INFO, "f", 1, message, (), None)
    text = PlainFormatter("%(levelname)s %(name)s: %(message)s").format(record)
    first, second = text.splitlines()
    assert first == r"INFO privimage: read \x1b[31mx"
    assert second.startswith("  ")


def test_a_warning_is_plain(monkeypatch):
    monkeypatch.setattr(warnings, "formatwarning", warnings.formatwarning)
    plain_warnings()
    assert "\x1b" not in warnings.formatwarning(UserWarning("\x1b[31m"), UserWarning, "f", 1, "")


def test_what_is_said_is_a_line_each(capsys):
    say("a\x1b[0m", Path("b\nc"))
    assert capsys.readouterr().out == "a\\x1b[0m\nb\\nc\n"


# where a table, a bar or a rule is drawn, from values that went through `printable` or are our own
DRAWERS = {
    "artifact/report/display.py",
    "privimage/machine/terminal/progress.py",
    "privimage/commands/planning.py",
}
# constant words, and tools of ours that read nothing from outside
OTHERS = {
    "privimage/machine/launch.py",
    "artifact/claims/estimates.py",
    "artifact/report/pages.py",
}


def prints_of(path):
    """Calls that write to a terminal without `say`."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            named = {word.arg for word in node.keywords}
            yield from ("prints",) * (name in ("print", "sys.stdout.write", "sys.stderr.write"))
            yield from ("draws",) * (name == "Console")
            yield from ("logs",) * (name == "logging.basicConfig" and "handlers" not in named)
            yield from ("logs",) * (name == "logging.Formatter")
            yield from ("traces",) * name.startswith("traceback.print")


@pytest.mark.parametrize(
    "path",
    [p for folder in ("privimage", "artifact") for p in sorted((ROOT / folder).rglob("*.py"))],
    ids=lambda path: str(path.relative_to(ROOT)),
)
def test_all_that_is_said_goes_through_one_place(path):
    found, name = {*prints_of(path)}, str(path.relative_to(ROOT))
    allowed = {"draws"} if name in DRAWERS else {"prints"} if name in OTHERS else set()
    if name != "privimage/machine/terminal/plain_text.py":
        assert found <= allowed
