"""Learned variances at few steps: the share of noise by the network, against DDPM's two fixed ones."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from phosphene.diffusion.bound import variational_bound
from phosphene.diffusion.denoiser import Denoised, Denoiser
from phosphene.diffusion.schedule import Table
from phosphene.metrics.interval import Interval, mean_of
from phosphene.studies.base import Found, Job, Need, Study
from phosphene.studies.pictures import COLUMNS, Judge, compared, held, made
from phosphene.views.plot import Curve, Plot

STEPS = (5, 10, 25, 50)
HELD = 64  # pictures that the bound is measured on
VARIANCES = {"small": 0.0, "large": 1.0, "learned": None}  # the spread where the network is not asked for it


def measured(job: Job) -> Iterator[str | Found]:
    system = job.systems["ddpm"]
    judge, known = Judge(size=system.size), held(HELD, system.size)
    rows, curves = [], []
    for kind, spread in VARIANCES.items():
        found = []
        for steps in STEPS:
            yield f"{kind} variance, {steps} steps: {job.n} pictures, the bound on {len(known)}"
            scored = judge(made(system, job.n, job.seed, variance=kind, steps=steps))
            found.append((scored, bits(system.denoiser, known, steps, spread, job.seed)))
        rows += [(kind, n, bound, *scored) for n, (scored, bound) in zip(STEPS, found, strict=True)]
        points = [(n, bound.value) for n, (_, bound) in zip(STEPS, found, strict=True)]
        curves.append(Curve(kind, points, [bound[1:] for _, bound in found]))
    plot = Plot(curves, "steps", "the bound, bits a number", logarithmic=True)
    few = {kind: (bound, scenes) for kind, n, bound, _, scenes, _ in rows if n == STEPS[0]}
    answer = (
        f"At {STEPS[0]} steps the learned variance's bound is {few['learned'][0]} bits a number, "
        f"{compared(few['learned'][0], few['small'][0])} than the small one's and "
        f"{compared(few['learned'][0], few['large'][0])} than the large one's; its pictures are scenes in "
        f"{few['learned'][1].value:.0%}, against {few['small'][1].value:.0%} and {few['large'][1].value:.0%} "
        f"(N = {job.n}, 95 % intervals)."
    )
    yield Found(("variance", "steps", "bits", *COLUMNS), rows, plot.drawn(), answer)


def bits(denoiser: Denoiser, pictures: Tensor, steps: int, spread: float | None, seed: int) -> Interval:
    """The bound of the chain of `steps` steps, bits a number of pictures (N, 3, H, W).

    spread  where the variance lies between the small and the large one; None: where the network says
    """
    chain, times = respaced(denoiser.schedule, steps)

    def denoise(x: Tensor, t: Tensor) -> Denoised:
        guess = denoiser(x, times[round(float(t) * steps) - 1])
        return guess if spread is None else Denoised(guess.x0, torch.full_like(x, spread))

    generator = torch.Generator().manual_seed(seed)
    noise = lambda k: torch.randn(pictures.shape, generator=generator)  # noqa: E731
    return mean_of(variational_bound(denoise, pictures, chain, noise).total / math.log(2))


def respaced(schedule: Table, steps: int) -> tuple[Table, Tensor]:
    """A chain of `steps` of a table's entries as a table of its own, and the times of these entries, cleanest first.

    β of a step from s to t is 1 − (α_t/α_s)² (Nichol & Dhariwal 2021, §4).
    """
    times = schedule.times(steps).flip(0)
    signal = schedule(times).alpha.square()
    return Table((1 - signal[1:] / signal[:-1]).tolist()), times[1:]


STUDY = Study("Does a learned variance help at few steps?", {"ddpm": Need("scenes.ddpm")}, measured, n=200)
