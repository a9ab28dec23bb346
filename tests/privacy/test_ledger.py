"""The ledger: on the disk before use, never beyond the promise, never forgotten."""

import errno
import json

import pytest

from privimage.errors import BudgetError, ConfigError, RunFolderError
from privimage.files import durable
from privimage.privacy.accounting import Mechanism, rdp_epsilon
from privimage.privacy.ledger import PrivacyLedger
from privimage.privacy.rng import insecure_source
from tests.ledgers import ledger_terms

QUERY = Mechanism(50.0, 1.0, 1)
TRAINING = Mechanism(2.32421875, 1 / 3, 150)  # with QUERY: epsilon 9.9976 at delta 1e-5


@pytest.fixture
def path(tmp_path):
    return tmp_path / "ledger.json"


@pytest.fixture
def ledger(path):
    ledger = PrivacyLedger.create(path, ledger_terms())
    ledger.reserve("query", QUERY)
    ledger.reserve("training", TRAINING)
    return ledger


def test_every_change_is_on_the_disk_when_the_call_returns(ledger, path):
    def events():
        return {
            e["name"]: (e["reserved"], e["charged"]) for e in json.loads(path.read_text())["events"]
        }

    assert events() == {"query": (1, 0), "training": (150, 0)}
    ledger.charge("query")
    ledger.charge("training", 3)
    assert events() == {"query": (1, 1), "training": (150, 3)}


@pytest.mark.parametrize("multiplier", [2.0**-11, 2.0**19])
def test_noise_that_cannot_be_drawn_is_refused_before_anything_is_reserved(path, multiplier):
    ledger = PrivacyLedger.create(path, ledger_terms(epsilon=1e12))
    with pytest.raises(ConfigError, match="noise can be drawn for"):
        ledger.reserve("training", Mechanism(multiplier, 0.5, 3))
    assert ledger.reserved == {}


def test_a_charge_is_flushed_renamed_and_its_folder_flushed(ledger, path, monkeypatch):
    calls = []
    for name in ("fsync", "replace"):
        real = getattr(durable.os, name)
        monkeypatch.setattr(
            durable.os, name, lambda *a, name=name, real=real: (calls.append(name), real(*a))[1]
        )
    ledger.charge("query")
    assert calls == ["fsync", "replace", "fsync"]
    assert [p.name for p in path.parent.iterdir()] == ["ledger.json"]


def test_a_charge_that_cannot_be_written_is_not_made(ledger, path, monkeypatch):
    def full(*_args, **_kwargs):
        raise OSError(errno.ENOSPC, "no space")

    before = path.read_text()
    monkeypatch.setattr(durable.os, "fsync", full)
    with pytest.raises(RunFolderError, match="no space"):
        ledger.charge("query")
    assert ledger.charged("query") == 0
    assert path.read_text() == before


def test_nothing_is_reserved_or_charged_once_the_lock_is_lost(ledger, path):
    def lost():
        raise RunFolderError("the lock is gone")

    before = path.read_text()
    ledger.check_before_each_change(lost)
    with pytest.raises(RunFolderError, match="the lock is gone"):
        ledger.charge("query")
    with pytest.raises(RunFolderError, match="the lock is gone"):
        ledger.reserve("more", Mechanism(500.0, 1.0, 1))
    assert ledger.charged("query") == 0
    assert path.read_text() == before


def test_file_says_unit_adjacency_target_and_source(path):
    PrivacyLedger.create(path, ledger_terms())
    assert json.loads(path.read_text()) == {
        "format": 1,
        "unit": "one image",
        "adjacency": "add_or_remove",
        "epsilon": 10.0,
        "delta": 1e-5,
        "accountant": "rdp",
        "data_id": "a1b2",
        "random_source": "os",
        "insecure": False,
        "events": [],
    }


def test_a_fixed_seed_marks_the_ledger(path):
    source = insecure_source(0, insecure_for_reproduction=True)
    ledger = PrivacyLedger.create(path, ledger_terms(random_source=source))
    assert ledger.to_dict()["insecure"] is True
    assert json.loads(path.read_text())["random_source"] == "seeded"


def test_reservations_beyond_the_promise_are_refused_and_change_nothing(path):
    # 9.9976 with the query of multiplier 50; one of multiplier 5 costs more than the rest
    ledger = PrivacyLedger.create(path, ledger_terms())
    ledger.reserve("training", TRAINING)
    before = path.read_text()
    with pytest.raises(BudgetError, match=r"query .*10 is promised"):
        ledger.reserve("query", Mechanism(5.0, 1.0, 1))
    assert list(ledger.reserved) == ["training"]
    assert path.read_text() == before


def test_all_reservations_count_not_only_what_has_been_charged(path):
    ledger = PrivacyLedger.create(path, ledger_terms(epsilon=15.0))
    ledger.reserve("training", TRAINING)
    assert ledger.epsilon("rdp") == 0.0
    with pytest.raises(BudgetError):
        ledger.reserve("training again", TRAINING)


