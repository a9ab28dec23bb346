"""The query's stage: an answer that a crash left is used once it is paid for."""

import json

import pytest

from privimage.privacy.ledger import PrivacyLedger
from privimage.privacy.query import QUERY
from privimage.settings.config import load_config
from privimage.stages.pipeline import run_pipeline


def stop_in_pretraining(stage, done, total):
    if stage == "pretrain":
        raise KeyboardInterrupt


@pytest.fixture
def unpaid(toy_settings, tmp_path, monkeypatch):
    """A folder with an answer in `private/` that a crash left before its charge."""
    kept = tmp_path / "run" / "private" / "query_answer.json"

    def crash(ledger, name, count=1):
        assert name == QUERY
        assert kept.exists()
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(PrivacyLedger, "charge", crash)
        with pytest.raises(KeyboardInterrupt):
            run_pipeline(load_config(toy_settings), tmp_path / "run")
    assert charged(tmp_path / "run") == 0
    return tmp_path / "run"


def charged(folder):
    events = json.loads((folder / "ledger.json").read_text())["events"]
    return {event["name"]: event["charged"] for event in events}[QUERY]


def histogram(path):
    return json.loads(path.read_text())["noisy_histogram"]


def test_an_answer_that_a_crash_left_unpaid_is_paid_for_before_it_is_used(toy_settings, unpaid):
    answer = histogram(unpaid / "private" / "query_answer.json")
    with pytest.raises(KeyboardInterrupt):
        run_pipeline(load_config(toy_settings), unpaid, progress=stop_in_pretraining)
    assert histogram(unpaid / "query" / "answer.json") == answer
    assert charged(unpaid) == 1


def test_an_answer_to_another_question_is_not_used(toy_settings, unpaid):
    answer = histogram(unpaid / "private" / "query_answer.json")
    other = load_config(toy_settings, {"seed": 1})  # another query network
    with pytest.raises(KeyboardInterrupt):
        run_pipeline(other, unpaid, progress=stop_in_pretraining)
    assert histogram(unpaid / "query" / "answer.json") != answer
    assert charged(unpaid) == 1
