import pytest
import yaml

from artifact.claims.registry import claims_root, load_claims
from artifact.judging.expected import ExpectedValue, expected_path, load_expected
from privimage.errors import ConfigError

BAND = {"mean": 0.9, "low": 0.8, "high": 0.95, "source": "five runs"}
VALUE = {"metric": "metrics.cnn_accuracy", "arm": "good", "better": "higher", **BAND}


def write(claim, **changes):
    section = {"seeds": [0], "hardware": "x", "values": [], "orderings": [], "selection": []}
    document = {"claim": claim.id, "settings": {"smoke": {**section, **changes}}}
    path = expected_path(claim.id)
    path.parent.mkdir(exist_ok=True)
    path.write_text(yaml.safe_dump(document))


def test_expected_results_are_read_as_written(toy):
    write(toy, values=[VALUE])
    assert load_expected(toy)["smoke"].values == (ExpectedValue(**VALUE),)


def test_a_claim_without_expected_results_has_none(toy):
    assert load_expected(toy) == {}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"source": " "}, "source is ' '; say where"),
        ({"low": None}, "mean, low and high: give all three"),
        ({"at_most": 1.0}, "at_most goes with better: lower"),
        ({"at_least": 1.0}, "at_least goes with better: higher, and without mean"),
        ({"low": 0.92}, "not between low"),
        ({"tolerance": 0.1}, r"values\[0\].tolerance: unknown"),
        ({"arm": "bad"}, r"values\[0\]: no arm 'bad'"),
        ({"better": "bigger"}, "allowed are higher, lower, exact"),
    ],
)
def test_a_faulty_value_is_refused_with_its_path(toy, change, message):
    write(toy, values=[{**VALUE, **change}])
    with pytest.raises(ConfigError, match=message):
        load_expected(toy)


def test_a_value_without_a_source_is_refused(toy):
    write(toy, values=[{k: v for k, v in VALUE.items() if k != "source"}])
    with pytest.raises(ConfigError, match=r"settings.smoke.values\[0\].source: missing"):
        load_expected(toy)


@pytest.mark.parametrize(
    ("better", "accepted", "refused"),
    [("higher", [0.8, 0.99], [0.79]), ("lower", [0.95, 0.1], [0.96]), ("exact", [0.9], [0.7, 1])],
)
def test_a_value_better_than_the_band_is_accepted(better, accepted, refused):
    value = ExpectedValue(**{**VALUE, "better": better})
    assert all(value.accepts(number) for number in accepted)
    assert not any(value.accepts(number) for number in refused)


def test_a_bound_has_no_better_side():
    value = ExpectedValue("privacy.epsilon", "good", "lower", "promise", at_most=10.0)
    assert value.accepts(10.0)
    assert not value.accepts(10.001)
    assert not value.is_beyond(0.1)
    value = ExpectedValue(**{**VALUE, "mean": None, "low": None, "high": None, "at_least": 2.0})
    assert value.accepts(2.0)
    assert not value.accepts(1.999)
    assert not value.is_beyond(9.0)


def test_every_shipped_expected_result_can_be_read():
    for claim in load_claims(claims_root()).values():
        expected = load_expected(claim, claims_root().parent / "expected_results")
        assert set(expected) <= set(claim.settings)
