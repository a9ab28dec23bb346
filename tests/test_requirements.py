"""Every package is one file, known by its hash, and none is missing or too many."""

import re
from importlib.metadata import requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
FILES = ("requirements.txt", "requirements-dev.txt")


def blocks(name):
    """(Pin, its hashes) of each entry."""
    text = "".join(
        line for line in (ROOT / name).read_text().splitlines(True) if not line.startswith("#")
    )
    for entry in text.replace("\\\n", "").splitlines():
        pin, *hashes = entry.split("--hash=")
        yield Requirement(pin.strip()), [digest.strip() for digest in hashes]


def pinned_here(*names):
    pins = [pin for name in names for pin, _ in blocks(name)]
    return {
        canonicalize_name(pin.name) for pin in pins if pin.marker is None or pin.marker.evaluate()
    }


def closure(wanted):
    """Names of all that a requirement brings with it, by what is installed."""
    seen: set[tuple[str, frozenset[str]]] = set()
    left = [Requirement(wanted)]
    while left:
        one = left.pop()
        key = (canonicalize_name(one.name), frozenset(one.extras))
        if key in seen:
            continue
        seen.add(key)
        extras = [{"extra": extra} for extra in (*one.extras, "")]
        for other in map(Requirement, requires(one.name) or ()):
            if other.marker is None or any(other.marker.evaluate(extra) for extra in extras):
                left.append(other)
    return {name for name, _ in seen} - {"privimage"}


@pytest.mark.parametrize("name", FILES)
def test_every_package_has_one_version_and_its_hashes(name):
    for pin, hashes in blocks(name):
        assert re.fullmatch(r"==[\w.]+", str(pin.specifier)), pin
        assert hashes, pin
        assert all(re.fullmatch(r"sha256:[0-9a-f]{64}", digest) for digest in hashes)
        assert pin.url is None


@pytest.mark.parametrize("name", FILES)
def test_the_pins_name_no_place_that_files_come_from(name):
    assert "://" not in (ROOT / name).read_text()
    options = [line for line in (ROOT / name).read_text().splitlines() if line.startswith("-")]
    assert options == []


def test_what_the_project_needs_to_run_is_pinned_and_nothing_else():
    assert pinned_here("requirements.txt") == closure("privimage")


def test_the_tools_are_pinned_and_nothing_else():
    assert pinned_here(*FILES) == closure("privimage[dev]")


def test_both_ways_to_install_take_the_files_of_these_hashes_and_no_others():
    setup = (ROOT / "Makefile").read_text().split("\n.venv/.installed:")[1].split("\n\n")[0]
    assert (
        "--require-hashes --only-binary :all: -r requirements.txt -r requirements-dev.txt" in setup
    )
    assert "--no-deps --no-build-isolation --editable ." in setup  # setuptools is that of the pins
    assert setup.count("pip install") == 2
    image = (ROOT / "Dockerfile").read_text()
    installs = re.findall(r"pip --python \S+ install (.*?)(?=\nRUN|\n#|&&|\|\|)", image, re.S)
    torch, hashed = (" ".join(words.replace("\\\n", "").split()) for words in installs)
    assert torch.endswith('--index-url "$CPU_INDEX" --requirement torch.txt')  # of CPU images alone
    assert hashed.endswith("--only-binary :all: --require-hashes --requirement hashed.txt")


def test_every_supported_python_has_hashes_of_compiled_packages():
    # numpy has a wheel for each Python and each of two processors
    counts = [len(hashes) for pin, hashes in blocks("requirements.txt") if pin.name == "numpy"]
    assert counts == [2, 4]
