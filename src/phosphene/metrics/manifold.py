"""Precision and recall (Kynkäänniemi et al. 2019), density and coverage (Naeem et al. 2020), by k nearest neighbours.

A set's manifold is the union of balls around its samples, each as wide as the distance to the k-th nearest other one.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ..errors import Problem

CHUNK = 2048  # rows of a distance matrix at once


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


def manifold(real: Tensor, made: Tensor, k: int = 5) -> Manifold:
    """The four numbers of features (N, D) and (M, D). Raises Problem unless both sets have more than k."""
    if not 1 <= k < min(len(real), len(made)):
        raise Problem(f"k={k} neighbours of {len(real)} real and {len(made)} made pictures: more than k are wanted")
    real, made = real.double(), made.double()
    around_real, around_made = radii(real, k), radii(made, k)
    inside, density, recalled = 0, 0, torch.zeros(len(real), dtype=torch.bool)
    nearest = torch.full((len(real),), torch.inf, dtype=torch.float64)
    for part, radius in zip(made.split(CHUNK), around_made.split(CHUNK)):
        d = torch.cdist(real, part)  # (N, chunk)
        within = d < around_real[:, None]
        inside += int(within.any(0).sum())
        density += int(within.sum())
        recalled |= (d < radius).any(1)
        nearest = torch.minimum(nearest, d.min(1).values)
    covered = (nearest < around_real).double().mean()
    share = float(recalled.double().mean())
    return Manifold(inside / len(made), share, density / (k * len(made)), float(covered))


def radii(features: Tensor, k: int) -> Tensor:
    """The distance of each sample to its k-th nearest other one, (N,)."""
    rows = [torch.cdist(part, features).kthvalue(k + 1, dim=1).values for part in features.split(CHUNK)]
    return torch.cat(rows)  # the nearest of all, at 0, is the sample itself
