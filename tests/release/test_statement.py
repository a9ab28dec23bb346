"""The statement: figures from the ledger, words that a privacy officer can act on."""

import dataclasses
import json
import math

import pytest

from privimage.privacy.accounting import Mechanism
from privimage.privacy.ledger import PrivacyLedger
from privimage.privacy.rng import RandomSource, insecure_source, secure_source
from privimage.release.statement import (
    Circumstances,
    Release,
    largest_guess_rate,
    privacy_statement,
    statement_markdown,
)
from tests.ledgers import ledger_terms

QUERY, DP_SGD = "semantic_query", "dp_sgd"
ABOUT = Circumstances(
    releases={
        QUERY: Release("a noisy histogram", math.sqrt(5), "One image changes 5 cells by 1."),
        DP_SGD: Release("a noisy gradient", 0.001, "Each gradient is clipped.", taken=150),
    },
    files={"model.safetensors": "the weights", "stats.jsonl": "norms of noisy gradients"},
    clip_norm=0.001,
    noise_multiplicity=8,
    public_size=50_000,
    assumed=(),
    expected_batch_size=50_000 / 3,
    code={"version": "1.2.3", "sha256": "c0de"},
    evaluated_on_real_images=False,
    compared_with_real_training=False,
)


def spent_ledger(source: RandomSource, *, steps: int = 150) -> PrivacyLedger:
    ledger = PrivacyLedger.create(None, ledger_terms(epsilon=1.0, random_source=source))
    ledger.reserve(QUERY, Mechanism(484.0, 1.0, 1))
    ledger.reserve(DP_SGD, Mechanism(16.71875, 1 / 3, 150))
    ledger.charge(QUERY)
    ledger.charge(DP_SGD, steps)
    return ledger


def words(statement) -> str:
    return " ".join(statement_markdown(statement).split())


@pytest.fixture(scope="module")
def statement():
    return privacy_statement(spent_ledger(secure_source()), ABOUT)


@pytest.fixture(scope="module")
def insecure():
    source = insecure_source(0, insecure_for_reproduction=True)
    return privacy_statement(spent_ledger(source), ABOUT)


def test_figures_are_those_of_the_ledger(statement):
    assert statement["target"] == {"epsilon": 1.0, "delta": 1e-5, "accountant": "rdp"}
    # docs/method.md, 6: this setting costs .99454 by RDP and .909 by PLD
    assert statement["spent"]["epsilon_rdp"] == pytest.approx(0.99454, abs=5e-6)
    assert statement["spent"]["epsilon"] == statement["spent"]["epsilon_rdp"]
    assert statement["spent"]["epsilon_pld"] == pytest.approx(0.909, abs=5e-4)
    assert [m["charged"] for m in statement["mechanisms"]] == [1, 150]
    assert statement["mechanisms"][0]["sampling"] == "all images"
    assert "0.333333" in statement["mechanisms"][1]["sampling"]


def test_the_noise_of_a_mechanism_is_its_multiplier_times_its_sensitivity(statement):
    query, sgd = statement["mechanisms"]
    # 484 sqrt(5) votes, and 16.71875 clip norms of .001
    assert query["noise_standard_deviation"] == pytest.approx(1082.257, abs=1e-3)
    assert sgd["noise_standard_deviation"] == pytest.approx(0.01671875)


def test_statement_survives_json(statement):
    assert json.loads(json.dumps(statement, allow_nan=False)) == statement


def test_words_name_the_promise_the_unit_and_what_is_not_covered(statement):
    text = words(statement)
    for part in (
        "(0.9945, 1e-05)-differentially private",
        "one image",
        "added or removed",
        "by RDP",
        "by PLD",
        "operating system",
        "150 of 150",
        "Clip norm 0.001; 8 noise copies",
        "divided by 16666.7",
        "published size of the image set (50000)",
        "1082.26",
        "privimage 1.2.3",
        "c0de",
        "a1b2",
        *(f"`{name}`: {what}" for name, what in ABOUT.files.items()),
        *(release.what for release in ABOUT.releases.values()),
        *(release.reason for release in ABOUT.releases.values()),
        *statement["kept_back"],
        *statement["not_covered"],
        *statement["notes"],
    ):
        assert part in text
    assert "NO GUARANTEE" not in text


