"""Kernel distance between two sets of features: MMD², unbiased (Bińkowski et al. 2018); "KID" on Inception-v3's.

k(x, y) = (x·y/D + 1)³ and MMD² = mean k(x, x') + mean k(y, y') − 2·mean k(x, y), over pairs of different samples.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ..errors import Problem


class Spread(NamedTuple):
    """A mean and the standard deviation around it (of the draws themselves, not of the mean)."""

    mean: float
    std: float


def polynomial(x: Tensor, y: Tensor) -> Tensor:
    """(x·y/D + 1)³, (N, M)."""
    return (x @ y.T / x.shape[1] + 1) ** 3


def mmd2(x: Tensor, y: Tensor) -> float:
    """MMD² of features x (N, D) and y (M, D), unbiased: it may fall below 0. Raises Problem for fewer than two."""
    n, m = len(x), len(y)
    if min(n, m) < 2:
        raise Problem(f"the kernel distance wants at least 2 pictures of each kind, not {n} and {m}")
    x, y = x.double(), y.double()
    xx, yy, xy = polynomial(x, x), polynomial(y, y), polynomial(x, y)
    own = (xx.sum() - xx.trace()) / (n * (n - 1)) + (yy.sum() - yy.trace()) / (m * (m - 1))
    return float(own - 2 * xy.mean())


def kernel_distance(x: Tensor, y: Tensor, *, size: int = 1000, subsets: int = 100, seed: int = 0) -> Spread:
    """MMD² over `subsets` draws of `size` features of each, without replacement, from a generator of their own.

    size is at most the smaller set's; drawing all of both, there is one draw and no deviation.
    """
    size = min(size, len(x), len(y))
    if size == len(x) == len(y):
        return Spread(mmd2(x, y), 0.0)
    generator = torch.Generator().manual_seed(seed)

    def some(features: Tensor) -> Tensor:
        return features[torch.randperm(len(features), generator=generator)[:size]]

    draws = torch.tensor([mmd2(some(x), some(y)) for _ in range(subsets)], dtype=torch.float64)
    return Spread(float(draws.mean()), float(draws.std(correction=0)))