def test_the_accountant_of_the_ledger_decides(tmp_path):
    # the same mechanisms cost 9.9976 by RDP and about 9.24 by PLD (docs/method.md, 6)
    by_pld = PrivacyLedger.create(
        tmp_path / "pld.json", ledger_terms(epsilon=9.5, accountant="pld")
    )
    by_pld.reserve("training", TRAINING)
    by_rdp = PrivacyLedger.create(tmp_path / "rdp.json", ledger_terms(epsilon=9.5))
    with pytest.raises(BudgetError):
        by_rdp.reserve("training", TRAINING)


def test_reserving_the_same_again_changes_nothing(ledger):
    ledger.charge("training", 5)
    before = ledger.to_dict()
    ledger.reserve("training", TRAINING)
    assert ledger.to_dict() == before


def test_reserving_a_name_for_another_mechanism_is_refused(ledger):
    with pytest.raises(RunFolderError, match="training is reserved as"):
        ledger.reserve("training", Mechanism(3.0, 1 / 3, 150))


def test_charges_beyond_the_reservation_are_refused(ledger):
    ledger.charge("query")
    with pytest.raises(BudgetError, match="query has 1 of 1"):
        ledger.charge("query")
    ledger.charge("training", 149)
    with pytest.raises(BudgetError, match="training has 149 of 150"):
        ledger.charge("training", 2)
    assert (ledger.charged("query"), ledger.charged("training")) == (1, 149)


def test_charges_without_a_reservation_or_backwards_are_refused(ledger):
    with pytest.raises(BudgetError, match="nothing is reserved for 'other'"):
        ledger.charge("other")
    for count in (0, -1):
        with pytest.raises(BudgetError, match="at least 1"):
            ledger.charge("training", count)


def test_epsilon_is_that_of_what_was_charged(ledger):
    assert ledger.mechanisms() == ()
    assert ledger.epsilon("rdp") == ledger.epsilon("pld") == 0.0
    ledger.charge("query")
    assert ledger.epsilon("rdp") == pytest.approx(0.0657, abs=5e-5)  # docs/method.md, 2
    assert ledger.epsilon("pld") == pytest.approx(0.0586, abs=5e-5)
    ledger.charge("training", 30)
    charged = (QUERY, Mechanism(2.32421875, 1 / 3, 30))
    assert ledger.mechanisms() == charged
    assert ledger.epsilon("rdp") == rdp_epsilon(charged, delta=1e-5)
    ledger.charge("training", 120)
    assert ledger.epsilon("rdp") == pytest.approx(9.9976, abs=5e-5)  # docs/method.md, 6


def test_the_reserved_epsilon_does_not_hang_on_how_much_was_charged(ledger):
    for _ in range(3):
        assert ledger.reserved_epsilon("rdp") == rdp_epsilon((QUERY, TRAINING), delta=1e-5)
        ledger.charge("training", 50)
    ledger.charge("query")
    assert ledger.reserved_epsilon("rdp") == ledger.epsilon("rdp")
    assert ledger.reserved_epsilon("pld") == ledger.epsilon("pld")


def test_another_process_continues_where_the_last_one_stopped(ledger, path):
    ledger.charge("query")
    ledger.charge("training", 7)
    resumed = PrivacyLedger.load_or_create(path, ledger_terms())
    assert resumed.to_dict() == ledger.to_dict()
    assert resumed.reserved == {"query": QUERY, "training": TRAINING}
    resumed.charge("training", 143)
    with pytest.raises(BudgetError):
        PrivacyLedger.open(path, ledger_terms()).charge("training")


@pytest.mark.parametrize(
    "change",
    [
        {"epsilon": 11.0},
        {"delta": 1e-6},
        {"accountant": "pld"},
        {"data_id": "ffff"},
        {"random_source": insecure_source(0, insecure_for_reproduction=True)},
    ],
    ids=lambda change: next(iter(change)),
)
def test_a_ledger_of_another_promise_or_image_set_is_refused(ledger, path, change):
    before = path.read_text()
    with pytest.raises(RunFolderError, match=f"has {next(iter(change))}"):
        PrivacyLedger.load_or_create(path, ledger_terms(**change))
    assert path.read_text() == before


def test_an_existing_ledger_is_never_replaced(ledger, path):
    with pytest.raises(RunFolderError, match="exists already"):
        PrivacyLedger.create(path, ledger_terms())


@pytest.mark.parametrize(
    "content",
    ["", "{", "[]", "{}", '{"events": [{}]}', '{"events": [{"name": "q", "charged": 0, '
     '"noise_multiplier": -1.0, "sampling_rate": 1.0, "reserved": 1}]}'],
)  # fmt: skip
def test_a_damaged_ledger_is_an_error_and_not_a_new_budget(path, content):
    path.write_text(content)
    with pytest.raises(RunFolderError, match="privacy ledger"):
        PrivacyLedger.load_or_create(path, ledger_terms())
    assert path.read_text() == content


def test_opening_a_ledger_that_is_not_there_is_an_error(path):
    with pytest.raises(RunFolderError, match="privacy ledger"):
        PrivacyLedger.open(path, ledger_terms())


def test_a_ledger_without_a_path_lives_in_memory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ledger = PrivacyLedger.load_or_create(None, ledger_terms())
    ledger.reserve("query", QUERY)
    ledger.charge("query")
    assert ledger.charged("query") == 1
    assert ledger.charged("training") == 0
    assert list(tmp_path.iterdir()) == []
