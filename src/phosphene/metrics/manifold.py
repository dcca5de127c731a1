"""Precision and recall (Kynkäänniemi et al. 2019), density and coverage (Naeem et al. 2020), by k nearest neighbours.

A set's manifold is the union of balls around its samples, each as wide as the distance to the k-th nearest other one.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ..errors import Problem
from .interval import Interval, bootstrap

CHUNK = 2048  # rows of a distance matrix at once
GROUPS = 50  # of made pictures, which intervals draw as wholes


class Manifold(NamedTuple):
    """precision  share of made pictures inside the real manifold: are they good
    recall     share of real pictures inside the made manifold: is all there
    density    how many real balls a made picture lies in, over k: precision that outliers do not swell
    coverage   share of real balls with a made picture inside: recall that outliers do not swell
    """

    precision: float
    recall: float
    density: float
    coverage: float


class _Near(NamedTuple):
    """Who lies in whose ball, by groups of made pictures: picture j is of group j mod G.

    size, good, balls   (G,): pictures of the group, how many lie in a real ball, in how many of them together
    recalls, covers     (N, G): whether one of the group has the real picture in its ball, or lies in that one's ball
    """

    size: Tensor
    good: Tensor
    balls: Tensor
    recalls: Tensor
    covers: Tensor

    def of(self, groups: Tensor, k: int) -> Manifold:
        """The four numbers of these groups' pictures."""
        n = float(self.size[groups].sum())
        recall, coverage = (float(m[:, groups].any(1).double().mean()) for m in (self.recalls, self.covers))
        return Manifold(float(self.good[groups].sum()) / n, recall, float(self.balls[groups].sum()) / (k * n), coverage)


def manifold(real: Tensor, made: Tensor, k: int = 5) -> Manifold:
    """The four numbers of features (N, D) and (M, D). Raises Problem unless both sets have more than k."""
    return _near(real, made, k, groups=1).of(torch.tensor([0]), k)


def manifold_intervals(real: Tensor, made: Tensor, k: int = 5, *, seed: int = 0) -> dict[str, Interval]:
    """{name: its Interval}, by bootstrap: made pictures are drawn again in GROUPS groups, the real ones stay.

    The balls stay as they are too; no number leaves what it can be: from 0, and shares to 1.
    """
    near, found = _near(real, made, k, groups=min(GROUPS, len(made))), {}
    every = torch.arange(len(near.size))
    for i, (name, value) in enumerate(near.of(every, k)._asdict().items()):
        it = bootstrap(value, lambda rows, i=i: near.of(rows, k)[i], len(every), draws=100, seed=seed)
        most = max(value, float("inf") if name == "density" else 1.0)
        found[name] = Interval(value, max(0.0, it.low), min(most, it.high))
    return found


def _near(real: Tensor, made: Tensor, k: int, groups: int) -> _Near:
    if not 1 <= k < min(len(real), len(made)):
        raise Problem(f"k={k} neighbours of {len(real)} real and {len(made)} made pictures: more than k are wanted")
    real, made = real.double(), made.double()
    around_real, around_made = radii(real, k), radii(made, k)
    numbers = [torch.zeros(groups, dtype=torch.int64) for _ in range(3)]
    hits = [torch.zeros(len(real), groups, dtype=torch.int32) for _ in range(2)]
    which = torch.arange(len(made)) % groups
    for part, radius, group in zip(made.split(CHUNK), around_made.split(CHUNK), which.split(CHUNK)):
        d = torch.cdist(real, part)  # (N, chunk)
        within = d < around_real[:, None]
        for into, value in zip(numbers, (torch.ones(len(part)), within.any(0), within.sum(0))):
            into.index_add_(0, group, value.long())
        for table, inside in zip(hits, (d < radius, within)):
            table.index_add_(1, group, inside.int())
    return _Near(*numbers, *(table > 0 for table in hits))


def radii(features: Tensor, k: int) -> Tensor:
    """The distance of each sample to its k-th nearest other one, (N,)."""
    rows = [torch.cdist(part, features).kthvalue(k + 1, dim=1).values for part in features.split(CHUNK)]
    return torch.cat(rows)  # the nearest of all, at 0, is the sample itself
