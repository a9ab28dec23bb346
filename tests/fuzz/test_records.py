"""Records, manifests and ledgers that were altered or damaged: only named errors, nothing lost."""

import json
from contextlib import contextmanager, suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from artifact.claims.records import ClaimRecord, RecordError, read_record, write_record
from privimage.errors import RunFolderError, UserError
from privimage.files.durable import write_durably, write_json_durably
from privimage.privacy.accounting import Mechanism
from privimage.privacy.ledger import PrivacyLedger
from privimage.run_folder import manifest
from privimage.run_folder.donor import Donor
from tests.fuzz.damage import altered, attempt, damaged, examples, junk
from tests.ledgers import ledger_terms

INPUTS = {"network": {"widths": [8]}, "seed": 0}
QUERY, STEPS = Mechanism(484.0, 1.0, 1), Mechanism(2.4, 1 / 3, 150)


def as_json(value) -> str:
    """Also what Python writes and JSON does not know: NaN, infinities, lone surrogates."""
    return json.dumps(value)


@contextmanager
def holding(path, content: bytes):
    """The file with this content, and its own again at the end: all examples share a folder."""
    original = path.read_bytes()
    path.write_bytes(content)
    try:
        yield
    finally:
        path.write_bytes(original)


def altered_file(path, data):
    return holding(path, as_json(data.draw(altered(json.loads(path.read_text())))).encode())


def damaged_file(path, data):
    return holding(path, data.draw(damaged(path.read_bytes())))


def is_record(path) -> bool:
    found, refusal = attempt(lambda: read_record(path), RecordError)
    if refusal is not None:
        assert str(path) in refusal
        return False
    assert isinstance(found, ClaimRecord)
    write_record(path.with_name("again.json"), found)  # finite, and text that a file can hold
    assert read_record(path.with_name("again.json")) == found
    return True


@examples(200)
@given(st.data())
def test_an_altered_record_is_read_or_refused(tmp_path, record, data):
    (tmp_path / "record.json").write_text(as_json(data.draw(altered(record().to_dict()))))
    is_record(tmp_path / "record.json")


@examples(100)
@given(st.data())
def test_a_damaged_record_is_read_or_refused(tmp_path, record, data):
    content = as_json(record().to_dict()).encode()
    (tmp_path / "record.json").write_bytes(data.draw(damaged(content)))
    is_record(tmp_path / "record.json")


@examples(50)
@given(junk())
def test_no_other_json_value_is_a_record(tmp_path, value):
    (tmp_path / "record.json").write_text(as_json(value))
    assert not is_record(tmp_path / "record.json")


@pytest.mark.parametrize(
    "text", ["[" * 100_000, '{"a":' * 100_000, "1" * 5000, '{"format": 1e999}']
)
def test_json_that_is_too_deep_or_too_large_is_no_record(tmp_path, text):
    (tmp_path / "record.json").write_text(text)
    assert not is_record(tmp_path / "record.json")


@pytest.fixture
def finished(tmp_path):
    """A run folder with a finished stage, as a donor of it."""
    manifest.start(tmp_path, "query", INPUTS)
    write_durably(tmp_path / "query/answer.json", b"numbers")
    manifest.finish(
        tmp_path, "query", INPUTS, ["query/answer.json"], facts={"seconds": 1.5, "charged": 1}
    )
    return tmp_path


def checked(folder):
    """Everything that is asked of a manifest."""
    is_done = manifest.is_done(folder, "query", INPUTS)
    manifest.was_started_otherwise(folder, "query", INPUTS)
    found = manifest.read(folder, "query")
    assert found is None or isinstance(found.get("charged", 0), int)
    with suppress(UserError):
        Donor(folder, "pretrained")._check_stage("query")
    return is_done


@examples(200)
@given(st.data())
def test_an_altered_manifest_counts_as_none_or_says_what_it_says(finished, data):
    path = finished / "stages" / "query.json"
    with altered_file(path, data):
        if checked(finished):
            found = json.loads(path.read_text())
            assert (found["state"], found["inputs"]) == ("done", INPUTS)


@examples(100)
@given(st.data())
def test_a_damaged_manifest_counts_as_none_or_says_what_it_says(finished, data):
    with damaged_file(finished / "stages" / "query.json", data):
        checked(finished)


def test_a_manifest_that_is_too_deep_counts_as_none(finished):
    (finished / "stages" / "query.json").write_text("[" * 100_000)
    assert not checked(finished)


@pytest.fixture
def ledger_path(tmp_path):
    """A ledger with two reservations and a charge of each."""
    path = tmp_path / "ledger.json"
    ledger = PrivacyLedger.create(path, ledger_terms())
    for name, mechanism in (("query", QUERY), ("steps", STEPS)):
        ledger.reserve(name, mechanism)
        ledger.charge(name)
    return path


def reopened(path) -> PrivacyLedger | None:
    ledger, refusal = attempt(lambda: PrivacyLedger.open(path, ledger_terms()), RunFolderError)
    assert refusal is None or str(path) in refusal
    return ledger


def keeps_its_account(path) -> None:
    """A ledger that opens holds just what the file says, and can be written again."""
    ledger = reopened(path)
    if ledger is None:
        return
    found, said = ledger.to_dict(), json.loads(path.read_text())
    assert json.dumps(found, sort_keys=True) == json.dumps(said, sort_keys=True)
    for name, mechanism in ledger.reserved.items():
        assert type(mechanism.count) is int
        assert type(ledger.charged(name)) is int
        assert 0 <= ledger.charged(name) <= mechanism.count
    assert ledger.epsilon("rdp") >= 0
    write_json_durably(path.with_name("again.json"), ledger.to_dict())


@examples(250)
@given(st.data())
def test_an_altered_ledger_is_refused_or_keeps_its_account(ledger_path, data):
    with altered_file(ledger_path, data):
        keeps_its_account(ledger_path)


@examples(150)
@given(st.data())
def test_a_damaged_ledger_is_refused_or_keeps_its_account(ledger_path, data):
    with damaged_file(ledger_path, data):
        keeps_its_account(ledger_path)


@pytest.mark.parametrize(
    "change",
    [
        {"charged": -100},
        {"charged": 151},
        {"charged": 0.5},
        {"charged": True},
        {"charged": "1"},
        {"reserved": 150.5},
        {"reserved": 0},
        {"noise_multiplier": "2.4"},
        {"name": "query"},
        {"name": 7},
    ],
    ids=str,
)
def test_an_event_that_no_ledger_writes_is_refused(ledger_path, change):
    values = json.loads(ledger_path.read_text())
    values["events"][1] |= change
    ledger_path.write_text(as_json(values))
    assert reopened(ledger_path) is None


def test_a_ledger_that_is_too_deep_is_refused(ledger_path):
    ledger_path.write_text("[" * 100_000)
    assert reopened(ledger_path) is None
