"""The statement: figures from the ledger, words that a privacy officer can act on."""

import json
import math

import pytest

from privimage.privacy.accounting import Mechanism
from privimage.privacy.ledger import PrivacyLedger
from privimage.privacy.rng import RandomSource, insecure_source, secure_source
from privimage.privacy.statement import (
    largest_guess_rate,
    privacy_statement,
    statement_markdown,
)


def spent_ledger(source: RandomSource) -> PrivacyLedger:
    ledger = PrivacyLedger.create(
        None, epsilon=1.0, delta=1e-5, accountant="rdp", data_id="a1b2", random_source=source
    )
    ledger.reserve("semantic_query", Mechanism(484.0, 1.0, 1))
    ledger.reserve("dp_sgd", Mechanism(16.71875, 1 / 3, 150))
    ledger.charge("semantic_query")
    ledger.charge("dp_sgd", 150)
    return ledger


@pytest.fixture
def statement():
    ledger = spent_ledger(secure_source())
    return privacy_statement(ledger, clip_norm=0.001, evaluated_on_real_images=False)


def test_figures_are_those_of_the_ledger(statement):
    assert statement["target"] == {"epsilon": 1.0, "delta": 1e-5, "accountant": "rdp"}
    # SPEC A.6: this setting costs .99454 by RDP and .909 by PLD
    assert statement["spent"]["epsilon_rdp"] == pytest.approx(0.99454, abs=5e-6)
    assert statement["spent"]["epsilon"] == statement["spent"]["epsilon_rdp"]
    assert statement["spent"]["epsilon_pld"] == pytest.approx(0.909, abs=5e-4)
    assert [m["charged"] for m in statement["mechanisms"]] == [1, 150]
    assert statement["mechanisms"][0]["sampling"] == "all images"
    assert "0.333333" in statement["mechanisms"][1]["sampling"]


def test_statement_survives_json(statement):
    assert json.loads(json.dumps(statement, allow_nan=False)) == statement


def test_words_name_the_promise_the_unit_and_what_is_not_covered(statement):
    text = statement_markdown(statement)
    for part in (
        "(0.9945, 1e-05)-differentially private",
        "one image",
        "added or removed",
        "150 of 150",
        "0.001",
        "What is not covered",
        "a1b2",
        *statement["not_covered"],
    ):
        assert part in " ".join(text.split())
    assert "NO GUARANTEE" not in text


def test_a_fixed_seed_withdraws_the_guarantee():
    ledger = spent_ledger(insecure_source(0, insecure_for_reproduction=True))
    statement = privacy_statement(ledger, clip_norm=0.001, evaluated_on_real_images=False)
    text = statement_markdown(statement)
    assert (statement["guarantee"], statement["insecure"]) == (False, True)
    assert "NO GUARANTEE" in text
    assert "differentially private" not in text


def test_evaluation_on_real_images_is_declared(statement):
    ledger = spent_ledger(secure_source())
    with_scores = privacy_statement(ledger, clip_norm=0.001, evaluated_on_real_images=True)
    (added,) = set(with_scores["not_covered"]) - set(statement["not_covered"])
    assert "real test images" in added


@pytest.mark.parametrize(
    ("epsilon", "delta", "rate"),
    # e^e/(1+e^e): ln 3 gives 3/4; delta adds delta/(1+e^e); a large epsilon promises nothing
    [(0.0, 0.0, 0.5), (math.log(3), 0.0, 0.75), (math.log(3), 0.1, 0.775), (1000.0, 1e-5, 1.0)],
)
def test_guess_rate_follows_from_epsilon_and_delta(epsilon, delta, rate):
    assert largest_guess_rate(epsilon=epsilon, delta=delta) == pytest.approx(rate)
