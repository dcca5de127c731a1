"""Pictures that recipes make: the sample grids of a run, and many of them to be judged."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from phosphene.systems.base import Prompt, System


def grid_of(prompts: Sequence[Prompt], **options: Any) -> Callable[[System], Tensor]:
    """system → its pictures of these prompts, seeds 0, 1, …: the same each time, so that one sees the model learn."""
    return lambda system: made_of(system, prompts, **options)


def made_of(system: System, prompts: Sequence[Prompt], seed: int = 0, at_once: int = 64, **options: Any) -> Tensor:
    """Pictures of the prompts (B, 3, H, W), seeds seed, seed + 1, …; `at_once` is the batch, and changes nothing.

    options   of `generate`; tensors, such as image and mask, have a row a prompt
    """
    made = []
    for first in range(0, len(prompts), at_once):
        rows = slice(first, first + at_once)
        part = list(prompts[rows])
        seeds = list(range(seed + first, seed + first + len(part)))
        theirs = {name: value[rows] if isinstance(value, Tensor) else value for name, value in options.items()}
        *_, last = system.generate(part, seeds=seeds, **theirs)
        made.append(last.picture())
    return torch.cat(made)
