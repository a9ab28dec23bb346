"""The documents that go with a release, filled in from `templates/`. What they hold is public.

Into Markdown a value is put as it stands: text from outside, such as a name, needs the filter
`escaped`. Into HTML nothing is put but as text, whoever it comes from.
"""

from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from privimage.machine.terminal.plain_text import escaped, printable

TEMPLATES = Path(__file__).parent / "templates"


def filled_in(name: str, **values: Any) -> str:
    """The document with its values in place; an error where one is missing."""
    return markdown_templates(TEMPLATES).get_template(f"{name}.j2").render(values)


def markdown_templates(folder: Path) -> jinja2.Environment:
    """The templates of a folder, where a line that only steers leaves no line."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(folder),
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters |= {"escaped": escaped}
    return environment


def html_templates(folder: Path) -> jinja2.Environment:
    """The same for HTML. Every value is escaped, and characters that act become visible; the filter
    `marked` sets what stands between backticks in code type.
    """
    environment = markdown_templates(folder)
    environment.autoescape = True
    environment.finalize = _shown
    environment.filters |= {"marked": _marked}
    return environment


def _shown(value: Any) -> Any:
    """Text that Jinja escapes next, or what is escaped already."""
    return value if isinstance(value, Markup) else printable(str(value), keep="\n")


def _marked(text: str) -> Markup:
    forms = Markup("{}"), Markup("<code>{}</code>")
    parts = text.split("`")
    return Markup().join(forms[place % 2].format(_shown(p)) for place, p in enumerate(parts))
