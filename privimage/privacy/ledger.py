"""The privacy ledger: what a run has promised, reserved and spent, on the disk before any private
output is used.

Every access to the sensitive images goes through here: `reserve` sets budget aside for a mechanism,
`charge` records each use of it. A reported epsilon comes from this file alone. Unit: one image;
adjacency: add or remove one image. Nothing in it is private: counts of mechanism uses, noise
multipliers, and a keyed hash that names the image set. Each change is a compare-and-swap of the
file (`swapped_file.py` has the argument): of two holders one ends in an error, and the file never
says less than what was charged.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from privimage.errors import BudgetError, ConfigError, RunFolderError
from privimage.files.durable import json_bytes
from privimage.files.swapped_file import SwappedFile
from privimage.privacy.accounting import Accountant, Mechanism, compute_epsilon
from privimage.privacy.rng import RandomSource

FORMAT = 1
# what the grid of the noise can hold (docs/noise.md): refused before any work
SMALLEST_MULTIPLIER, LARGEST_MULTIPLIER = 2.0**-10, 2.0**18
UNIT = "one image"
ADJACENCY = "add_or_remove"
EVENT_KEYS = {"name", "noise_multiplier", "sampling_rate", "reserved", "charged"}


@dataclass(frozen=True, kw_only=True)
class LedgerTerms:
    """What a ledger promises, for which images, with which randomness: the same all its life."""

    epsilon: float
    delta: float
    accountant: Accountant
    data_id: str
    random_source: RandomSource

    def to_dict(self) -> dict[str, Any]:
        """As they stand in the file."""
        return {
            "format": FORMAT,
            "unit": UNIT,
            "adjacency": ADJACENCY,
            "epsilon": self.epsilon,
            "delta": self.delta,
            "accountant": self.accountant,
            "data_id": self.data_id,
            "random_source": self.random_source.name,
            "insecure": self.random_source.insecure,
        }


@dataclass(frozen=True)
class _Entry:
    mechanism: Mechanism  # its count is what is reserved
    charged: int


class PrivacyLedger:
    """One promise (epsilon, delta) and everything charged against it; `path` None keeps it in
    memory.

    One process at a time may use a ledger file: the caller holds the run folder's lock. A second
    holder, or a file that was replaced meanwhile, is a RunFolderError at the next change.
    """

    def __init__(
        self,
        path: Path | None,
        terms: dict[str, Any],
        entries: dict[str, _Entry],
        *,
        content: bytes | None = None,
    ):
        self._file = None if path is None else SwappedFile(path)
        self._content = content  # of the file, as it was left or found
        self._terms = terms
        self._entries = entries
        self._check: Callable[[], None] = lambda: None

    @staticmethod
    def create(path: Path | None, terms: LedgerTerms) -> "PrivacyLedger":
        """A new ledger, written at once. An existing file is never replaced: that would forget
        what was spent.
        """
        if path is not None and SwappedFile(path).settle() is not None:
            raise RunFolderError(f"{path} exists already; open it, or use a new run folder")
        ledger = PrivacyLedger(path, terms.to_dict(), {})
        ledger._commit({})
        return ledger

    @staticmethod
    def open(path: Path, terms: LedgerTerms) -> "PrivacyLedger":
        """The ledger of an earlier process; RunFolderError unless target, images and source are
        the same.
        """
        content = SwappedFile(path).settle()
        found, entries = _parsed(path, content)
        for name, value in {**dict.fromkeys(found), **terms.to_dict()}.items():
            if name not in found or found[name] != value:
                raise RunFolderError(
                    f"{path} has {name} {found.get(name)!r}, and this run {value!r}; "
                    "continue with the settings and images of that run, or use a new run folder"
                )
        return PrivacyLedger(path, found, entries, content=content)

    @staticmethod
    def load_or_create(path: Path | None, terms: LedgerTerms) -> "PrivacyLedger":
        """`open` if the file is there, else `create`."""
        if path is None or SwappedFile(path).settle() is None:
            return PrivacyLedger.create(path, terms)
        return PrivacyLedger.open(path, terms)

    @staticmethod
    def replica(content: dict[str, Any]) -> "PrivacyLedger":
        """A copy in memory of what `to_dict` gave, for a process that may read but not spend."""
        terms = dict(content)
        return PrivacyLedger(None, terms, _entries(terms.pop("events")))

    def check_before_each_change(self, check: Callable[[], None]) -> None:
        """`check` is called before anything is reserved or charged, and may raise: a lock's."""
        self._check = check

    @property
    def reserved(self) -> dict[str, Mechanism]:
        """What has been set aside, by name; a mechanism's count is the number of uses allowed."""
        return {name: entry.mechanism for name, entry in self._entries.items()}

    def reserve(self, name: str, mechanism: Mechanism) -> None:
        """Set budget aside; BudgetError if all reservations together would exceed the promise.

        The same name and mechanism again change nothing; the same name with another one is a
        RunFolderError.
        """
        if name in self._entries:
            if self._entries[name].mechanism == mechanism:
                return
            raise RunFolderError(
                f"{name} is reserved as {self.reserved[name]}, not {mechanism}; "
                "continue with the settings of that run, or use a new run folder"
            )
        if not SMALLEST_MULTIPLIER <= mechanism.noise_multiplier <= LARGEST_MULTIPLIER:
            raise ConfigError(
                f"{name} has noise multiplier {mechanism.noise_multiplier:g}; noise can be drawn "
                f"for {SMALLEST_MULTIPLIER:g} to {LARGEST_MULTIPLIER:g}: change epsilon or the "
                "query's noise multiplier"
            )
        terms, wanted = self._terms, (*self.reserved.values(), mechanism)
        total = compute_epsilon(wanted, delta=terms["delta"], accountant=terms["accountant"])
        if not total <= terms["epsilon"]:
            raise BudgetError(
                f"{name} would make a total epsilon of {total:.5g} (delta {terms['delta']:g}), "
                f"and {terms['epsilon']:g} is promised; use more noise, fewer steps or more epsilon"
            )
        self._commit({**self._entries, name: _Entry(mechanism, charged=0)})

    def charge(self, name: str, count: int = 1) -> None:
        """Record `count` uses of a reservation. When this returns they are on the disk; only
        then use the output.
        """
        self.check_charge(name, count)
        entry = self._entries[name]
        self._commit({**self._entries, name: replace(entry, charged=entry.charged + count)})

    def check_charge(self, name: str, count: int = 1) -> None:
        """BudgetError if `charge` would be refused; records nothing."""
        if name not in self._entries:
            raise BudgetError(
                f"nothing is reserved for {name!r}, only for {list(self._entries)}; reserve first"
            )
        if count < 1:
            raise BudgetError(f"a charge of {count} for {name!r}; give a count of at least 1")
        entry = self._entries[name]
        if entry.charged + count > entry.mechanism.count:
            raise BudgetError(
                f"{name} has {entry.charged} of {entry.mechanism.count} reserved uses charged, and "
                f"{count} more are too many; start a new run folder with its own budget"
            )

    def charged(self, name: str) -> int:
        """How many uses of `name` have been charged; 0 if it is not even reserved."""
        return self._entries[name].charged if name in self._entries else 0

    def mechanisms(self) -> tuple[Mechanism, ...]:
        """What has really been charged, for an accountant."""
        entries = self._entries.values()
        return tuple(replace(e.mechanism, count=e.charged) for e in entries if e.charged)

    def epsilon(self, accountant: Accountant) -> float:
        """Epsilon of what has been charged so far, at the ledger's delta.

        Not for a promise: the number of steps charged may depend on run times, and these on the
        images.
        """
        return compute_epsilon(self.mechanisms(), delta=self._terms["delta"], accountant=accountant)

    def reserved_epsilon(self, accountant: Accountant) -> float:
        """Epsilon of all that is reserved, charged or not: the figure to promise. It was fixed
        before the images were looked at, and bounds a run that ends at any step.
        """
        reserved = tuple(self.reserved.values())
        return compute_epsilon(reserved, delta=self._terms["delta"], accountant=accountant)

    def to_dict(self) -> dict[str, Any]:
        """The whole ledger as JSON-able values: what is in the file."""
        return _to_dict(self._terms, self._entries)

    def _commit(self, entries: dict[str, _Entry]) -> None:
        if self._file is not None:
            self._check()
            content = json_bytes(_to_dict(self._terms, entries))
            self._file.swap(self._content, content)
            self._content = content
        self._entries = entries


