"""Two holders, crashes and replaced files: the ledger never lacks a charge that returned."""

import contextlib
import itertools
import multiprocessing
import os

import pytest

from privimage.errors import RunFolderError
from privimage.files.swapped_file import SwappedFile
from privimage.privacy.accounting import Mechanism
from privimage.privacy.ledger import PrivacyLedger
from tests.ledgers import ledger_terms
from tests.privacy.held_ledgers import (
    STEPS,
    at_call,
    names,
    new_ledger,
    num_calls,
    opened,
    said,
    stopped_between_claim_and_rename,
)

CONTEXT = multiprocessing.get_context("forkserver")


@pytest.fixture
def path(tmp_path):
    return new_ledger(tmp_path)


class Charges:
    """Charges and counts those that returned; a refusal ends them."""

    def __init__(self):
        self.returned = 0

    def of(self, ledger, times=1):
        with contextlib.suppress(RunFolderError):
            for _ in range(times):
                ledger.charge("steps")
                self.returned += 1


def test_of_two_holders_the_second_ends_in_an_error_and_no_charge_is_lost(path):
    one, two = opened(path), opened(path)
    one.charge("steps")
    for _ in range(2):
        with pytest.raises(RunFolderError, match="another process uses it"):
            two.charge("steps")
    one.charge("steps", 3)
    assert said(path) == opened(path).charged("steps") == one.charged("steps") == 5
    assert two.charged("steps") == 1
    assert names(path) == ["ledger.json"]


def test_a_second_holder_can_reserve_nothing_either(path):
    one, two = opened(path), opened(path)
    one.reserve("more", Mechanism(50.0, 0.01, 1))
    with pytest.raises(RunFolderError, match="another process uses it"):
        two.reserve("others", Mechanism(50.0, 0.01, 1))
    assert set(opened(path).reserved) == {"steps", "more"}


def test_of_two_that_create_a_ledger_at_once_one_has_it(tmp_path):
    path = tmp_path / "ledger.json"

    def other():
        ledgers.append(PrivacyLedger.load_or_create(path, ledger_terms()))
        ledgers[-1].reserve("steps", STEPS)
        ledgers[-1].charge("steps")

    for number in itertools.count():
        for after in (False, True):
            ledgers, count = [], 1
            with at_call(number, other, after=after), contextlib.suppress(RunFolderError):
                mine = PrivacyLedger.load_or_create(path, ledger_terms())
                mine.reserve("steps", STEPS)
                mine.charge("steps")
                count += 1
            if not ledgers:
                return
            assert said(path) >= count - 1
            path.unlink()


def test_whatever_another_holder_does_between_two_steps_no_charge_is_lost(path, monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)  # order is what is looked at here
    for number, after in itertools.product(range(num_calls(path) + 1), (False, True)):
        for fresh, times in itertools.product((False, True), (1, 2, 3)):
            before, charges = said(path), Charges()
            mine, other = opened(path), opened(path)

            def others(times=times, other=other, fresh=fresh, charges=charges):
                charges.of(opened(path) if fresh else other, times)

            with at_call(number, others, after=after):
                charges.of(mine)
            charges.of(mine)
            charges.of(other)
            assert before + charges.returned <= said(path) <= before + charges.returned + 2
            assert opened(path).charged("steps") == said(path)
            assert names(path) == ["ledger.json"]


def test_whatever_a_third_holder_does_between_two_steps_of_the_second_no_charge_is_lost(
    path, monkeypatch
):
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    steps = num_calls(path)
    for number, inner, fresh in itertools.product(range(steps), range(steps), (False, True)):
        start = said(path)
        if start > 900:
            break
        charges = Charges()
        mine, other, third = (opened(path) for _ in range(3))

        def others(other=other, third=third, inner=inner, fresh=fresh, charges=charges):
            def thirds():
                charges.of(opened(path) if fresh else third, 2)

            with at_call(inner, thirds):
                charges.of(other)

        with at_call(number, others):
            charges.of(mine)
        assert start + charges.returned <= said(path)
        assert opened(path).charged("steps") == said(path)


