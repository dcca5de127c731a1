"""How much a number would differ with other pictures of the same kind: intervals by bootstrap (Efron 1979)."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from ..errors import Problem
from .frechet import Moments, frechet


class Interval(NamedTuple):
    """A value, and where 95 of 100 such values of other pictures of the same kind and number would lie."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.4g} ({self.low:.4g} to {self.high:.4g})"


def bootstrap(value: float, again: Callable[[Tensor], float], n: int, *, draws: int = 200, seed: int = 0) -> Interval:
    """value ± 1.96 deviations of `again(rows)` over draws of n rows with replacement.

    The deviation alone is taken, and not the quantiles: a distance such as Fréchet's is too large by O(1/n), and a
    resample, in which rows repeat, is so by twice as much. Its place is biased, its width is not.
    """
    if n < 2:
        raise Problem(f"an interval wants at least 2 pictures, not {n}")
    generator = torch.Generator().manual_seed(seed)
    values = [again(torch.randint(n, (n,), generator=generator)) for _ in range(draws)]
    half = 1.96 * float(torch.tensor(values, dtype=torch.float64).std())
    return Interval(value, value - half, value + half)


def mean_of(values: Tensor) -> Interval:
    """The mean of one number a picture (N,) and ± 1.96·s/√N: what the bootstrap of a mean comes to."""
    if len(values) < 2:
        raise Problem(f"an interval wants at least 2 pictures, not {len(values)}")
    mean, half = float(values.double().mean()), 1.96 * float(values.double().std()) / len(values) ** 0.5
    return Interval(mean, mean - half, mean + half)


def frechet_interval(
    made: Moments, kept: Tensor, real: Moments, *, copies: Tensor | None = None, seed: int = 0
) -> Interval:
    """Fréchet's distance with its interval: made pictures are drawn again, the reference stays as it is.

    kept  features (K, D) of made pictures, a uniform sample where not all were kept; the deviation then shrinks
          with √(K/N), as that of a mean does
    copies  where the made pictures are copies of the real ones, the features of these (K, D), row by row: both are
          drawn again together, as they vary together
    100 draws up to 256 dimensions, 20 above: each costs the eigenvalues of a D×D matrix.
    """
    value, k = frechet(made, real), len(kept)
    draws = 100 if kept.shape[1] <= 256 else 20

    def again(rows: Tensor) -> float:
        return frechet(Moments.of(kept[rows]), real if copies is None else Moments.of(copies[rows]))

    found = bootstrap(value, again, k, draws=draws, seed=seed)
    half = (found.high - value) * (k / made.n) ** 0.5
    return Interval(value, max(0.0, value - half), value + half)
