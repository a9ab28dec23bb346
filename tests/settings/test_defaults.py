import pytest

from privimage.privacy.accounting import gaussian_epsilon
from privimage.run_folder.budget import privacy_plan
from privimage.settings.config import load_config
from privimage.settings.defaults import (
    default_classes_per_label,
    default_delta,
    default_moments,
    default_sampling,
    default_settings,
    least_query_multiplier,
)


@pytest.mark.parametrize("image_size", [8, 12, 28, 32, 64])
@pytest.mark.parametrize("num_labels", [1, 2, 10])
@pytest.mark.parametrize("public_size", [16, 1437, 50_000])
def test_the_defaults_are_valid_settings(image_size, num_labels, public_size):
    values = default_settings(
        image_size=image_size,
        num_labels=num_labels,
        num_public_classes=83,
        public_size=public_size,
        epsilon=5.0,
    )
    data = {"sensitive": "digits", "public": "glyphs", "image_size": image_size, "color": "grey"}
    config = load_config({**values, "data": data})
    assert config.privacy.epsilon == 5.0


@pytest.mark.parametrize(
    ("public_size", "delta"), [(16, 1e-3), (1437, 1e-5), (10_000, 1e-5), (50_000, 1e-6)]
)
def test_delta_is_at_most_a_tenth_of_one_over_the_size(public_size, delta):
    assert default_delta(public_size) == pytest.approx(delta)
    assert default_delta(public_size) <= 0.1 / public_size * (1 + 1e-12)


def test_selection_follows_the_paper_where_the_public_set_is_large_enough():
    assert default_classes_per_label(10, 1000) == 5
    assert default_classes_per_label(1, 1000) == 10
    assert default_classes_per_label(10, 83) == 4
    assert default_classes_per_label(10, 10) == 1


def test_a_step_never_expects_more_than_about_4096_images():
    for public_size in (100, 10_000, 1_000_000):
        rate, num_steps = default_sampling(public_size)
        assert rate * public_size <= 4097
        assert rate * num_steps >= 12 * 0.99


@pytest.mark.parametrize("epsilon", [0.1, 1.0, 10.0])
@pytest.mark.parametrize("public_size", [100, 1437, 50_000])
def test_the_query_leaves_the_most_of_every_budget_to_dp_sgd(epsilon, public_size):
    values = default_settings(
        image_size=8, num_labels=10, num_public_classes=83, public_size=public_size, epsilon=epsilon
    )
    data = {"sensitive": "digits", "public": "glyphs", "image_size": 8, "color": "grey"}
    config = load_config({**values, "data": data | {"public_size": public_size}})
    mechanisms = dict(privacy_plan(config).mechanisms)
    assert mechanisms.pop("dp_sgd").noise_multiplier < 100
    assert len(mechanisms) == 1 + (config.moments is not None)
    for query in mechanisms.values():
        alone = gaussian_epsilon(query.noise_multiplier, delta=config.privacy.delta)
        assert alone <= epsilon / 3


def test_moments_are_asked_where_a_label_has_images_enough_for_their_noise():
    def moments(public_size: int, epsilon: float, image_size: int = 28) -> dict[str, float]:
        found = default_moments(public_size, 10, image_size, epsilon=epsilon, delta=1e-6)
        return found or {}

    found = moments(60_000, 10.0)
    assert gaussian_epsilon(found["noise_multiplier"], delta=1e-6) < 10 / 3
    assert moments(60_000, 1.0)["noise_multiplier"] > 5 * found["noise_multiplier"]
    assert not moments(1000, 10.0)
    assert not moments(10_000, 1.0)
    assert moments(60_000, 10.0, image_size=8)["num_components"] == 16


@pytest.mark.parametrize("epsilon", [0, -1.0, float("inf"), float("nan")])
def test_what_is_no_epsilon_is_left_to_the_check_of_the_settings(epsilon):
    assert least_query_multiplier(epsilon, 1e-5) == 0


def test_a_query_has_no_more_noise_for_its_budget_than_it_needs():
    multiplier = least_query_multiplier(1.0, 1e-5)
    exact = gaussian_epsilon(multiplier, delta=1e-5)  # below RDP's, which the rule is made of
    assert 0.6 / 3 < exact < 1 / 3
