"""The Frechet distance against closed forms and against pytorch-fid's general matrix root."""

import math

import numpy as np
import pytest
import torch
from pytorch_fid.fid_score import calculate_frechet_distance
from torch import Tensor

from privimage.errors import ConfigError
from privimage.evaluation.frechet import FeatureStatistics, frechet_distance


def correlated(num: int, dims: int, *, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(dims, dims, generator=generator, dtype=torch.float64)
    shift = torch.randn(dims, generator=generator, dtype=torch.float64)
    return torch.randn(num, dims, generator=generator, dtype=torch.float64) @ mixing + shift


def decaying(
    num: int, dims: int, *, seed: int, decades: float, dead: slice = slice(0)
) -> FeatureStatistics:
    """Variances from 1 down to 10^-decades along directions that all seeds share; some dead."""
    basis, _ = torch.linalg.qr(correlated(dims, dims, seed=1000))
    scales = 10 ** torch.linspace(0, -decades / 2, dims, dtype=torch.float64)
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(num, dims, generator=generator, dtype=torch.float64) * scales @ basis
    features[:, dead] = 0
    return FeatureStatistics.of(features)


def root_factor(covariance: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh(covariance)
    kept = values > len(values) * torch.finfo(values.dtype).eps * values[-1]
    return vectors[:, kept] * values[kept].sqrt()


def by_singular_values(a: FeatureStatistics, b: FeatureStatistics) -> float:
    """d^2 by a slow road that squares nothing: the singular values of A^(1/2) B^(1/2)."""
    cross = torch.linalg.svdvals(root_factor(a.covariance).T @ root_factor(b.covariance)).sum()
    spread = a.covariance.trace() + b.covariance.trace() - 2 * cross
    return float((a.mean - b.mean).square().sum() + spread)


def pytorch_fid(a: FeatureStatistics, b: FeatureStatistics) -> float:
    reference = calculate_frechet_distance(
        a.mean.numpy(), a.covariance.numpy(), b.mean.numpy(), b.covariance.numpy()
    )
    return float(reference)


def diagonal(mean: list[float], deviations: list[float]) -> FeatureStatistics:
    covariance = torch.tensor(deviations, dtype=torch.float64).square().diag()
    return FeatureStatistics(torch.tensor(mean, dtype=torch.float64), covariance, num=100)


def test_statistics_are_numpys_mean_and_unbiased_covariance():
    features = correlated(50, 6, seed=0)
    statistics = FeatureStatistics.of(features)
    np.testing.assert_allclose(statistics.mean.numpy(), features.numpy().mean(axis=0))
    np.testing.assert_allclose(statistics.covariance.numpy(), np.cov(features.numpy().T))
    assert statistics.num == 50


@pytest.mark.parametrize("sizes", [(1, 1, 48), (25, 25), (49, 1), (7, 20, 23)])
def test_merged_parts_are_the_statistics_of_the_union(sizes):
    features = correlated(50, 6, seed=1) + 1000  # a large mean shows cancellation
    first, *rest = (FeatureStatistics.of(part) for part in features.split(list(sizes)))
    for part in rest:
        first = first.merge(part)
    whole = FeatureStatistics.of(features)
    torch.testing.assert_close(first.mean, whole.mean, rtol=1e-12, atol=0)
    torch.testing.assert_close(first.covariance, whole.covariance, rtol=1e-9, atol=1e-9)
    assert first.num == 50


def test_single_precision_features_are_accumulated_in_double():
    features = torch.rand(1000, 2, generator=torch.Generator().manual_seed(0)) + 1000
    covariance = FeatureStatistics.of(features).covariance
    np.testing.assert_allclose(covariance, np.cov(features.numpy().astype(np.float64).T), rtol=1e-9)


def test_independent_features_have_the_closed_form():
    # |mean difference|^2 = 9 + 16; sum of (deviation difference)^2 = 1 + 4 + 0
    a = diagonal([0, 0, 1], [1, 5, 2])
    b = diagonal([3, 4, 1], [2, 3, 2])
    assert frechet_distance(a, b) == pytest.approx(25 + 5, rel=1e-12)


def test_a_rotation_of_both_sides_changes_nothing():
    rotation, _ = torch.linalg.qr(correlated(5, 5, seed=2))
    a, b = correlated(30, 5, seed=3), correlated(40, 5, seed=4)
    plain = frechet_distance(FeatureStatistics.of(a), FeatureStatistics.of(b))
    rotated = frechet_distance(
        FeatureStatistics.of(a @ rotation), FeatureStatistics.of(b @ rotation)
    )
    assert rotated == pytest.approx(plain, rel=1e-10)


@pytest.mark.filterwarnings("ignore:The `disp` argument:DeprecationWarning")  # theirs, of scipy
@pytest.mark.parametrize("dims", [2, 16, 96])
def test_it_equals_pytorch_fid(dims):
    a = FeatureStatistics.of(correlated(300, dims, seed=5))
    b = FeatureStatistics.of(correlated(200, dims, seed=6))
    assert frechet_distance(a, b) == pytest.approx(pytorch_fid(a, b), rel=1e-6)
    assert frechet_distance(b, a) == pytest.approx(frechet_distance(a, b), rel=1e-10)


@pytest.mark.filterwarnings("ignore:The `disp` argument:DeprecationWarning")  # theirs, of scipy
@pytest.mark.parametrize("dims", [64, 192])
def test_it_equals_pytorch_fid_on_features_of_decaying_variance(dims):
    a, b = (decaying(1000, dims, seed=seed, decades=6) for seed in (0, 1))
    assert frechet_distance(a, b) == pytest.approx(pytorch_fid(a, b), rel=1e-6)


@pytest.mark.parametrize("decades", [0, 6, 8, 10])
@pytest.mark.parametrize("nums", [(400, 500), (400, 50), (50, 60)], ids=str)
def test_small_variances_and_missing_ranks_keep_nine_digits(decades, nums):
    a, b = (
        decaying(num, 128, seed=seed, decades=decades)
        for seed, num in zip((2, 3), nums, strict=True)
    )
    assert frechet_distance(a, b) == pytest.approx(by_singular_values(a, b), rel=1e-9)


@pytest.mark.parametrize("dead", [slice(0, 20), slice(10, 30), slice(64, 128)], ids=str)
def test_dead_features_of_either_side_cost_no_more_than_rounding(dead):
    a = decaying(400, 128, seed=4, decades=6, dead=slice(0, 20))
    b = decaying(500, 128, seed=5, decades=6, dead=dead)
    assert frechet_distance(a, b) == pytest.approx(by_singular_values(a, b), rel=1e-7)
    assert frechet_distance(b, a) == pytest.approx(frechet_distance(a, b), rel=1e-7)


def test_common_directions_have_the_closed_form():
    # A and B share eigenvectors: d^2 is the sum of (difference of the deviations)^2
    basis, _ = torch.linalg.qr(correlated(200, 200, seed=10))
    deviations = 10 ** torch.linspace(0, -4, 200, dtype=torch.float64)
    other = deviations.flip(0)
    a, b = (
        FeatureStatistics(torch.zeros(200).double(), basis * scales.square() @ basis.T, num=1000)
        for scales in (deviations, other)
    )
    expected = (deviations - other).square().sum().item()
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("num", [20, 500])
@pytest.mark.parametrize("decades", [0, 8, 14])
def test_the_distance_of_a_set_to_itself_is_zero_even_with_fewer_images_than_features(num, decades):
    statistics = decaying(num, 128, seed=7, decades=decades)
    scale = statistics.covariance.trace().item()
    assert 0 <= frechet_distance(statistics, statistics) < 1e-10 * scale


def test_the_covariances_given_are_left_as_they_were():
    a, b = (decaying(30, 16, seed=seed, decades=2) for seed in (8, 9))
    before = a.covariance.clone(), b.covariance.clone()
    frechet_distance(a, b)
    assert torch.equal(a.covariance, before[0])
    assert torch.equal(b.covariance, before[1])


def test_singular_covariances_in_orthogonal_directions_add_up():
    # no overlap: the cross term is 0, so the distance is the sum of both traces
    a, b = diagonal([0, 0], [3, 0]), diagonal([0, 0], [0, 2])
    assert frechet_distance(a, b) == pytest.approx(9 + 4, rel=1e-12)


def test_singular_covariances_are_the_limit_of_regular_ones():
    a, b = correlated(10, 24, seed=8), correlated(12, 24, seed=9)
    singular = frechet_distance(FeatureStatistics.of(a), FeatureStatistics.of(b))
    regular = [
        FeatureStatistics(s.mean, s.covariance + 1e-12 * torch.eye(24).double(), s.num)
        for s in (FeatureStatistics.of(a), FeatureStatistics.of(b))
    ]
    assert frechet_distance(*regular) == pytest.approx(singular, rel=1e-5)


def test_constant_features_differ_by_their_means_alone():
    a, b = torch.full((5, 3), 2.0), torch.full((4, 3), 4.0)
    distance = frechet_distance(FeatureStatistics.of(a), FeatureStatistics.of(b))
    assert math.isclose(distance, 3 * 2.0**2)


def test_single_images_and_unlike_features_are_refused():
    three, four = (FeatureStatistics.of(torch.rand(5, dims)) for dims in (3, 4))
    with pytest.raises(ConfigError, match="one extractor for both"):
        frechet_distance(three, four)
    with pytest.raises(ConfigError, match="at least 2 images"):
        frechet_distance(three, FeatureStatistics.of(torch.rand(1, 3)))


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_features_that_are_not_finite_are_refused_on_either_side(value):
    good, spoilt = torch.rand(5, 3), torch.rand(5, 3)
    spoilt[2, 1] = value
    a, b = FeatureStatistics.of(good), FeatureStatistics.of(spoilt)
    for pair in ((a, b), (b, a)):
        with pytest.raises(ConfigError, match="not finite"):
            frechet_distance(*pair)
