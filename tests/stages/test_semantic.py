"""The query's stage: an answer that a crash left is used once it is paid for."""

import json

import pytest

from privimage.config import load_config
from privimage.pipeline import run_pipeline
from privimage.privacy.ledger import PrivacyLedger
from privimage.semantics.query import QUERY


def test_an_answer_that_a_crash_left_unpaid_is_paid_for_before_it_is_used(
    toy_settings, tmp_path, monkeypatch
):
    config, kept = load_config(toy_settings), tmp_path / "private" / "query_answer.json"

    def crash(ledger, name, count=1):
        assert name == QUERY
        assert kept.exists()
        raise KeyboardInterrupt

    def stop(stage, done, total):
        if stage == "pretrain":
            raise KeyboardInterrupt

    def charged():
        events = json.loads((tmp_path / "ledger.json").read_text())["events"]
        return {event["name"]: event["charged"] for event in events}[QUERY]

    with monkeypatch.context() as patch:
        patch.setattr(PrivacyLedger, "charge", crash)
        with pytest.raises(KeyboardInterrupt):
            run_pipeline(config, tmp_path)
    assert charged() == 0
    answer = json.loads(kept.read_text())["noisy_histogram"]
    with pytest.raises(KeyboardInterrupt):
        run_pipeline(config, tmp_path, progress=stop)
    assert json.loads((tmp_path / "query/answer.json").read_text())["noisy_histogram"] == answer
    assert charged() == 1
