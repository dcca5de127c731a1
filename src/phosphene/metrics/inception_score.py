"""Inception score (Salimans et al. 2016): exp of the mean KL(p(y|x) ‖ p(y)), of a classifier's logits."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..errors import Problem
from .kernel import Spread


def inception_score(logits: Tensor, *, splits: int = 10, seed: int | None = 0) -> Spread:
    """Mean and deviation over `splits` equal parts of logits (N, classes), shuffled by `seed` (None: in their order).

    From 1 (all alike) to the number of classes. Raises Problem for fewer pictures than splits.
    """
    n = len(logits)
    if not 1 <= splits <= n:
        raise Problem(f"{n} pictures cannot be split into {splits} parts")
    if seed is not None:
        logits = logits[torch.randperm(n, generator=torch.Generator().manual_seed(seed))]
    log_p = logits.double().log_softmax(dim=1)
    scores = []
    for i in range(splits):
        part = log_p[i * n // splits : (i + 1) * n // splits]
        marginal = part.logsumexp(0) - math.log(len(part))  # log p(y)
        scores.append((part.exp() * (part - marginal)).sum(1).mean().exp())
    values = torch.stack(scores)
    return Spread(float(values.mean()), float(values.std(correction=0)))
