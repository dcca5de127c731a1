"""Fréchet distance between two sets of features (Heusel et al. 2017), in memory that does not grow with their number.

d² = |μ₁ − μ₂|² + tr(Σ₁ + Σ₂ − 2·(Σ₁Σ₂)^½), μ and Σ the mean and covariance (n − 1) of each set: the squared
2-Wasserstein distance of two Gaussians. "FID" is this on Inception-v3's 2,048 features.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..errors import Problem


class Moments:
    """Count, mean and scatter of features that come in batches, in float64 (Chan et al. 1983)."""

    def __init__(self, dim: int):
        self.n = 0
        self.mean = torch.zeros(dim, dtype=torch.float64)
        self.scatter = torch.zeros(dim, dim, dtype=torch.float64)  # Σ (x − mean)(x − mean)ᵀ

    @classmethod
    def of(cls, features: Tensor) -> Moments:
        """The moments of features (N, D)."""
        return cls(features.shape[1]).add(features)

    def add(self, features: Tensor) -> Moments:
        """Count features (N, D) in. Raises Problem where they are not finite or of another width."""
        if features.ndim != 2 or features.shape[1] != len(self.mean):
            raise Problem(f"features are {list(features.shape)}; (N, {len(self.mean)}) was expected")
        if not features.isfinite().all():
            raise Problem("features hold NaN or infinity: the network that made them broke down")
        x = features.detach().to("cpu", torch.float64)
        if len(x):
            mean = x.mean(0)
            self._merge(len(x), mean, (x - mean).T @ (x - mean))
        return self

    def merge(self, other: Moments) -> Moments:
        """Count in what another process has seen."""
        if other.n:
            self._merge(other.n, other.mean, other.scatter)
        return self

    def _merge(self, n: int, mean: Tensor, scatter: Tensor) -> None:
        total = self.n + n
        step = mean - self.mean
        self.scatter = self.scatter + scatter + torch.outer(step, step) * (self.n * n / total)
        self.mean = self.mean + step * (n / total)
        self.n = total

    @property
    def covariance(self) -> Tensor:
        """(D, D). Raises Problem for fewer than two features."""
        if self.n < 2:
            raise Problem(f"a covariance wants at least 2 pictures, not {self.n}")
        return self.scatter / (self.n - 1)


def frechet(a: Moments, b: Moments) -> float:
    """d² between the Gaussians of two sets, at least 0; singular covariances (few samples, dead features) are fine.

    tr (Σ₁Σ₂)^½ = Σ √λ(Σ₁^½ Σ₂ Σ₁^½), the eigenvalues of a symmetric matrix: no complex square root is ever taken.
    """
    if len(a.mean) != len(b.mean):
        raise Problem(f"features of {len(a.mean)} and of {len(b.mean)} numbers cannot be compared")
    values, vectors = torch.linalg.eigh(a.covariance)
    root = vectors * values.clamp(min=0).sqrt()  # Σ₁ = root·rootᵀ
    shared = torch.linalg.eigvalsh(root.T @ b.covariance @ root).clamp(min=0).sqrt().sum()
    distance = (a.mean - b.mean).square().sum() + a.covariance.trace() + b.covariance.trace() - 2 * shared
    return max(0.0, float(distance))
