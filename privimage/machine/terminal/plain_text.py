"""Text from outside on its way to people: a terminal, a log, a Markdown page.

Paths, names of files and classes, values of settings and messages of libraries may hold what a
terminal obeys (escape sequences, carriage returns), what turns the order of letters round, or what
a page takes for markup. Here it becomes visible text: nothing is left out, and nothing acts.
"""

import logging
import re
import sys
import traceback
import warnings
from typing import Any

# what Markdown takes for markup; an underscore between letters is none
_MARKUP = re.compile(r"[\\`*\[\]<>|~#&]|(?<![^\W_])_|_(?![^\W_])")
_LINE_MARKUP = re.compile(r"^(?:(\d+)(?=[.)](?:\s|$))|(?=[-+](?:[\s-]|$)|=))")
_format_warning = warnings.formatwarning


def printable(text: str, *, keep: str = "") -> str:
    """Characters that are no letters, signs or spaces as Python writes them, but for `keep`.

    A path whose bytes are no UTF-8 becomes one that can be printed, too.
    """
    return "".join(c if c.isprintable() or c in keep else _visible(c) for c in text)


def one_line(text: str) -> str:
    """The same with line breaks and runs of blanks as one blank, for messages of several lines."""
    return printable(" ".join(text.split()))


def escaped(text: str) -> str:
    """A name on one line, without any meaning in Markdown or HTML."""
    line = _MARKUP.sub(r"\\\g<0>", one_line(text))
    return _LINE_MARKUP.sub(r"\1\\", line)


def code_span(text: str) -> str:
    """Text in Markdown's code type, also in a table; a backtick, which would end it, is a quote."""
    return f"`{one_line(text)}`".replace("|", r"\|") if "`" not in text else escaped(text)


def say(*lines: object, stream: Any = None) -> None:
    """Print each on a line of its own, to stdout unless told otherwise."""
    for line in lines:
        print(printable(str(line)), file=stream or sys.stdout)


class PlainFormatter(logging.Formatter):
    """Log lines whose second and later lines are indented, so that no message forges another."""

    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record), keep="\n").rstrip("\n").replace("\n", "\n  ")


def plain_handler() -> logging.Handler:
    """Log lines on stderr."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(PlainFormatter(logging.BASIC_FORMAT))
    return handler


def plain_warnings() -> None:
    """From now on Python's warnings, and log lines that nobody handles, are plain as well."""
    warnings.formatwarning = lambda *args, **named: printable(
        _format_warning(*args, **named), keep="\n"
    )
    if logging.lastResort is not None:
        logging.lastResort.setFormatter(PlainFormatter())


def say_traceback() -> None:
    """That of the exception being handled, to stderr."""
    say(*traceback.format_exc().splitlines(), stream=sys.stderr)


def _visible(character: str) -> str:
    return character.encode("unicode_escape").decode()
