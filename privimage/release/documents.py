"""The documents that go with a release, filled in from `templates/`. What they hold is public.

A value is put in as it stands: text from outside, such as a name, needs the filter `escaped`.
"""

from pathlib import Path
from typing import Any

import jinja2

from privimage.machine.terminal.plain_text import escaped

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
