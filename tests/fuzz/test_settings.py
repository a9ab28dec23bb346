"""Settings, claims and expected results from anybody: what is wanted comes out, or ConfigError."""

import copy
import dataclasses
import json
import time

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from artifact.claims.registry import load_claim
from artifact.judging.expected import expected_path, load_expected
from privimage.errors import ConfigError
from privimage.files.plain_yaml import MAX_BYTES, parse_yaml
from privimage.settings.config import RunConfig, load_config
from tests.fuzz.damage import altered, attempt, damaged, examples, junk, memory_bounded

SECTIONS = {
    f.name: f.type for f in dataclasses.fields(RunConfig) if dataclasses.is_dataclass(f.type)
}


def loaded(source):
    """The configuration, or None for a ConfigError of one line of bounded length."""
    config, refusal = attempt(lambda: load_config(source), ConfigError)
    if refusal is not None:
        assert "\n" not in refusal
        assert len(refusal) < 20_000
        return None
    assert isinstance(config, RunConfig)
    json.dumps(config.to_dict(), allow_nan=False)  # what is accepted can be recorded
    assert load_config(config.to_dict()) == config
    return config


def keys_of(section):
    return {field.name for field in dataclasses.fields(section)}


@examples(200)
@given(st.data())
def test_altered_settings_are_a_configuration_or_one_line_of_faults(toy_mapping, data):
    values = data.draw(altered(toy_mapping))
    config = loaded(values)
    if config is not None:  # so every key was known, in each section
        assert values.keys() <= keys_of(RunConfig)
        for name, cls in SECTIONS.items():
            assert values.get(name, {}).keys() <= keys_of(cls)


@examples(100)
@given(junk(finite=True))
def test_no_other_value_in_a_file_is_a_configuration(tmp_path, value):
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(value))
    assert loaded(tmp_path / "run.yaml") is None


@examples(60)
@given(st.sampled_from(["", *SECTIONS]), st.text(min_size=1, max_size=12), junk())
def test_an_unknown_key_never_passes(toy_mapping, section, key, value):
    values = copy.deepcopy(toy_mapping)
    (values.setdefault(section, {}) if section else values)[f"{key}?"] = value
    assert loaded(values) is None


@examples(250)
@given(st.data())
def test_a_damaged_settings_file_is_read_or_refused(toy_mapping, tmp_path, data):
    text = yaml.safe_dump(toy_mapping).encode()
    (tmp_path / "run.yaml").write_bytes(data.draw(damaged(text)))
    loaded(tmp_path / "run.yaml")


TAGS = ["!!int", "!!float", "!!bool", "!!timestamp", "!!binary", "!!set", "!!omap", "!!pairs", "!x"]
WORDS = st.sampled_from(
    [*TAGS, "&a", "*a", "<<:", "? ", "- ", "{", "}", "[", "]", "2001-99-99", "0b_"]
)


@examples(250)
@given(st.lists(WORDS | st.text(max_size=3) | st.just("\n"), max_size=12))
def test_any_yaml_text_is_a_value_or_a_config_error(words):
    _, refusal = attempt(lambda: parse_yaml(" ".join(words), where="the text"), ConfigError)
    assert refusal is None or refusal.startswith("the text: is not valid YAML")


@pytest.mark.parametrize(
    "tag", ["!!python/object/apply:os.system", "!!python/object/new:os.system", "!!python/name:os"]
)
def test_a_yaml_tag_that_asks_for_code_is_refused_and_not_run(tmp_path, tag):
    trace = tmp_path / "trace"
    with pytest.raises(ConfigError, match="could not determine a constructor"):
        parse_yaml(f"name: {tag} ['touch {trace}']", where="the text")
    assert not trace.exists()


LIST_BOMB = "a0: &a0 [x, x]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 30)
)
MERGE_BOMB = "a0: &a0 {x: 1}\n" + "".join(
    f"a{i}: &a{i} {{<<: [{', '.join([f'*a{i - 1}'] * 9)}]}}\n" for i in range(1, 30)
)


@pytest.mark.parametrize(
    "text",
    [
        LIST_BOMB,
        MERGE_BOMB,
        "a: &a [*a]",
        "a: &a {<<: *a}",
        "[" * 50_000,
        "- " * 50_000,
        "x: " + "9" * 10_000,
        "a" * (MAX_BYTES + 1),
        "b: 1\nb: 2",
    ],
)
def test_yaml_that_stands_for_too_much_is_refused_at_once(text):
    start = time.monotonic()
    with memory_bounded(2**28), pytest.raises(ConfigError):
        parse_yaml(text, where="the text")
    assert time.monotonic() - start < 20


def test_an_alias_that_stands_for_little_is_read():
    assert parse_yaml("a: &a {x: 1}\nb: [*a, *a]", where="it")["b"] == [{"x": 1}] * 2


@examples(150)
@given(st.data())
def test_an_altered_claim_is_a_claim_or_a_config_error(toy, toy_document, tmp_path, data):
    path = tmp_path / "toy" / "claim.yaml"
    path.parent.mkdir(exist_ok=True)
    toy_document["settings"]["smoke"]["recipe"] = "short"
    (tmp_path / "recipes").mkdir(exist_ok=True)
    (tmp_path / "recipes" / "short.yaml").write_text("selection: {classes_per_label: 1}")
    path.write_text(yaml.safe_dump(data.draw(altered(toy_document))))
    claim, refusal = attempt(lambda: load_claim(path), ConfigError)
    assert str(tmp_path) in refusal if refusal else claim.id == "toy"


VALUE = {
    "metric": "metrics.cnn_accuracy",
    "arm": "good",
    "better": "higher",
    "source": "five runs",
    "mean": 0.9,
    "low": 0.8,
    "high": 0.95,
}
ORDERING = {
    "metric": "metrics.cnn_accuracy",
    "better": "higher",
    "first": "good",
    "second": "plain",
    "source": "five runs",
}


@examples(200)
@given(st.data())
def test_altered_expected_results_are_read_or_refused(toy, data):
    section = {"seeds": [0], "hardware": "x", "values": [VALUE], "orderings": [ORDERING]}
    document = {"claim": toy.id, "settings": {"smoke": {**section, "selection": []}}}
    path = expected_path(toy.id)
    path.parent.mkdir(exist_ok=True)
    path.write_text(yaml.safe_dump(data.draw(altered(document))))
    expected, refusal = attempt(lambda: load_expected(toy), ConfigError)
    assert refusal is None or str(path) in refusal
    for setting in (expected or {}).values():
        for value in setting.values:
            value.accepts(0.5)
