"""Tests of noise: right noise passes, and each kind of wrong noise is seen."""

import itertools

import numpy as np
import pytest
import torch

from privimage.audit.noise_tests import noise_p_values, worst

SHAPES = {"weight": (16, 3, 3, 3), "other": (16, 3, 3, 3), "bias": (16,), "norm": (16,)}


def released(seed, *, num_runs=2, num_steps=8):
    drawn = np.random.default_rng(seed)
    return [
        [
            {name: torch.from_numpy(drawn.standard_normal(shape)) for name, shape in SHAPES.items()}
            for _ in range(num_steps)
        ]
        for _ in range(num_runs)
    ]


def smallest(runs):
    return min(noise_p_values(runs).values())


def test_right_noise_is_let_pass():
    found = sorted(smallest(released(seed)) for seed in range(30))
    assert found[0] > 1e-3
    assert found[15] > 0.05


def no_noise_on_biases(runs):
    for step in itertools.chain(*runs):
        step["bias"] *= 0


def half_the_noise_on_norms(runs):
    for step in itertools.chain(*runs):
        step["norm"] *= 0.5


def the_same_in_every_run(runs):
    runs[1] = runs[0]


def the_same_in_every_step(runs):
    runs[0][1:] = [runs[0][0]] * 7


def one_step_less(runs):
    for value in runs[1][3].values():
        value *= 0.8


def the_same_for_two_tensors(runs):
    for step in itertools.chain(*runs):
        step["other"] = step["weight"]


def the_same_for_a_bias_and_a_weight(runs):
    for step in itertools.chain(*runs):
        step["bias"] = step["weight"].flatten()[:16]


def cut_off_at_three(runs):
    for step in itertools.chain(*runs):
        step["weight"].clamp_(-2.4, 2.4)


def uniform(runs):
    for step in itertools.chain(*runs):
        drawn = torch.rand(
            SHAPES["weight"], generator=torch.Generator().manual_seed(id(step) % 997)
        )
        step["weight"] = (drawn.double() - 0.5) * 12**0.5


def one_for_every_two_places(runs):
    for step in itertools.chain(*runs):
        flat = step["weight"].view(-1)
        flat[1::2] = flat[::2]


FAULTS = [
    no_noise_on_biases,
    half_the_noise_on_norms,
    the_same_in_every_run,
    the_same_in_every_step,
    one_step_less,
    the_same_for_two_tensors,
    the_same_for_a_bias_and_a_weight,
    cut_off_at_three,
    uniform,
    one_for_every_two_places,
]


@pytest.mark.parametrize("fault", FAULTS)
def test_wrong_noise_is_seen(fault):
    runs = released(1)
    assert smallest(runs) > 1e-3
    fault(runs)
    assert smallest(runs) < 1e-6


def test_many_p_values_are_paid_for():
    assert worst([0.5, 0.01, 0.9]) == pytest.approx(0.03)
    assert worst([0.5, 0.9]) == 1.0
