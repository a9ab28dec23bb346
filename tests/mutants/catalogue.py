"""The catalogue of planted faults: what each is, and how its text gets into a copy of the code."""

from dataclasses import dataclass
from pathlib import Path

from privimage.errors import ConfigError
from privimage.files.plain_yaml import read_yaml

ROOT = Path(__file__).parents[2]
CATALOGUE = Path(__file__).with_name("catalogue.yaml")


@dataclass(frozen=True)
class Edit:
    """In `file`, the text `find` becomes `replace`."""

    file: str
    find: str
    replace: str


@dataclass(frozen=True)
class Mutant:
    """A fault; `released`: what a run gives out is not what it promises, so the claim must see it.

    `tests` are the files that are to catch it.
    """

    id: str
    what: str
    released: bool
    tests: tuple[str, ...]
    edits: tuple[Edit, ...]


def read_catalogue(path: Path = CATALOGUE) -> tuple[Mutant, ...]:
    """All mutants, in the order of the file."""
    return tuple(
        Mutant(
            **{
                **entry,
                "tests": tuple(entry["tests"]),
                "edits": tuple(Edit(**edit) for edit in entry["edits"]),
            }
        )
        for entry in read_yaml(path)
    )


def mutated_files(mutant: Mutant, root: Path = ROOT) -> dict[str, str]:
    """The changed files' new texts, by name; ConfigError for a text that is not there just once."""
    texts: dict[str, str] = {}
    for edit in mutant.edits:
        text = texts.get(edit.file) or (root / edit.file).read_text()
        if (found := text.count(edit.find)) != 1:
            raise ConfigError(
                f"mutant {mutant.id}: {edit.find!r} stands {found} times in {edit.file}; give a "
                "text that stands there once"
            )
        texts[edit.file] = text.replace(edit.find, edit.replace)
    return texts


def part_of(mutants: tuple[Mutant, ...], number: int, parts: int) -> tuple[Mutant, ...]:
    """Every mutant of a part; the parts 1 to `parts` are all mutants."""
    if not 1 <= number <= parts:
        raise ConfigError(f"part {number} of {parts}; give a number from 1 to {parts}")
    return mutants[number - 1 :: parts]