def charge_answer(ledger: PrivacyLedger, name: str) -> None:
    """Charge the answer to a query before it is used, unless it has been charged already: one that
    an interrupted process kept, or one that another run gave.
    """
    if not ledger.charged(name):
        ledger.charge(name)


def _to_dict(terms: dict[str, Any], entries: dict[str, _Entry]) -> dict[str, Any]:
    events = [
        {
            "name": name,
            "noise_multiplier": entry.mechanism.noise_multiplier,
            "sampling_rate": entry.mechanism.sampling_rate,
            "reserved": entry.mechanism.count,
            "charged": entry.charged,
        }
        for name, entry in entries.items()
    ]
    return {**terms, "events": events}


def _entries(events: list[dict[str, Any]]) -> dict[str, _Entry]:
    """The entries of a file; ValueError for what no ledger writes."""
    if not isinstance(events, list):
        raise ValueError("its events are not a list")
    entries: dict[str, _Entry] = {}
    for event in events:
        mechanism = Mechanism(event["noise_multiplier"], event["sampling_rate"], event["reserved"])
        name, charged = event["name"], event["charged"]
        whole = type(charged) is type(mechanism.count) is int
        if not isinstance(name, str) or name in entries or event.keys() != EVENT_KEYS:
            raise ValueError("an event is there twice, or has other entries")
        if not (whole and 0 <= charged <= mechanism.count):
            raise ValueError("an event is charged otherwise than it was reserved")
        entries[name] = _Entry(mechanism, charged=charged)
    return entries


def _parsed(path: Path, content: bytes | None) -> tuple[dict[str, Any], dict[str, _Entry]]:
    try:
        if content is None:
            raise FileNotFoundError
        terms = json.loads(content)
        entries = _entries(terms.pop("events"))
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise RunFolderError(
            f"{path} cannot be read as a privacy ledger ({type(error).__name__}); restore it "
            "from a copy, or count its budget as spent and use a new run folder"
        ) from error
    return terms, entries
