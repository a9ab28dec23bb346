"""Precision, recall, density and coverage, against the definitions written out as loops."""

import numpy as np
import pytest
import torch

from privimage.errors import ConfigError
from privimage.evaluation.prdc import prdc


def by_definition(real, synthetic, k):
    """One pair of points at a time."""

    def distance(a, b):
        return float(np.sqrt(((a - b) ** 2).sum()))

    def radius(points, i):
        return sorted(distance(points[i], points[j]) for j in range(len(points)) if j != i)[k - 1]

    of_real = [radius(real, i) for i in range(len(real))]
    of_synthetic = [radius(synthetic, j) for j in range(len(synthetic))]
    in_real = [[distance(y, x) <= r for x, r in zip(real, of_real, strict=True)] for y in synthetic]
    in_synthetic = [
        [distance(x, y) <= r for y, r in zip(synthetic, of_synthetic, strict=True)] for x in real
    ]
    return {
        "precision": sum(map(any, in_real)) / len(synthetic),
        "recall": sum(map(any, in_synthetic)) / len(real),
        "density": sum(map(sum, in_real)) / (k * len(synthetic)),
        # the ball around a real point holds a synthetic one
        "coverage": sum(any(row[i] for row in in_real) for i in range(len(real))) / len(real),
    }


def points(seed, num, dims=3, shift=0.0):
    return np.random.default_rng(seed).normal(size=(num, dims)) + shift


def scores(real, synthetic, **how):
    return prdc(torch.from_numpy(real), torch.from_numpy(synthetic), **how)


@pytest.mark.parametrize("num_neighbours", [1, 3, 5])
@pytest.mark.parametrize("chunk", [1, 7, 1000])
@pytest.mark.parametrize("shift", [0.0, 1.0, 2.5])
def test_scores_are_those_of_the_definitions(num_neighbours, chunk, shift):
    real, synthetic = points(0, 40), points(1, 30, shift=shift)
    found = scores(real, synthetic, num_neighbours=num_neighbours, chunk=chunk)
    assert found == pytest.approx(by_definition(real, synthetic, num_neighbours))


def test_scores_on_a_line_can_be_counted_by_hand():
    # real 0, 1, 3, k = 1: radii 1, 1, 2; balls [-1, 1], [0, 2], [1, 5]
    # synthetic 0.5, 2.5, 9: radii 2, 2, 6.5; balls [-1.5, 2.5], [0.5, 4.5], [2.5, 15.5]
    real, synthetic = np.array([[0.0], [1.0], [3.0]]), np.array([[0.5], [2.5], [9.0]])
    found = scores(real, synthetic, num_neighbours=1)
    assert found["precision"] == pytest.approx(2 / 3)  # 9 is in no ball
    assert found["recall"] == 1.0
    assert found["density"] == pytest.approx(3 / 3)  # 0.5 in two balls, 2.5 in one, 9 in none
    assert found["coverage"] == 1.0


def test_a_set_is_like_itself():
    real = points(0, 50)
    found = scores(real, real.copy())
    assert found["precision"] == found["recall"] == found["coverage"] == 1.0
    # each ball holds its own point and, the last on its rim, five more
    assert found["density"] == pytest.approx(6 / 5)


def test_images_that_are_there_many_times_are_still_found():
    real = np.repeat(points(0, 5, dims=300), 8, axis=0)  # all radii are 0
    found = scores(real, real[::-1].copy())
    assert found["precision"] == found["recall"] == found["coverage"] == 1.0


def test_far_sets_share_nothing_and_one_mode_is_precise_without_recall():
    real = np.concatenate([points(0, 50), points(1, 50, shift=100.0)])
    assert set(scores(real, points(2, 50, shift=-100.0)).values()) == {0.0}
    one_mode = scores(real, points(3, 50))
    assert one_mode["precision"] > 0.9
    assert one_mode["recall"] <= 0.5
    assert one_mode["coverage"] <= 0.5


@pytest.mark.parametrize("which", [0, 1])
def test_too_few_images_and_features_that_are_no_numbers_are_refused(which):
    few = [points(0, 20), points(1, 20)]
    few[which] = few[which][:5]
    with pytest.raises(ConfigError, match="give at least 6"):
        scores(*few)
    broken = [points(0, 20), points(1, 20)]
    broken[which][3, 1] = np.nan
    with pytest.raises(ConfigError, match="not finite"):
        scores(*broken)
