"""Frechet distance between two sets of features (Heusel et al. 2017, eq. 6; SPEC A.8).

d^2 = |mu_a - mu_b|^2 + tr(A + B - 2 (A B)^(1/2)) for means mu and covariances A, B. With Inception
features it is the FID. Statistics of parts merge to exactly those of their union. Statistics of
sensitive images are sensitive too: take public or held-out images as the reference.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
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

    tr (A B)^(1/2) is the sum of the singular values of A^(1/2) B^(1/2). That needs only symmetric
    eigenvalues and holds for singular covariances too: fewer images than features are allowed.
    """
    if a.mean.shape != b.mean.shape or min(a.num, b.num) < 2:
        raise ConfigError(
            f"Frechet distance: got {a.num} x {len(a.mean)} and {b.num} x {len(b.mean)} features; "
            "give at least 2 images on each side, and one extractor for both"
        )
    cross = torch.linalg.svdvals(_root_factor(a.covariance).T @ _root_factor(b.covariance)).sum()
    spread = a.covariance.trace() + b.covariance.trace() - 2 * cross
    distance = (a.mean - b.mean).square().sum() + spread
    return max(float(distance), 0.0)


def _root_factor(covariance: Tensor) -> Tensor:
    """F with F F^T = covariance, one column for every direction that is not zero up to rounding."""
    values, vectors = torch.linalg.eigh(covariance)
    kept = values > len(values) * torch.finfo(values.dtype).eps * values[-1].abs()
    return vectors[:, kept] * values[kept].sqrt()
