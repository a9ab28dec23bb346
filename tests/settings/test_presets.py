"""The paper's cells: what their names promise, and the published numbers that follow from them."""

import copy
import math

import pytest
import torch

from privimage import cli
from privimage.data.image_set import ImageSet
from privimage.diffusion.build import num_parameters
from privimage.errors import ConfigError
from privimage.privacy.accounting import calibrate_noise_multiplier, rdp_epsilon
from privimage.privacy.dp_sgd import DP_SGD
from privimage.run_folder.budget import privacy_plan
from privimage.settings.config import load_config
from privimage.settings.presets import NUM_IMAGENET_CLASSES, PRESETS, RECIPES, preset_settings

# docs/method.md, 3 and 6
NUM_PARAMETERS = {"cifar10": 1_754_499, "celeba32": 1_804_451, "celeba64": 1_999_907}
BATCH = {"cifar10": 19_384, "celeba32": 19_384, "celeba64": 8_192}  # nominal
EXPECTED_BATCH = {"cifar10": 16_666, "celeba32": 18_085, "celeba64": 8_138}
NUM_EPOCHS = 50


@pytest.mark.parametrize("name", PRESETS)
def test_the_name_of_a_preset_agrees_with_its_images_and_its_epsilon(name):
    config = load_config(preset_settings(name))
    images, epsilon = name.split("_eps")
    assert config.name == name
    assert config.data.sensitive == config.data.evaluate_on == images
    assert config.privacy.epsilon == float(epsilon)


def test_every_image_set_has_its_three_cells():
    assert {name.split("_eps")[0] for name in PRESETS} == set(RECIPES)
    for recipe in RECIPES:
        cells = [preset.epsilon for preset in PRESETS.values() if preset.recipe == recipe]
        assert sorted(cells) == [1.0, 5.0, 10.0]


@pytest.mark.parametrize("recipe", RECIPES)
def test_the_pipeline_builds_the_published_networks(recipe):
    config, num_labels = load_config(preset_settings(f"{recipe}_eps10")), RECIPES[recipe].num_labels
    images = ImageSet(
        images=torch.zeros(num_labels, 3, 4, 4, dtype=torch.uint8),
        labels=torch.arange(num_labels),
        class_names=tuple(map(str, range(num_labels))),
        source=recipe,
        public_size=config.data.public_size or 0,
    )
    assert num_parameters(config, images) == NUM_PARAMETERS[recipe]


@pytest.mark.parametrize("name", PRESETS)
def test_the_noise_of_a_run_is_the_published_one_within_the_published_search_tolerance(name):
    # the published search stops between epsilon - .01 and epsilon; more noise means less epsilon
    config, published = load_config(preset_settings(name)), PRESETS[name]
    query, steps = privacy_plan(config).mechanisms.values()
    assert rdp_epsilon((query, steps), delta=config.privacy.delta) <= published.epsilon
    assert steps.noise_multiplier <= published.published_sgd_noise_multiplier
    searched = calibrate_noise_multiplier(
        (query,),
        sampling_rate=steps.sampling_rate,
        count=steps.count,
        epsilon=published.epsilon,
        delta=config.privacy.delta,
        accountant="rdp",
        tolerance=0.01,
    )
    assert searched == published.published_sgd_noise_multiplier


@pytest.mark.parametrize(
    ("name", "multiplier"),  # docs/method.md, 6, tolerance 1e-4
    [("cifar10_eps1", 16.636963), ("cifar10_eps5", 4.033661), ("cifar10_eps10", 2.323685)],
)
def test_the_noise_of_a_run_is_the_number_that_a_finer_search_gives(name, multiplier):
    plan = privacy_plan(load_config(preset_settings(name))).mechanisms
    assert plan[DP_SGD].noise_multiplier == pytest.approx(multiplier, abs=6e-7)


