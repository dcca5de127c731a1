"""Steps against quality: how few calls of the network does a sampler need?

From one noise the probability flow leads to one picture. A sampler's error is how far from it its own picture is; its
quality is what the judges of pictures say, who may not mind.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

from PIL import Image
from torch import Tensor

from phosphene.data.scenes import evaluate_prompts, score
from phosphene.diffusion.denoiser import Denoise, Denoised
from phosphene.metrics.frechet import Moments
from phosphene.metrics.interval import Interval, frechet_interval, mean_of
from phosphene.recipes.grids import made_of
from phosphene.studies.base import Found, Job, Need, Study
from phosphene.studies.pictures import Judge, sheet
from phosphene.systems.base import System
from phosphene.views.plot import Curve, Plot

CALLS = (5, 10, 20, 40)
FEW = 10  # calls, at which samplers are compared in words
# As good as the flow itself. On 16 pictures of scenes.latent 800 steps of UniPC and 300 of Heun's method are 0.0002
# apart, and from the former these 200 calls are 0.0005 away on average and 0.0017 at most; 120 steps of Heun's method,
# which are 238 calls, 0.0007; 100 steps of UniPC 0.0014; 60 of Heun's method 0.0031, of the 0.008 of a sampler at 40.
EXACT = {"sampler": "unipc", "steps": 200}
TWICE = ("heun",)  # those that call the network twice a step, but once out of pure noise and into the clean end
FRESH = ("euler_ancestral",)  # those that add noise, and so follow no flow
NAMES = ("ddim", "euler_ancestral", "heun", "plms", "dpmpp_2m", "unipc")
COLUMNS = ("sampler", "calls", "away from the flow's picture", "half are nearer than", "Fréchet", "right")


class Scored(NamedTuple):
    """away: of each picture, the root of the mean square of pixels from 0 to 1; None where there is no flow."""

    calls: int
    away: Tensor | None
    frechet: Interval
    right: Interval


def measured(job: Job) -> Iterator[str | Found]:
    system, judge, prompts = job.systems["latent"], Judge(), evaluate_prompts("single", job.n, job.seed)
    yield f"the flow itself, {EXACT['steps']} steps of {EXACT['sampler']}: {job.n} pictures"
    flow, _ = counted(system, prompts, job.seed, **EXACT)
    found: dict[str, list[Scored]] = {name: [] for name in NAMES}
    shown = [("the flow", flow[:8])]
    for name in NAMES:
        for calls in CALLS:
            yield f"{name}, {calls} calls: {job.n} pictures"
            steps = calls // 2 + 1 if name in TWICE else calls
            pictures, spent = counted(system, prompts, job.seed, sampler=name, steps=steps)
            found[name].append(scored(judge, pictures, flow, prompts, spent, name in FRESH))
            if calls == FEW:
                shown.append((f"{name}, {spent}", pictures[:8]))
    rows = [(name, *cells(it)) for name, each in found.items() for it in each]
    pages = {"away": away_plot(found), "pictures": sheet(f"Samplers at {FEW} calls", shown, prompts)}
    yield Found(COLUMNS, rows, plot(found), answer(found, job.n), pages)


def counted(system: System, prompts: list[str], seed: int, **how) -> tuple[Tensor, int]:
    """The pictures, and how often a run called the (guided) network for each of them."""
    calls = [0]

    def counting(denoise: Denoise) -> Denoise:
        def counts(x: Tensor, t: Tensor) -> Denoised:
            calls[0] += len(x)
            return denoise(x, t)

        return counts

    pictures = made_of(system, prompts, seed, around=counting, **how)
    return pictures, calls[0] // len(prompts)


def scored(judge: Judge, pictures: Tensor, flow: Tensor, prompts: list[str], calls: int, fresh: bool) -> Scored:
    features, read = judge.features(pictures), score(prompts, pictures)
    away = None if fresh else ((pictures - flow) / 2).square().flatten(1).mean(1).sqrt()
    frechet = frechet_interval(Moments.of(features), features, judge.real)
    return Scored(calls, away, frechet, Interval(read.rate, *read.interval))


def cells(it: Scored) -> tuple:
    """Of a row. The median too, as the mean is made by few pictures, whose things stand elsewhere, or are others."""
    away = (None, None) if it.away is None else (mean_of(it.away), float(it.away.median()))
    return it.calls, *away, it.frechet, it.right


def plot(found: dict[str, list[Scored]]) -> Image.Image:
    """Fréchet's distance against the calls, a curve a sampler."""
    curves = [
        Curve(name, [(math.log2(it.calls), it.frechet.value) for it in each], [it.frechet[1:] for it in each])
        for name, each in found.items()
    ]
    return Plot(curves, "calls of the network, as a power of two", "Fréchet's distance to test scenes", True).drawn()


def away_plot(found: dict[str, list[Scored]]) -> Image.Image:
    """How far from the flow's picture, a curve a sampler that follows it."""
    curves = []
    for name, each in found.items():
        if away := [(it.calls, mean_of(it.away)) for it in each if it.away is not None]:
            curves.append(Curve(name, [(math.log2(n), it.value) for n, it in away], [it[1:] for _, it in away]))
    return Plot(curves, "calls of the network, as a power of two", "away from the flow's picture, L2", True).drawn()


def answer(found: dict[str, list[Scored]], n: int) -> str:
    """At few calls, each against DDIM: picture by picture, as both start from the same noise, and by the judges."""
    at = CALLS.index(FEW)
    base, told = found["ddim"][at], []
    for name in ("dpmpp_2m", "unipc"):
        its = found[name][at]
        nearer = mean_of(base.away - its.away)
        ratio = float((its.away.mean() / base.away.mean()).clamp(min=1e-9))
        word = "nearer" if nearer.low > 0 else "farther" if nearer.high < 0 else "no nearer at this scale"
        told.append(
            f"{name} is {word} to the flow's picture than ddim, {ratio:.2f} of its distance (difference {nearer}); "
            f"right {its.right.value:.1%} against {base.right.value:.1%}, Fréchet {its.frechet} against {base.frechet}"
        )
    return f"At {FEW} calls " + "; ".join(told) + f". N = {n}, the same seeds, 95 % intervals."


STUDY = Study(
    "How few calls does a sampler need?",
    {"latent": Need("scenes.latent")},
    measured,
    n=200,
)
