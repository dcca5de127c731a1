"""The best denoiser of a finite set of pictures, in closed form: beside it one sees which errors are the network's."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from phosphene.data.scenes import Scenes
from phosphene.diffusion.cond import Cond
from phosphene.diffusion.denoiser import Denoiser
from phosphene.diffusion.schedule import Table
from phosphene.parts import part
from phosphene.recipes.parts import pictures_of
from phosphene.systems.ddpm import Ddpm

KNOWN = 2000  # scenes


@part
class Exact(nn.Module):
    """E[x0 | x_t] where the data are the pictures X_i and no others, as a network that predicts x0.

    x0 = Σ w_i·X_i,  w = softmax(log N(x; α·X_i, σ²I)) = softmax((α·x·X_i − ½α²|X_i|²)/σ²)
    """

    multiple = 1

    def __init__(self, schedule: Table):
        super().__init__()
        self.schedule = schedule
        self.pictures = nn.Parameter(torch.empty(0), requires_grad=False)

    def forward(self, x: Tensor, time: Tensor, cond: Cond) -> Tensor:
        level = self.schedule((time.double().cpu() + 1) / self.schedule.T)
        alpha, sigma = (value.to(x).view(-1, 1) for value in level)
        known = self.pictures.flatten(1)
        log_w = (alpha * x.flatten(1) @ known.T - alpha**2 * known.square().sum(1) / 2) / sigma**2  # (B, N)
        return (log_w.softmax(1) @ known).view_as(x)


def exact(schedule: Table, n: int | None = None, size: int = 32, **how) -> Ddpm:
    """A system that knows n training scenes of one object (None: KNOWN of them), and nothing else, by heart."""
    net = Exact(schedule)
    net.pictures.data = pictures_of(Scenes(size, n or KNOWN, "train", (1, 1)), size)
    return Ddpm(Denoiser(net, schedule, "x0"), size=size, **how).eval()
