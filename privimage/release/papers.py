"""What a run folder says of itself, read without trust, for those who check it (`verify.py`).

A folder may hold a whole run or only what was published of it. A document that is not here is
`NotHere`, which is no fault; one that contradicts another is `Broken`. Nothing private is read.
"""

import json
import math
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from privimage.errors import DataInvalidError
from privimage.files.plain_files import inside, read_bounded
from privimage.privacy.ledger import EVENT_KEYS, PrivacyLedger

LEDGER, STATEMENT = "ledger.json", "privacy_statement.json"
TERMS = ("format", "unit", "adjacency", "data_id", "random_source", "insecure")
TARGET = ("epsilon", "delta", "accountant")


class NotHere(Exception):
    """A check cannot be made, for want of a file; the message names it."""


class Broken(Exception):
    """What a check found: one or several sentences."""


def refuse(faults: list[str]) -> None:
    """Broken with all of them, if there are any."""
    if faults:
        raise Broken("; ".join(faults))


@dataclass(frozen=True)
class Papers:
    """The documents of one folder, each read when it is first asked for."""

    folder: Path

    @property
    def is_whole_run(self) -> bool:
        """Whether this is a run folder, and not what was published of one."""
        return (self.folder / "stages").is_dir()

    def path(self, name: str) -> Path:
        """Where a file lies; NotHere if it does not."""
        path = inside(self.folder, name)
        if not path.exists():
            raise NotHere(f"{name} is not here")
        return path

    def has(self, name: str) -> bool:
        return inside(self.folder, name).is_file()

    def text(self, name: str) -> str:
        return read_bounded(self.path(name)).decode(errors="replace")

    def document(self, name: str) -> dict[str, Any]:
        """A JSON object; DataInvalidError for anything else, also for numbers that are none."""
        try:
            content = read_bounded(self.path(name))
            found = json.loads(content, parse_float=_finite, parse_constant=_finite)
        except (OSError, ValueError, RecursionError) as error:
            raise DataInvalidError(f"{name} cannot be read as JSON") from error
        if not isinstance(found, dict):
            raise DataInvalidError(f"{name} is not a JSON object")
        return found

    @cached_property
    def statement(self) -> dict[str, Any]:
        return self.document(STATEMENT)

    @cached_property
    def ledger(self) -> PrivacyLedger:
        """The account, as a copy in memory; Broken if it is not one that a ledger wrote."""
        return _ledger_of(self.document(LEDGER), LEDGER)

    @cached_property
    def account(self) -> PrivacyLedger:
        """The ledger, or what the statement tells of it where it is kept back."""
        if self.has(LEDGER):
            return self.ledger
        statement = self.statement
        events = [
            {"charged": 0} | {key: told[key] for key in EVENT_KEYS if key in told}
            for told in statement["mechanisms"]
        ]
        content = {name: statement[name] for name in TERMS if name != "format"}
        content |= {name: statement["target"][name] for name in TARGET}
        return _ledger_of({"format": 1, **content, "events": events}, STATEMENT)


def _ledger_of(content: dict[str, Any], name: str) -> PrivacyLedger:
    if content.keys() != {*TERMS, *TARGET, "events"}:
        raise Broken(f"{name} has other entries than a ledger")
    if any(type(content[term]) not in (int, float) for term in ("epsilon", "delta")):
        raise Broken(f"{name} promises no numbers")
    if content["accountant"] not in ("rdp", "pld"):
        raise Broken(f"{name} names no accountant that is known")
    try:
        return PrivacyLedger.replica(content)
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise Broken(f"{name} is no privacy ledger ({error})") from error


def _finite(text: str) -> float:
    if not math.isfinite(number := float(text)):
        raise ValueError(f"{text} is no finite number")
    return number
