"""Frechet distance between two sets of features (Heusel et al. 2017, eq. 6; docs/method.md, 8).

d^2 = |mu_a - mu_b|^2 + tr(A + B - 2 (A B)^(1/2)) for means mu and covariances A, B. With Inception
features it is the FID. Statistics of parts merge to exactly those of their union. Statistics of
sensitive images are sensitive too: take public or held-out images as the reference.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from scipy.linalg import get_lapack_funcs
from torch import Tensor

from privimage.errors import ConfigError


@dataclass(frozen=True)
class FeatureStatistics:
    """Mean and unbiased covariance of `num` feature vectors, in float64."""

    mean: Float[Tensor, " feature"]
    covariance: Float[Tensor, "feature feature"]  # zero when num is 1
    num: int

    @classmethod
    def of(cls, features: Float[Tensor, "num feature"]) -> "FeatureStatistics":
        """Statistics of one batch."""
        features = features.detach().cpu().double()
        mean = features.mean(dim=0)
        centred = features - mean
        covariance = centred.T @ centred / max(len(features) - 1, 1)
        return cls(mean=mean, covariance=covariance, num=len(features))

    def merge(self, other: "FeatureStatistics") -> "FeatureStatistics":
        """Statistics of the union, by the pairwise update of Chan, Golub & LeVeque (1983)."""
        if 0 in (self.num, other.num):
            return self if other.num == 0 else other
        num = self.num + other.num
        shift = other.mean - self.mean
        scatter = (
            self.covariance * (self.num - 1)
            + other.covariance * (other.num - 1)
            + torch.outer(shift, shift) * (self.num * other.num / num)
        )
        mean = self.mean + shift * (other.num / num)
        return FeatureStatistics(mean=mean, covariance=scatter / (num - 1), num=num)


def frechet_distance(a: FeatureStatistics, b: FeatureStatistics) -> float:
    """The squared distance d^2 above, which is what is called FID.

    Singular covariances are no special case: fewer images than features are allowed. The error is
    rounding, 1e-13 of the traces; at worst 1e-8 of them, where A and B have unlike null spaces.
    """
    if a.mean.shape != b.mean.shape or min(a.num, b.num) < 2:
        raise ConfigError(
            f"Frechet distance: got {a.num} x {len(a.mean)} and {b.num} x {len(b.mean)} features; "
            "give at least 2 images on each side, and one extractor for both"
        )
    traces = float(a.covariance.trace() + b.covariance.trace())
    if not math.isfinite(traces):
        raise ConfigError(
            "Frechet distance: some features are not finite; look for infinite or missing values "
            "in the images and in the extractor's weights"
        )
    # fewer images, lower rank: no more eigenvalues than the product has, so that none is noise
    low, high = (a, b) if a.num <= b.num else (b, a)
    cross = _trace_of_root(low.covariance.numpy(), high.covariance.numpy())
    distance = float((a.mean - b.mean).square().sum()) + traces - 2 * cross
    return max(distance, 0.0)


def _trace_of_root(a: np.ndarray, b: np.ndarray) -> float:
    """tr (A B)^(1/2): the roots of the eigenvalues of L^T B L, where A = L L^T by Cholesky.

    Pivoted, L reveals the rank, and its falling columns grade L^T B L, so that small eigenvalues
    come out right as well; with the root of A from its eigenvectors they would drown in rounding.
    """
    pivoted_cholesky, congruence = get_lapack_funcs(("pstrf", "sygst"), (a, b))
    factor, pivots, rank, _ = pivoted_cholesky(a, lower=1)
    factor[:, rank:] = 0  # what was not factorised is left there
    order = pivots - 1
    product, _ = congruence(b[np.ix_(order, order)], factor, itype=2, lower=1)
    values = np.linalg.eigvalsh(product[:rank, :rank], UPLO="L")
    return float(np.sqrt(values.clip(min=0)).sum())
