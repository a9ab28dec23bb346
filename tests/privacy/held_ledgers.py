"""A ledger file, and charges that are interrupted, or that end, between any two of their steps."""

import contextlib
import itertools
import json
import os

import pytest

from privimage.privacy.accounting import Mechanism
from privimage.privacy.ledger import PrivacyLedger
from tests.ledgers import ledger_terms

STEPS = Mechanism(50.0, 0.01, 1000)
# what touches names or the disk on the way of a charge
CALLS = ("open", "fchmod", "fsync", "symlink", "replace", "readlink", "unlink", "close")


class Crash(BaseException):
    """The process ends here: no handler of the code may help itself by it."""


def opened(path):
    return PrivacyLedger.open(path, ledger_terms())


def said(path):
    """What the file itself says, to whoever reads it."""
    return json.loads(path.read_text())["events"][0]["charged"]


def new_ledger(folder):
    """The path of a ledger with one charge."""
    path = folder / "ledger.json"
    ledger = PrivacyLedger.create(path, ledger_terms())
    ledger.reserve("steps", STEPS)
    ledger.charge("steps")
    return path


def names(path):
    return sorted(found.name for found in path.parent.iterdir())


@contextlib.contextmanager
def at_call(number, act, *, after=False):
    """Runs `act` once, before or after call `number` of those in CALLS; gives their counter."""
    counter, is_acting = itertools.count(), False

    def watched(real):
        def call(*arguments, **settings):
            nonlocal is_acting
            is_due = not is_acting and next(counter) == number
            result = real(*arguments, **settings) if after or not is_due else None
            if is_due:
                is_acting = True
                act()
                is_acting = False
            return result if after or not is_due else real(*arguments, **settings)

        return call

    with pytest.MonkeyPatch.context() as patch:
        for name in (*CALLS, "scandir"):
            patch.setattr(os, name, watched(getattr(os, name)))
        yield counter


def num_calls(path):
    """How many calls a charge makes."""
    ledger = opened(path)
    with at_call(-1, lambda: None) as counter:
        ledger.charge("steps")
        return next(counter)


@contextlib.contextmanager
def crash_at(number, *, after):
    """Before or after call `number` all ends: nothing reaches the disk any more."""
    counter = itertools.count()

    def dying(real):
        def call(*arguments, **settings):
            here = next(counter)
            if here > number or (here == number and not after):
                raise Crash
            result = real(*arguments, **settings)
            if here == number:
                raise Crash
            return result

        return call

    with pytest.MonkeyPatch.context() as patch:
        for name in CALLS:
            patch.setattr(os, name, dying(getattr(os, name)))
        with pytest.raises(Crash):
            yield


def stopped_between_claim_and_rename(path):
    """Another holder makes its claim, and goes no further."""
    for number in itertools.count():
        before, ledger = said(path), opened(path)
        with crash_at(number, after=True):
            ledger.charge("steps")
        if said(path) == before and any("after" in name for name in names(path)):
            return
        opened(path)
