import pytest
import yaml

from privimage.errors import ConfigError
from privimage.settings.config import load_config


def fault_of(settings, overrides):
    with pytest.raises(ConfigError) as caught:
        load_config(settings, overrides)
    return str(caught.value)


def test_a_configuration_survives_the_way_through_yaml(toy_settings, tmp_path):
    config = load_config(toy_settings)
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(config.to_dict()))
    assert load_config(path) == config


def test_numbers_that_yaml_reads_as_text_are_numbers(toy_settings):
    # YAML 1.1 takes 1e-5 (no dot) for a string
    assert load_config(toy_settings, {"privacy.delta": "1e-5"}).privacy.delta == 1e-5


def test_all_faults_of_a_file_are_reported_at_once_with_their_paths(toy_settings):
    values = toy_settings
    values["privacy"]["epsilon"] = -1
    values["privacy"]["sampling_rate"] = 2
    del values["data"]["color"]
    values["pretrain"]["lerning_rate"] = 1
    with pytest.raises(ConfigError) as caught:
        load_config(values)
    message = str(caught.value)
    for part in ("privacy.epsilon is -1", "privacy.sampling_rate", "data.color: missing"):
        assert part in message
    assert "pretrain.lerning_rate: unknown" in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("overrides", "part"),
    [
        ({"privacy.epsilon": float("nan")}, "privacy.epsilon"),
        ({"privacy.delta": 0}, "privacy.delta"),
        ({"privacy.num_steps": True}, "privacy.num_steps"),
        ({"privacy.num_steps": 2.5}, "privacy.num_steps"),
        ({"data.color": "blue"}, "allowed are grey, rgb"),
        ({"network.channel_multipliers": 2}, "give a list"),
        ({"network.channel_multipliers": [1, 2, 2, 2, 2]}, "multiple of 16"),
        ({"network.base_channels": 6}, "multiple of 4"),
        ({"selection": 3}, "give a section"),
        ({"performance": {"device": "abacus"}}, "performance.device"),
        ({"finetune.noise_multiplicity": 0}, "at least 1"),
    ],
)
def test_a_value_out_of_range_is_named_with_what_is_allowed(toy_settings, overrides, part):
    assert part in fault_of(toy_settings, overrides)


def test_a_file_that_is_missing_or_no_yaml_is_a_config_error(tmp_path):
    with pytest.raises(ConfigError, match="cannot be read"):
        load_config(tmp_path / "none.yaml")
    (tmp_path / "bad.yaml").write_text("a: [1")
    with pytest.raises(ConfigError, match="not valid YAML"):
        load_config(tmp_path / "bad.yaml")
