"""LaTeX for the appendix in the committee's form: its section titles, and text as TeX takes it.

`artifact.report.pages` fills `templates/appendix.tex.j2` in with the registry of claims. The form
wants its titles unchanged and in order; `title_faults` says where a text departs from them, and
needs no TeX. In a template `<< >>` gives a value, which is always made safe, and `<% %>` steers.
"""

import re
from pathlib import Path

import jinja2

# of the form for USENIX Security 2024: level, title
TITLES = (
    ("section", "Artifact Appendix"),
    ("subsection", "Abstract"),
    ("subsection", r"Description \& Requirements"),
    ("subsubsection", "Security, privacy, and ethical concerns"),
    ("subsubsection", "How to access"),
    ("subsubsection", "Hardware dependencies"),
    ("subsubsection", "Software dependencies"),
    ("subsubsection", "Benchmarks"),
    ("subsection", "Set-up"),
    ("subsubsection", "Installation"),
    ("subsubsection", "Basic Test"),
    ("subsection", "Evaluation workflow"),
    ("subsubsection", "Major Claims"),
    ("subsubsection", "Experiments"),
    ("subsection", "Notes on Reusability"),
    ("subsection", "Version"),
)
SPECIAL = {
    **{character: f"\\{character}" for character in "&%$#_{}"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "-": "-{}",  # two of them stay two
    "†": r"\dag{}",
    "★": r"$\star$",
    "ε": r"$\varepsilon$",
    "≤": r"$\leq$",
    "≥": r"$\geq$",
    "±": r"$\pm$",
    "é": r"\'e",
}


def tex(value: object) -> str:
    """The value as text of a TeX document; a character that is not known there is an error."""
    text = "".join(SPECIAL.get(character, character) for character in str(value))
    if not text.isascii():
        strange = "".join(sorted({character for character in text if not character.isascii()}))
        raise ValueError(f"no TeX is known for {strange!r} of {value!r}; add it to SPECIAL")
    return text


def lead(statement: str, most: int = 300) -> str:
    """The first sentences, as many as fit into so many characters, and always one."""
    sentences = re.split(r"(?<=[.:]) (?=[A-Z])", statement.strip())
    kept = sentences[0]
    for sentence in sentences[1:]:
        if len(kept) + 1 + len(sentence) > most:
            break
        kept += f" {sentence}"
    return re.sub(r":$", ".", kept)


def tex_templates(folder: Path) -> jinja2.Environment:
    """The templates of a folder, with delimiters that TeX does not use itself."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(folder),
        block_start_string="<%",
        block_end_string="%>",
        variable_start_string="<<",
        variable_end_string=">>",
        comment_start_string="<#",
        comment_end_string="#>",
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        undefined=jinja2.StrictUndefined,
        finalize=tex,
        autoescape=False,
    )
    environment.filters |= {"lead": lead}
    return environment


def title_faults(text: str) -> list[str]:
    """Titles of the form that are missing, too many, or not in their place."""
    found = re.findall(r"^\\((?:sub){0,2}section)\*?\{(.*)\}$", text, re.M)
    faults = [f"missing: {title}" for level, title in TITLES if (level, title) not in found]
    faults += [
        f"not of the form: {title}" for level, title in found if (level, title) not in TITLES
    ]
    return faults or ([] if found == [*TITLES] else ["not in the order of the form"])
