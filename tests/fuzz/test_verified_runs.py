"""Runs whose documents were altered or damaged: `verify_run` gives findings, and nothing else."""

import json
import shutil

import pytest
from hypothesis import given
from hypothesis import strategies as st

from privimage.privacy import accounting, counted_again
from privimage.release.verify import verify_run
from tests.fuzz.damage import altered, damaged, examples, memory_bounded
from tests.fuzz.test_records import holding

DOCUMENTS = ("privacy_statement.json", "ledger.json", "query/answer.json", "record.json")
OTHERS = ("SHA256SUMS", "privacy_statement.md", "model_card.md", "config.yaml", "finetune.json")


@pytest.fixture(scope="module")
def folder(finished, tmp_path_factory):
    return shutil.copytree(finished / "run", tmp_path_factory.mktemp("fuzz") / "run")


@pytest.fixture(autouse=True)
def quick_counting(monkeypatch):
    """PLD and the libraries take seconds for mechanisms that nobody has seen yet."""
    monkeypatch.setattr(accounting, "_pld_epsilon", lambda mechanisms, delta: 1.0)
    for name in ("_by_opacus", "_by_dp_accounting"):
        monkeypatch.setattr(counted_again, name, lambda mechanisms, delta: 1.0)


def is_found_out(folder):
    with memory_bounded():
        checks = verify_run(folder)
    assert all(len(check.reason) < 500 for check in checks)
    return any(check.answer == "FAILED" for check in checks)


@pytest.mark.parametrize("name", DOCUMENTS)
@examples(40)
@given(data=st.data())
def test_an_altered_document_is_a_finding(folder, name, data):
    path = folder / name
    document = json.loads(path.read_text())
    change = json.dumps(data.draw(altered(document))).encode()
    with holding(path, change):
        is_found_out(folder)


@pytest.mark.parametrize("name", [*DOCUMENTS, *OTHERS])
@examples(20)
@given(data=st.data())
def test_a_damaged_document_is_a_finding(folder, name, data):
    path = folder / name
    original = path.read_bytes()
    content = data.draw(damaged(original))
    is_published = name not in ("record.json", "config.yaml")  # which no hash covers
    with holding(path, content):
        found = is_found_out(folder)
    assert found or content == original or not is_published
