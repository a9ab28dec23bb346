"""Documents name files that exist: relative links, and Python files in code spans."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = ["README.md", "CONTRIBUTING.md", *(f"docs/{p.name}" for p in ROOT.glob("docs/*.md"))]
FOLDERS = ("privimage", "artifact", "bench", "tests", "tools")
SOURCES = [*ROOT.glob("example*.py"), *(path for f in FOLDERS for path in (ROOT / f).rglob("*.py"))]
NAMES = {path.name for path in SOURCES}


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
