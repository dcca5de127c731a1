"""Does a model repeat what it was trained on? The nearest training picture of each made one."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ..errors import Problem

COPY = 1 / 3  # d1/d2 below which a picture counts as a copy


class Neighbours(NamedTuple):
    """nearest (M,): the place in the training features; ratio (M,): distance to it over that to the next nearest.

    A copy lies far nearer to one training picture than to any other: ratio < 1/3 (Yoon et al. 2023). The test says
    nothing of training sets that hold the same picture twice, whose two nearest are equally near.
    """

    nearest: Tensor
    distance: Tensor
    ratio: Tensor

    @property
    def copies(self) -> int:
        return int((self.ratio < COPY).sum())


def neighbours(made: Tensor, trained: Tensor, chunk: int = 1024) -> Neighbours:
    """The nearest of training features (N, D) for each made one (M, D), by Euclidean distance."""
    if len(trained) < 2:
        raise Problem(f"nearest neighbours want at least 2 training pictures, not {len(trained)}")
    found = [torch.cdist(part.double(), trained.double()).topk(2, largest=False) for part in made.split(chunk)]
    distance, index = torch.cat([f.values for f in found]), torch.cat([f.indices for f in found])
    return Neighbours(index[:, 0], distance[:, 0], distance[:, 0] / distance[:, 1].clamp(min=1e-12))
