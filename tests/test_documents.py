"""Documents name files and commands that exist, in links, code spans and blocks."""

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer

import artifact.cli
import privimage.cli

ROOT = Path(__file__).parents[1]
PAGES = ["README.md", "CONTRIBUTING.md", *(f"docs/{p.name}" for p in ROOT.glob("docs/*.md"))]
FOLDERS = ("privimage", "artifact", "bench", "tests", "tools")
SOURCES = [*ROOT.glob("example*.py"), *(path for f in FOLDERS for path in (ROOT / f).rglob("*.py"))]
NAMES = {path.name for path in SOURCES}
PROGRAMS: dict[str, Any] = {
    "artifact": typer.main.get_command(artifact.cli.app),
    "privimage": typer.main.get_command(privimage.cli.app),
}
IN_THE_IMAGE = ("sh", "privimage")  # programs that its entry point runs


def prose(page: str) -> str:
    """The page without its blocks of code."""
    return re.sub(r"^ *```.*?^ *```", "", (ROOT / page).read_text(), flags=re.M | re.S)


@pytest.mark.parametrize("page", PAGES)
def test_every_relative_link_leads_to_a_file(page):
    targets = re.findall(r"\]\(([^)\s]+)\)", prose(page))
    files = [t.partition("#")[0] for t in targets if not re.match(r"\w+:|#", t)]
    assert [f for f in files if not (ROOT / page).parent.joinpath(f).exists()] == []


@pytest.mark.parametrize("page", PAGES)
def test_every_python_file_that_is_named_exists(page):
    spans = " ".join(re.findall(r"`([^`]+)`", prose(page)))
    named = re.findall(r"(?<![\w./*<{-])[\w./-]+\.py\b", spans)
    missing = [n for n in named if not ((ROOT / n).exists() if "/" in n else n in NAMES)]
    assert missing == []


def commands(page):
    """Every command line of the two programs, in words; of a code span as of a block."""
    text = (ROOT / page).read_text().replace("\\\n", " ")
    text = re.sub(r"docker run [^`\n]*? privimage ", "artifact ", text)
    spans = re.findall(
        r"`((?:artifact|privimage) [^`]+)`", re.sub(r"```.*?```", "", text, flags=re.S)
    )
    lines = re.findall(r"^(?:artifact|privimage) .*", text, re.M)
    for line in [*spans, *lines]:
        words = shlex.split(re.sub(r"[<>|;&].*", "", line), comments=True)
        yield [word for word in words if word != "..."]


@pytest.mark.parametrize("page", [*PAGES, "claims/README.md", "expected_results/README.md"])
def test_every_command_that_is_named_exists_with_its_options(page):
    for program, name, *words in commands(page):
        if name in IN_THE_IMAGE or name.startswith("--"):
            continue
        group = PROGRAMS[program]
        command = group.commands[name]
        context = command.context_class(command, info_name=name)
        _, left, _ = command.make_parser(context).parse_args(words)  # names what it does not know
        assert left == [], (program, name, words)
