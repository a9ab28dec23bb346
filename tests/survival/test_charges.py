"""A crash or a refusal of the system at any step of a charge: nothing that returned is lost."""

import contextlib
import errno
import itertools
import os

import pytest

from privimage.errors import RunFolderError
from privimage.privacy.ledger import PrivacyLedger
from tests.ledgers import ledger_terms
from tests.privacy.held_ledgers import (
    STEPS,
    crash_at,
    names,
    new_ledger,
    num_calls,
    opened,
    said,
    stopped_between_claim_and_rename,
)


@pytest.fixture
def path(tmp_path):
    return new_ledger(tmp_path)


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_a_crash_at_any_step_loses_no_charge_and_leaves_a_folder_that_goes_on(path, after):
    states = set()
    for number in range(num_calls(path)):
        ledger = opened(path)
        before = said(path)
        with crash_at(number, after=after):
            ledger.charge("steps")
        resumed = opened(path)
        assert before <= resumed.charged("steps") <= before + 1
        assert said(path) == resumed.charged("steps")
        states.add(resumed.charged("steps") - before)
        resumed.charge("steps")
        assert said(path) == resumed.charged("steps")
        # a claim is never left, at most the file that a crash took the name of away
        assert not [name for name in names(path) if "after" in name]
    assert states == {0, 1}


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_a_crash_while_a_crash_is_put_right_loses_no_charge(path, after):
    for number in itertools.count():
        stopped_between_claim_and_rename(path)
        expected = said(path) + 1
        try:
            with crash_at(number, after=after):
                opened(path)
        except pytest.fail.Exception:  # it came to its end
            break
        assert opened(path).charged("steps") == said(path) == expected
    assert number > 3


def test_a_crash_while_the_ledger_is_made_leaves_a_folder_that_goes_on(tmp_path):
    path = tmp_path / "ledger.json"
    for number in range(12):
        with contextlib.suppress(pytest.fail.Exception), crash_at(number, after=True):
            PrivacyLedger.load_or_create(path, ledger_terms())
        ledger = PrivacyLedger.load_or_create(path, ledger_terms())
        ledger.reserve("steps", STEPS)
        ledger.charge("steps")
        assert said(path) == 1
        path.unlink()


@pytest.mark.parametrize("call", ["fsync", "symlink", "replace"])
def test_what_the_system_refuses_is_a_named_error_and_the_next_to_open_goes_on(
    path, monkeypatch, call
):
    def full(*_arguments, **_settings):
        raise OSError(errno.ENOSPC, "no space left on device")

    ledger = opened(path)
    with monkeypatch.context() as patch:
        patch.setattr(os, call, full)
        with pytest.raises(RunFolderError, match="no space left on device"):
            ledger.charge("steps")
    assert ledger.charged("steps") == said(path) == 1
    opened(path).charge("steps")
    assert said(path) == (3 if call == "replace" else 2)  # what was claimed counts as spent
    assert names(path) == ["ledger.json"]