@pytest.mark.parametrize(
    "subject",
    [
        "Other runs on the same images",
        "Choices made by looking at the sensitive images",
        "Several images of one person",
        "images of the public set",
        "Side channels",
        "Floating point",
    ],
)
def test_what_people_take_for_granted_is_named_as_not_covered(statement, subject):
    assert sum(subject in line for line in statement["not_covered"]) == 1


def test_there_is_a_place_to_sign(statement):
    text = statement_markdown(statement)
    decision = text[text.index("## Decision") :]
    for part in ("approved", "refused", "Name", "Date", "Signature"):
        assert part in decision


def test_a_fixed_seed_withdraws_the_guarantee_in_the_first_line_and_leaves_nothing_to_sign(
    insecure,
):
    text = statement_markdown(insecure)
    assert (insecure["guarantee"], insecure["insecure"]) == (False, True)
    assert "NO GUARANTEE" in text.splitlines()[0]
    assert "differentially private" not in text
    assert "approved for release" not in text
    assert "Signature" not in text


def test_charged_steps_that_a_crash_took_away_are_told(statement):
    lossy = dict(ABOUT.releases)
    lossy[DP_SGD] = dataclasses.replace(lossy[DP_SGD], taken=147)
    ledger = spent_ledger(secure_source())
    lost = privacy_statement(ledger, dataclasses.replace(ABOUT, releases=lossy))
    assert [m.get("taken") for m in lost["mechanisms"]] == [None, 147]
    assert lost["spent"] == statement["spent"]  # they stay spent
    assert "3 of the 150 charged uses of dp_sgd were lost" in words(lost)
    assert "lost in a crash" not in words(statement)


def test_a_run_that_ended_early_states_what_was_reserved_and_not_where_it_ended(statement):
    early = []
    for steps in (7, 93):
        sgd = dataclasses.replace(ABOUT.releases[DP_SGD], taken=steps)
        about = dataclasses.replace(ABOUT, releases={**ABOUT.releases, DP_SGD: sgd})
        early.append(privacy_statement(spent_ledger(secure_source(), steps=steps), about))
    # the clock may have stopped it by the number of images drawn: nothing here may differ by it
    assert early[0] == early[1]
    assert early[0]["spent"] == statement["spent"]
    assert "up to 150" in words(early[0])
    assert "(0.9945, 1e-05)-differentially private" in words(early[0])
    assert not {"ledger.json", "stats.jsonl"} & early[0]["released"].keys()
    (added,) = set(early[0]["not_covered"]) - set(statement["not_covered"])
    assert "that number is not protected" in added
    (kept_back,) = set(early[0]["kept_back"]) - set(statement["kept_back"])
    assert "`ledger.json`" in kept_back


def test_the_rule_of_what_counts_as_spent_is_written_down(statement):
    assert "All that is reserved counts as spent, used or not" in words(statement)


def test_a_model_of_another_run_is_said_to_be_one(statement):
    texts = {}
    for entry in ("pretrained", "finetuned"):
        about = dataclasses.replace(ABOUT, taken_over=entry)
        texts[entry] = words(privacy_statement(spent_ledger(secure_source()), about))
    assert "another run" not in words(statement)
    assert "taken over from another run and is charged here as well" in texts["pretrained"]
    assert "made by another run with the same settings, whose ledger this is" in texts["finetuned"]


@pytest.mark.parametrize(
    ("setting", "part"),
    [
        ("evaluated_on_real_images", "real test images"),
        ("compared_with_real_training", "trained on the sensitive images themselves"),
    ],
)
def test_evaluation_on_real_images_is_declared(statement, setting, part):
    about = dataclasses.replace(ABOUT, **{setting: True})
    with_scores = privacy_statement(spent_ledger(secure_source()), about)
    (added,) = set(with_scores["not_covered"]) - set(statement["not_covered"])
    assert part in added


@pytest.mark.parametrize(
    ("epsilon", "delta", "rate"),
    # e^e/(1+e^e): ln 3 gives 3/4; delta adds delta/(1+e^e); a large epsilon promises nothing
    [(0.0, 0.0, 0.5), (math.log(3), 0.0, 0.75), (math.log(3), 0.1, 0.775), (1000.0, 1e-5, 1.0)],
)
def test_guess_rate_follows_from_epsilon_and_delta(epsilon, delta, rate):
    assert largest_guess_rate(epsilon=epsilon, delta=delta) == pytest.approx(rate)
