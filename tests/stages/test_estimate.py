"""What a run is expected to cost, held against what it cost; and who may see what for it."""

import time
from dataclasses import replace

import pytest

from privimage import cli
from privimage.commands import planning
from privimage.settings.config import MomentsConfig, load_config
from privimage.settings.defaults import least_query_multiplier
from privimage.stages import estimate as module
from privimage.stages.estimate import Numbers, Pace, estimate
from privimage.stages.pipeline import load_image_sets, run_pipeline

SHOW_ESTIMATE = planning.show_estimate  # the real one, which other tests of the commands leave out
FACTS = Numbers(
    num_channels=1, num_labels=10, public_size=1000, num_public=500, num_public_classes=20
)
# long enough to be timed, in every stage that trains or draws
SETTINGS = {
    "name": "estimated",
    "data": {"sensitive": "digits", "public": "glyphs", "image_size": 8, "color": "grey"},
    "privacy": {
        "epsilon": 10.0,
        "delta": 1e-5,
        "query_noise_multiplier": 10.0,
        "sampling_rate": 0.1,
        "num_steps": 12,
        "clip_norm": 0.001,
    },
    "query_network": {
        "widths": [8],
        "blocks": [1],
        "block": "basic",
        "epochs": 2,
        "batch_size": 128,
        "learning_rate": 0.1,
    },
    "selection": {"classes_per_label": 1},
    "network": {"base_channels": 16, "channel_multipliers": [1, 2], "attention_resolutions": [4]},
    "pretrain": {"num_images": 6_400, "batch_size": 64, "learning_rate": 1e-3},
    "finetune": {"learning_rate": 1e-3, "noise_multiplicity": 2},
    "sampling": {"num_images": 200, "num_steps": 10},
    "performance": {"num_threads": 1, "strategy": "folded", "micro_batch_size": 16},
}


@pytest.fixture(autouse=True)
def short(monkeypatch):
    monkeypatch.setattr(module, "SECONDS", 0.1)
    estimate.cache_clear()
    yield
    estimate.cache_clear()


@pytest.mark.slow
def test_a_run_costs_about_what_was_expected(tmp_path):
    config = load_config(SETTINGS)
    sets = load_image_sets(config)
    expected = estimate(config, Numbers.of(sets))
    assert list(expected) == ["query_network", "query", "pretrain", "finetune", "generate"]
    took = run_pipeline(config, tmp_path, sets=sets)["timings_seconds"]
    for stage in ("pretrain", "finetune"):  # the machine may be busy now and not then
        assert 1 / 3 < expected[stage].seconds / took[stage] < 3, stage
        assert (expected[stage].peak_mib or 1) > 0


def test_the_pace_of_a_stage_is_multiplied_by_what_the_settings_ask_for(monkeypatch):
    monkeypatch.setattr(Pace, "seconds", 2.0)
    monkeypatch.setattr(module, "_seconds_of", lambda work, **how: 1.0)
    costs = {stage: cost.seconds for stage, cost in estimate(load_config(SETTINGS), FACTS).items()}
    # an answer takes 1/500 s; 450 images make 3 batches of 128, in 2 epochs; 50 are held out
    assert costs["query_network"] == pytest.approx(2 * 3 * 2.0 + 50 / 500)
    assert costs["query"] == pytest.approx(1000 / 500)
    assert costs["pretrain"] == 6_400 / 64 * 2.0
    # 12 steps of 100 images, 16 a round and half a round more, and a second for the noise
    assert 0 < costs["finetune"] - 12 * (100 / 16 + 0.5 + 1) < 60  # choosing the engine
    # 64 images by two calls took a second; now there are 200 images by 10 calls
    assert costs["generate"] == pytest.approx(200 * 10 / (64 * 2))


@pytest.mark.parametrize(
    ("strategy", "missing"), [("none", {"query", "pretrain"}), ("random", {"query"})]
)
def test_what_an_arm_leaves_out_costs_nothing(strategy, missing):
    config = load_config(SETTINGS, {"selection.strategy": strategy})
    stages = {"query_network", "query", "pretrain", "finetune", "generate"}
    assert set(estimate(config, FACTS)) == stages - missing


def test_an_evaluation_and_a_rehearsal_are_counted():
    config = load_config(SETTINGS, {"stage_seconds": 0.01})
    costs = estimate(config, replace(FACTS, num_test=100))
    assert costs["evaluate"].seconds > costs["query"].seconds
    assert costs["finetune"].seconds == costs["pretrain"].seconds == 0.01


def test_the_first_step_warms_up_and_does_not_count(monkeypatch):
    now = iter([0.0, 100.0, 100.1, 100.2, 100.3])
    monkeypatch.setattr(time, "perf_counter", lambda: next(now))
    pace = Pace(load_config(SETTINGS))
    for _ in range(3):
        pace.step()
        assert not pace.is_known()
    pace.step()
    assert pace.is_known()
    assert pace.seconds == pytest.approx(0.1)


def test_a_plan_needs_no_private_image_and_tells_noise_and_time(monkeypatch, capsys):
    facts = ("--public-size", "1000", "--classes", "10", "--image-size", "8", "--color", "grey")
    toy = ("--set", "network.base_channels=8", "--set", "privacy.num_steps=5")
    command = ("plan", "--public", "glyphs", "--epsilon", "5", *facts, *toy)
    monkeypatch.setattr("sys.argv", ["privimage", *command])
    monkeypatch.setattr(planning, "show_estimate", SHOW_ESTIMATE)
    with pytest.raises(SystemExit) as caught:
        cli.main()
    assert caught.value.code == 0
    printed = capsys.readouterr().out
    assert "public_size: 1000" in printed
    assert "assumed: []" in printed
    assert printed.count("noise multiplier") == 2 + 4  # the two mechanisms, and other budgets
    for stage in ("query network", "query", "pretrain", "finetune", "generate", "whole run"):
        assert f"\n  {stage} " in printed


def test_other_budgets_come_with_the_queries_noise_that_they_would_have(capsys):
    data = {"public_size": 1000, "classes": ["a", "b"], "image_size": 8, "color": "grey"}
    config = load_config(SETTINGS | {"data": SETTINGS["data"] | data})
    moments = MomentsConfig(noise_multiplier=1.0, num_components=4)
    config = replace(config, moments=moments)
    at_one = planning.for_epsilon(config, 1.0, {}, num_public_classes=20)
    assert at_one.privacy.epsilon == 1.0
    assert at_one.privacy.query_noise_multiplier == least_query_multiplier(1.0, 1e-4)
    assert at_one.moments is None  # 500 images of a label are too few for so much noise
    at_ten = planning.for_epsilon(config, 10.0, {}, num_public_classes=20)
    assert at_ten.moments is not None
    # what was set by hand stays
    by_hand = {"privacy.query_noise_multiplier": 10.0, "moments.noise_multiplier": 1.0}
    kept = planning.for_epsilon(config, 1.0, by_hand, num_public_classes=20)
    assert (kept.privacy.query_noise_multiplier, kept.moments) == (10.0, moments)
    planning.show_other_epsilons(config, {}, num_public_classes=20)
    assert "cost more" not in capsys.readouterr().out
