"""The sample grids of a run: the same prompts and seeds each time, so that one sees the model learn."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from phosphene.systems.base import Prompt, System


def grid_of(prompts: Sequence[Prompt], **options: Any) -> Callable[[System], Tensor]:
    """system → its pictures of these prompts, seeds 0, 1, …: (B, 3, H, W)."""

    def sample(system: System) -> Tensor:
        *_, last = system.generate(list(prompts), seeds=list(range(len(prompts))), **options)
        return last.picture()

    return sample
