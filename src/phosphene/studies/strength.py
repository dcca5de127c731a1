"""SDEdit (Meng et al. 2022, §4): strokes become a picture, and the strength is how far it may go from them.

A stroke picture is noised as far as the strength says and denoised under the prompt. Little noise keeps the strokes
(faithful), much noise lets the model draw (realistic): the two curves of figure 3 there, in latents, and in pixels by
GLIDE's cascade, whose base edits the picture made smaller.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from phosphene.data.scenes import Scenes, caption, score
from phosphene.metrics.interval import Interval, mean_of
from phosphene.metrics.kernel import kernel_distance
from phosphene.recipes.parts import pictures_of
from phosphene.studies.base import Found, Job, Need, Study
from phosphene.studies.pictures import Judge, sheet
from phosphene.views.plot import Curve, Plot

STRENGTHS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
STEPS = 20  # of the whole way from noise
BLOCK = 4  # a side of the blocks of one colour that strokes are made of
ENOUGH = 0.9  # the share of what full strength gets right that a default strength should reach
COLUMNS = ("model", "strength", "L2 to the strokes", "kernel distance ×10³", "right")


def strokes(pictures: Tensor) -> Tensor:
    """What a hand would paint in blocks: the colours and the places of (N, 3, H, W), and no outlines."""
    small = F.avg_pool2d(pictures, BLOCK)
    ink = (small < 0.6).any(1, keepdim=True)  # a block that is painted at all is painted whole, in its fullest colour
    fullest = -F.max_pool2d(-pictures, BLOCK)
    return torch.where(ink, fullest, torch.ones_like(small)).repeat_interleave(BLOCK, 2).repeat_interleave(BLOCK, 3)


def edited(system: Any, start: Tensor, prompts: list[str], seed: int, strength: float, at_once: int = 64) -> Tensor:
    """The stroke pictures (N, 3, H, W) drawn again under their prompts, seeds seed, seed + 1, …"""
    parts = []
    for i in range(0, len(prompts), at_once):
        part = slice(i, min(i + at_once, len(prompts)))
        seeds = range(seed + part.start, seed + part.stop)
        *_, last = system.generate(prompts[part], seeds=seeds, image=start[part], strength=strength, steps=STEPS)
        parts.append(last.picture())
    return torch.cat(parts)


def measured(job: Job) -> Iterator[str | Found]:
    scenes, judge = Scenes(n=job.n, split="test", objects=(1, 1), seed=job.seed + 1), Judge()
    prompts = [caption(scenes[i].meta["spec"]) for i in range(job.n)]
    real = pictures_of(scenes, 32)
    start = strokes(real)
    found: dict[str, list[tuple[float, Interval, Interval, Interval]]] = {}
    shown = [("strokes", start[:8])]
    for name, system in job.systems.items():
        found[name] = []
        for strength in (*STRENGTHS, 1.0):
            yield f"{name}, strength {strength:g}: {job.n} pictures"
            pictures = edited(system, start, prompts, job.seed, strength)
            found[name].append((strength, *scored(judge, pictures, start, prompts)))
            if strength in (0.3, 0.6, 0.9):
                shown.append((f"{name} {strength:g}", pictures[:8]))
    rows = [[name, *row] for name, each in found.items() for row in each]
    page = sheet("SDEdit: strokes to pictures", shown, prompts)
    yield Found(COLUMNS, rows, plot(found), answer(found, job.n), {"pictures": page})


def scored(judge: Judge, pictures: Tensor, start: Tensor, prompts: list[str]) -> tuple[Interval, Interval, Interval]:
    """How far from the strokes (root of the mean square, of pixels from 0 to 1), how far from real ones, how right."""
    away = mean_of(((pictures - start) / 2).square().flatten(1).mean(1).sqrt())
    mean, std = (1000 * v for v in kernel_distance(judge.features(pictures), judge.seen))
    read = score(prompts, pictures)
    return away, Interval(mean, mean - std, mean + std), Interval(read.rate, *read.interval)


def plot(found: dict[str, list]) -> Any:
    """Realism against faithfulness: a curve a model, the strength rising along it."""
    curves = [
        Curve(f"{name}, strength {each[0][0]:g} to {each[-1][0]:g}", *zip(*(point(row) for row in each)))
        for name, each in found.items()
    ]
    return Plot(curves, "L2 to the strokes: less is faithful", "kernel distance ×10³: less is realistic").drawn()


def point(row: tuple[float, Interval, Interval, Interval]) -> tuple[tuple[float, float], tuple[float, float]]:
    """A point of the curve, and its band."""
    _, far, kernel, _ = row
    return (far.value, kernel.value), (kernel.low, kernel.high)


def answer(found: dict[str, list], n: int) -> str:
    """The least strength whose pictures are right as often, nearly, as those from noise alone."""
    said = []
    for name, each in found.items():
        best = each[-1][3]
        least = next(row for row in each if row[3].value >= ENOUGH * best.value)
        said.append(
            f"{name}: strength {least[0]:g} is the least that is right at least {ENOUGH:.0%} as often as pictures from "
            f"noise alone ({least[3].value:.1%} of {n}, {least[3].low:.1%} to {least[3].high:.1%}, against "
            f"{best.value:.1%}), at an L2 of {least[1].value:.3f} to the strokes against {each[-1][1].value:.3f}"
        )
    return "; ".join(said) + "."


STUDY = Study(
    "How strong must an edit be to be real, and still be of its strokes?",
    {"latents": Need("scenes.latent"), "pixels": Need("scenes.glide_upscale")},
    measured,
    n=200,
)