def test_opening_clears_no_claim_away_that_is_under_way(path):
    for number, after in itertools.product(range(6), (False, True)):
        now = None

        def others():
            nonlocal now
            opened(path).charge("steps")
            stopped_between_claim_and_rename(path)
            now = said(path)

        with at_call(number, others, after=after):
            opened(path)
        if now is not None:  # it is still there, or was completed
            assert said(path) == now + 1 or any("after" in name for name in names(path))
            assert opened(path).charged("steps") == now + 1


def race(path, barrier, results):
    """Charge until 100 have returned, and open the ledger again after each refusal."""
    returned = refused = 0
    barrier.wait()
    ledger = opened(path)
    while returned < 100:
        try:
            ledger.charge("steps")
            returned += 1
        except RunFolderError:
            refused += 1
            ledger = opened(path)
    results.put((returned, refused))


def race_once(path, barrier, results):
    """Charge until a refusal, or 100 times."""
    ledger, returned = opened(path), 0
    barrier.wait()
    with contextlib.suppress(RunFolderError):
        while returned < 100:
            ledger.charge("steps")
            returned += 1
    results.put((returned, int(returned < 100)))


@pytest.mark.parametrize("racer", [race, race_once])
def test_of_processes_that_race_no_charge_is_lost(path, racer):
    barrier, results = CONTEXT.Barrier(2), CONTEXT.Queue()
    racers = [CONTEXT.Process(target=racer, args=(path, barrier, results)) for _ in range(2)]
    for each in racers:
        each.start()
    found = [results.get(timeout=120) for _ in racers]
    for each in racers:
        each.join()
    returned, refused = (sum(values) for values in zip(*found, strict=True))
    assert 1 + returned <= said(path) <= 1 + returned + refused
    assert opened(path).charged("steps") == said(path)
    assert returned >= 100
    if racer is race_once:
        assert refused >= 1  # two that held one ledger did not both go on


def test_a_file_that_is_replaced_while_a_process_runs_is_noticed_and_left_alone(path):
    ledger, older = opened(path), path.read_bytes()
    ledger.charge("steps")
    newest = path.read_bytes()
    for content in (older, b"", newest.replace(b"50.0", b"51.0")):
        path.write_bytes(content)
        with pytest.raises(RunFolderError, match="put the newest copy back"):
            ledger.charge("steps")
        assert path.read_bytes() == content
    path.unlink()
    with pytest.raises(RunFolderError, match="is gone"):
        ledger.charge("steps")
    assert names(path) == []
    path.write_bytes(newest)
    ledger.charge("steps")
    assert said(path) == 3


def test_an_older_copy_that_is_put_back_in_the_midst_of_a_charge_is_noticed(path):
    older = path.read_bytes()
    ledger = opened(path)
    ledger.charge("steps")
    for number, after in itertools.product(range(num_calls(path)), (False, True)):
        ledger, newest = opened(path), path.read_bytes()

        def restore():
            path.write_bytes(older)

        before, returned = said(path), 0
        with at_call(number, restore, after=after), contextlib.suppress(RunFolderError):
            ledger.charge("steps")
            returned = 1
        if said(path) < before + returned:  # it came too late to be seen by this one
            with pytest.raises(RunFolderError, match="newest copy"):
                ledger.charge("steps")
        path.write_bytes(newest)


def test_a_ledger_that_is_gone_while_a_charge_was_under_way_is_not_made_anew(path):
    claim = SwappedFile(path)._claim(path.read_bytes())
    claim.symlink_to(".ledger.json.proposal")
    path.unlink()
    with pytest.raises(RunFolderError, match="is gone"):
        PrivacyLedger.load_or_create(path, ledger_terms())
    assert not path.exists()


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("../elsewhere", "remove it"),
        ("other.json", "remove it"),
        (".ledger.json.none", "remove it"),
        (None, "is not a link"),
    ],
)
def test_a_claim_that_no_charge_made_is_a_clear_error(path, target, message):
    (path.parent.parent / "elsewhere").write_text("{}")
    claim = SwappedFile(path)._claim(path.read_bytes())
    if target:
        claim.symlink_to(target)
    else:
        claim.write_text("")
    with pytest.raises(RunFolderError, match=message):
        opened(path)
    assert said(path) == 1
    claim.unlink()
    opened(path).charge("steps")
