"""Settings that end in a given time, on a machine whose paces are made up."""

import os
from dataclasses import replace

import pytest
import yaml

from privimage.errors import ConfigError, RunFolderError
from privimage.settings.config import load_config
from privimage.settings.defaults import default_settings
from privimage.stages import time_budget
from privimage.stages.estimate import Cost, Numbers, total_seconds
from privimage.stages.time_budget import chosen_before, fitted

FACTS = Numbers(
    num_channels=1, num_labels=10, public_size=60_000, num_public=50_000, num_public_classes=100
)
VALUES = default_settings(
    image_size=28, num_labels=10, num_public_classes=100, public_size=60_000, epsilon=10.0
)
VALUES["data"] = {
    "sensitive": "fashion_mnist", "public": "cifar100", "image_size": 28, "color": "grey",
}  # fmt: skip


@pytest.fixture(autouse=True)
def costs(monkeypatch):
    """Of a machine that is eight times as slow with the large network as with the small ones."""

    def estimate(config, facts, *, only=None):
        slow = 8 if config.network.base_channels == 32 else 1
        privacy = config.privacy
        clipped = privacy.num_steps * privacy.sampling_rate * facts.public_size
        seconds = {
            "query_network": 40.0 * config.query_network.epochs,
            "query": 30.0,
            "pretrain": 0.006 * slow * config.pretrain.num_images,
            "finetune": 0.02 * slow * clipped,
            "generate": 0.001 * slow * config.sampling.num_images * config.sampling.num_steps,
        }
        return {name: Cost(s) for name, s in seconds.items() if only is None or name in only}

    monkeypatch.setattr(time_budget, "estimate", estimate)
    return estimate


@pytest.mark.parametrize("hours", [0.25, 0.5, 2, 20])
def test_a_run_takes_the_time_that_it_was_given(costs, hours):
    config = fitted(VALUES, {}, FACTS, hours=hours)
    assert total_seconds(costs(config, FACTS)) == pytest.approx(0.95 * 3600 * hours, rel=0.03)
    assert config.hours == hours


def test_more_time_takes_a_larger_network():
    def size(hours):
        network = fitted(VALUES, {}, FACTS, hours=hours).network
        return network.base_channels, len(network.channel_multipliers)

    sizes = [size(hours) for hours in (0.25, 1, 4, 24)]
    assert sizes == sorted(sizes)
    assert sizes[0] < sizes[-1] == (32, 3)


def test_what_is_set_by_hand_stays_and_its_time_is_counted(costs):
    by_hand = {
        "network.base_channels": 16, "privacy.num_steps": 30, "privacy.sampling_rate": 0.01,
        "sampling.num_images": 1_000,
    }  # fmt: skip
    config = fitted(VALUES, by_hand, FACTS, hours=0.5)
    assert config.network.channel_multipliers == (1, 2, 2)  # the default's
    assert config.network.base_channels == 16
    assert (config.privacy.num_steps, config.privacy.sampling_rate) == (30, 0.01)
    assert config.sampling.num_images == 1_000
    assert total_seconds(costs(config, FACTS)) == pytest.approx(0.95 * 1800, rel=0.03)


def test_the_number_of_real_test_images_has_no_part_in_the_numbers(costs, monkeypatch):
    asked = []

    def watched(config, facts, **how):
        asked.append(facts.num_test)
        return costs(config, facts, **how)

    monkeypatch.setattr(time_budget, "estimate", watched)
    for num_test in (7, 10_000):
        fitted(VALUES, {}, replace(FACTS, num_test=num_test), hours=0.5)
    assert set(asked) == {10_000}
    fitted(VALUES, {}, FACTS, hours=0.5)
    assert asked[-1] == 0


def test_settings_that_end_in_time_are_left_alone(costs):
    plain = load_config(VALUES)
    hours = total_seconds(costs(plain, FACTS)) / 3600
    assert fitted(VALUES, {}, FACTS, hours=1.1 * hours, only_if_longer=True) == plain
    shorter = fitted(VALUES, {}, FACTS, hours=0.9 * hours, only_if_longer=True)
    assert shorter != plain
    assert shorter.hours == 0.9 * hours


def test_a_time_that_is_too_short_is_refused():
    with pytest.raises(ConfigError, match="hours are too short for these images"):
        fitted(VALUES, {}, FACTS, hours=0.02)


def test_a_run_is_continued_with_the_numbers_that_it_was_begun_with(tmp_path):
    assert chosen_before(tmp_path, {}, hours=0.5) is None
    config = fitted(VALUES, {}, FACTS, hours=0.5)
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config.to_dict()))
    for hours in (None, 0.5):
        chosen = chosen_before(tmp_path, {}, hours=hours)
        assert load_config(VALUES, chosen) == config
    assert chosen_before(tmp_path, {}, hours=1.0) is None


def test_a_run_whose_numbers_were_not_chosen_is_not_given_others(tmp_path):
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(load_config(VALUES).to_dict()))
    assert chosen_before(tmp_path, {}, hours=None) == {}
    assert chosen_before(tmp_path, {}, hours=0.5) is None
    (tmp_path / "config.yaml").write_text("neither: this\n")
    assert chosen_before(tmp_path, {}, hours=None) is None


def test_hours_are_no_setting_that_is_believed_without_being_kept(tmp_path):
    with pytest.raises(ConfigError, match="give --hours"):
        chosen_before(tmp_path, {"hours": 2}, hours=None)


def test_a_pipe_in_a_run_folder_is_refused_rather_than_waited_for(tmp_path):
    os.mkfifo(tmp_path / "config.yaml")
    with pytest.raises(RunFolderError, match=r"config\.yaml is a"):
        chosen_before(tmp_path, {}, hours=None)
