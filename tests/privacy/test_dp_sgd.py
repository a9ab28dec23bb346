"""The noise of a step: its deviation, its independence, and the settings that it refuses."""

import pytest
import torch

from privimage.errors import ConfigError
from privimage.privacy.dp_sgd import noisy_mean_gradient
from privimage.privacy.rng import insecure_source


def test_noise_has_the_deviation_of_clip_norm_times_multiplier_over_expected_batch():
    clipped_sum = {"weight": torch.full((300, 400), 2.0), "bias": torch.zeros(50_000)}
    gradient = noisy_mean_gradient(
        clipped_sum,
        source=insecure_source(0, insecure_for_reproduction=True),
        clip_norm=0.5,
        noise_multiplier=3.0,
        expected_batch_size=10.0,
    )
    # mean 2/10; deviation .5*3/10 = .15, known to .15/sqrt(2*120,000) = .0003, the mean to .0004
    assert gradient["weight"].dtype == torch.float32
    assert gradient["weight"].mean().item() == pytest.approx(0.2, abs=0.002)
    assert gradient["weight"].std().item() == pytest.approx(0.15, abs=0.0015)
    assert gradient["bias"].mean().item() == pytest.approx(0.0, abs=0.003)
    assert gradient["bias"].std().item() == pytest.approx(0.15, abs=0.002)
    # no value is drawn twice
    assert torch.cat([g.flatten() for g in gradient.values()]).unique().numel() > 150_000


def test_the_noise_of_two_tensors_of_one_shape_shares_nothing():
    source = insecure_source(0, insecure_for_reproduction=True)
    gradient = noisy_mean_gradient(
        {"first": torch.zeros(1000), "second": torch.zeros(1000)},
        source=source,
        clip_norm=0.5,
        noise_multiplier=3.0,
        expected_batch_size=10.0,
    )
    both = torch.stack([gradient["first"], gradient["second"]])
    assert torch.corrcoef(both)[0, 1].abs() < 4.5 / 1000**0.5
    assert len(both.unique()) > 1990


@pytest.mark.parametrize("name", ["clip_norm", "noise_multiplier", "expected_batch_size"])
def test_a_step_without_noise_or_divisor_is_refused(name):
    settings = {"clip_norm": 1.0, "noise_multiplier": 1.0, "expected_batch_size": 1.0, name: 0.0}
    source = insecure_source(0, insecure_for_reproduction=True)
    with pytest.raises(ConfigError, match=name):
        noisy_mean_gradient({"weight": torch.zeros(2)}, source=source, **settings)
