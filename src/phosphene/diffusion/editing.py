"""Around samplers: start from a picture, keep a part of it, find its noise, walk between two noises.

No sampler knows of these. They choose where a run starts, or stand between a sampler and its consumer as generators.
"""

from __future__ import annotations

from collections.abc import Generator

from torch import Tensor

from ..errors import Problem
from .noise import Between, between
from .samplers import Step
from .schedule import Schedule

__all__ = ["Between", "between", "from_picture", "inverted", "keep"]


def from_picture(x0: Tensor, strength: float, times: Tensor, schedule: Schedule, z: Tensor) -> tuple[Tensor, Tensor]:
    """SDEdit (Meng et al. 2022): the picture noised to a time of the run, and the times from there on.

    strength  the share of the run's steps that are taken: 1 all of them, small keeps the picture; at least one step
    z         unit noise like x0
    Raises Problem unless 0 < strength ≤ 1.
    """
    if not 0 < strength <= 1:
        raise Problem(f"strength={strength}: a share of the steps, above 0 and at most 1")
    steps = max(1, round(strength * (len(times) - 1)))
    times = times[-(steps + 1) :]
    return schedule.jump(x0, times[0], z), times


def keep(
    run: Generator[Step, Tensor | None, None],
    known: Tensor,
    mask: Tensor,
    schedule: Schedule,
    z: Tensor,
    end: Tensor | float = 0.0,
) -> Generator[Step, Tensor | None, None]:
    """The sampler `run`, in which the picture `known` stays where the mask is 1 (Lugmayr et al. 2022, equation 8).

    After each step the known part, noised by z to the step's level, is put over x and sent back; at `end`, which is
    above 0 where a file's scheduler stops there, it is the picture itself. known and z are like x; the mask, from 0 to
    1, is broadcastable to it.
    """
    x = None  # what the sampler is sent before its first step
    while True:
        try:
            step = run.send(x)
        except StopIteration:
            return
        noised = known if step.t <= end else schedule.jump(known, step.t, z)
        x = mask * noised + (1 - mask) * step.x
        sent = yield step._replace(x=x)
        x = x if sent is None else sent


def inverted(times: Tensor) -> Tensor:
    """A run's times backwards, from the first t > 0 up: any deterministic sampler on these finds a picture's noise.

    `*_, last = ddim(denoise, x0, inverted(times), schedule)`: last.x is the noise from which the run makes x0.
    Raises Problem where that leaves fewer than two times.
    """
    times = times[times > 0].flip(0)
    if len(times) < 2:
        raise Problem("inversion wants a run of at least two steps")
    return times