@pytest.mark.parametrize("recipe", RECIPES)
def test_size_rate_and_steps_of_a_recipe_are_consistent(recipe):
    r = RECIPES[recipe]
    assert r.sampling_rate == 1 / math.ceil(r.public_size / BATCH[recipe])
    assert math.floor(r.public_size * r.sampling_rate) == EXPECTED_BATCH[recipe]
    assert r.num_steps * r.sampling_rate == pytest.approx(NUM_EPOCHS)
    assert r.delta < 1 / r.public_size


def test_cifar10_pretrains_on_five_percent_of_the_public_classes_and_celeba_on_one():
    shares = {
        name: 100 * recipe.num_labels * recipe.classes_per_label / NUM_IMAGENET_CLASSES
        for name, recipe in RECIPES.items()
    }
    assert shares == {"cifar10": 5.0, "celeba32": 1.0, "celeba64": 1.0}


def test_settings_of_a_preset_are_the_callers_own():
    first = preset_settings("cifar10_eps10")
    untouched = copy.deepcopy(first)
    first["network"]["channel_multipliers"].append(9)
    assert preset_settings("cifar10_eps10") == untouched


def test_an_unknown_preset_gets_the_nearest_name():
    with pytest.raises(ConfigError, match="did you mean cifar10_eps10"):
        preset_settings("cifar_eps10")
    with pytest.raises(ConfigError, match="choose cifar10_eps10, cifar10_eps5"):
        preset_settings("mnist")


def synthesize(monkeypatch, *arguments):
    monkeypatch.setattr("sys.argv", ["privimage", "synthesize", *map(str, arguments)])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    return caught.value.code


def test_the_command_line_shows_settings_and_budget_of_a_preset_without_any_data(
    monkeypatch, tmp_path, capsys
):
    out = tmp_path / "out"
    arguments = ("--preset", "celeba64_eps1", "--out", out, "--dry-run")
    assert synthesize(monkeypatch, *arguments) == 0
    printed = capsys.readouterr().out
    assert "sensitive: celeba64" in printed
    assert "noise multiplier 7.266, sampling rate 0.05, 1000 steps" in printed
    assert not out.exists()


def test_a_plan_is_shown_where_the_public_set_alone_is_missing(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("PRIVIMAGE_DATA", str(tmp_path))
    given = ("sensitive=digits", "evaluate_on=digits", "image_size=8", "color=grey")
    changes = [part for item in given for part in ("--set", f"data.{item}")]
    arguments = ("--preset", "cifar10_eps10", "--out", tmp_path / "out", "--dry-run", *changes)
    arguments += ("--set", "data.public_size=1437")
    assert synthesize(monkeypatch, *arguments) == 0
    assert "no estimate of the time: imagenet32 (train) was not found" in capsys.readouterr().out


def test_a_changed_preset_loses_its_name(monkeypatch, tmp_path, capsys):
    arguments = ("--preset", "cifar10_eps10", "--out", tmp_path / "out", "--dry-run")
    nowhere = ("--data-root", tmp_path)  # the plan is shown without the images
    assert synthesize(monkeypatch, *arguments, *nowhere, "--set", "privacy.epsilon=5") == 0
    printed = capsys.readouterr().out
    assert "name: synthesize" in printed
    assert "cifar10_eps10" not in printed


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (("--preset", "cifar10_eps2"), "did you mean cifar10_eps"),
        (("--preset", "cifar10_eps10", "--epsilon", "5"), "already fixes --epsilon; leave that"),
        (("--sensitive", "digits", "--epsilon", "5"), "--public missing; give --sensitive, --pub"),
        ((), "--sensitive, --public, --epsilon missing"),
    ],
)
def test_a_preset_goes_alone_and_own_images_need_their_three_options(
    monkeypatch, tmp_path, capsys, arguments, part
):
    assert synthesize(monkeypatch, *arguments, "--out", tmp_path / "out") == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert part in error
    assert error.count("\n") == 1
