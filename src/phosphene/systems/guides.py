"""What guides by its gradient: a system that says how likely the words are, given a noisy picture.

    ∇ log p(x_t | y) = ∇ log p(x_t) + g·∇ log p(y | x_t)

The first term is the denoiser's, whatever it is and whatever it was told; the second is anybody's who has seen noisy
pictures: a classifier (systems/classifier.py), a CLIP (systems/clip_noised.py), or one's own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from ..diffusion.denoiser import Denoise
from ..diffusion.guidance import LogProb, classifier, rescheduled
from ..diffusion.schedule import Schedule
from ..errors import Problem
from ..nets.classifier import NoisyClassifier
from .base import Prompt


class Guide(Protocol):
    """Whoever has this method guides any diffusion system."""

    def log_prob(self, prompts: Sequence[Prompt], schedule: Schedule) -> LogProb:
        """(x, t) → (B,), differentiable in x: log p(prompt | x_t), but for what does not depend on x_t.

        schedule  the sampler's, on which t and x stand. Raises Problem for prompts that cannot be judged.
        """
        ...


Guides = Sequence[tuple[Guide, float]]


def steered(denoise: Denoise, guides: Guides, prompts: Sequence[Prompt], schedule: Schedule) -> Denoise:
    """The guess of x0 moved by each guide's gradient, as strongly as its number says: they add up."""
    for guide, scale in guides:
        if scale:
            denoise = classifier(denoise, guide.log_prob(prompts, schedule), scale, schedule)
    return denoise


def looking(net: NoisyClassifier, own: Schedule, schedule: Schedule, judge) -> LogProb:
    """(x, t) of the sampler's schedule → judge(what the net makes of x there), (B,).

    judge  what the net gives, float32 (B, classes) → (B,)
    Raises Problem, once it sees it, for an x of another shape than the net was built for.
    """

    def of(x: Tensor, t: Tensor) -> Tensor:
        wanted = (net.conv_in.in_channels, net.size, net.size)
        if tuple(x.shape[1:]) != wanted:
            sides = ["×".join(map(str, shape)) for shape in (wanted, x.shape[1:])]
            raise Problem(
                f"this guide was trained on {sides[0]} numbers, and the model makes its pictures of {sides[1]}"
            )
        return judge(seen(net, own, x, t)).to(x.dtype)

    return rescheduled(of, own, schedule)


def seen(net: NoisyClassifier, schedule: Schedule, x: Tensor, t: Tensor) -> Tensor:
    """What the net makes of x (B, C, H, W) at time t, 0-d or (B,), of its own schedule: float32 (B, classes)."""
    time = schedule.c_noise(t).to(x.device, torch.float32)
    return net(x.to(net.conv_in.weight.dtype), time).float()


def noised(schedule: Schedule, x0: Tensor) -> tuple[Tensor, Tensor]:
    """(x_t, t) of clean x0 (B, …), at times that the schedule draws: what a guide is trained on."""
    t = schedule.draw(len(x0))
    return schedule.jump(x0, t, torch.randn_like(x0)), t
