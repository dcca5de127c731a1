"""Decoders at one compression: 32×32×3 pixels from 8×8×3 numbers, by regression, by autoencoders, by diffusion."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from phosphene.data.scenes import Scenes, wilson
from phosphene.data.sheet import contact_sheet
from phosphene.metrics.frechet import Moments
from phosphene.metrics.interval import Interval, frechet_interval
from phosphene.recipes.parts import pictures_of
from phosphene.recipes.scenes.decoders import copied, still_read
from phosphene.studies.base import Found, Job, Need, Study
from phosphene.studies.pictures import Judge, compared
from phosphene.systems.autoencoder import psnr
from phosphene.systems.upscale import Upscaler
from phosphene.views.plot import Curve, Plot

STEPS = (2, 5, 10, 20)  # of the decoders that are diffusion models
STAND_INS = {
    "small": "a small picture", "superres": "a small picture", "kl": "KL latents", "vq": "VQ latents",
    "diffused": "KL latents",
}  # fmt: skip
SHOWN = 8


def measured(job: Job) -> Iterator[str | Found]:
    source = Scenes(32, job.n, "test")
    pictures, scenes = pictures_of(source, 32), [source[i].meta["objects"] for i in range(job.n)]
    judge = Judge(2)  # for its features: copies are compared with their originals
    originals = judge.features(pictures)
    rows, curves, strips = [], [], [pictures[:SHOWN]]
    for name, system in job.systems.items():
        points, bands = [], []
        for steps in STEPS if isinstance(system, Upscaler) else (None,):
            yield f"{name}{f', {steps} steps' if steps else ''}: {job.n} copies"
            made, seconds = timed(system, pictures, job.seed, steps)
            kept = judge.features(made)
            distance = frechet_interval(Moments.of(kept), kept, Moments.of(originals), copies=originals)
            read = still_read(scenes, made)
            share = Interval(read / job.n, *wilson(read, job.n))
            rows.append((name, STAND_INS[name], steps, distance, float(psnr(made, pictures)), share, 1000 * seconds))
            points.append((steps or STEPS[0], distance.value))
            bands.append(tuple(distance[1:]))
        strips.append(made[:SHOWN])
        points = points if len(points) > 1 else [(steps, points[0][1]) for steps in (STEPS[0], STEPS[-1])]
        curves.append(Curve(name, points, bands if len(bands) > 1 else (), (1, 0) if len(bands) == 1 else ()))
    plot = Plot(curves, "steps of the diffusion decoders", "Fréchet distance of copies to their originals", True)
    columns = ("decoder", "stand-in", "steps", "reconstruction Fréchet", "PSNR, dB", "read right", "CPU ms a picture")
    sheet = contact_sheet(torch.cat(strips), [name for name in ("scenes", *job.systems) for _ in range(SHOWN)], SHOWN)
    yield Found(columns, rows, plot.drawn(), answer(rows, job.n), {"copies": sheet})


def timed(system: Any, pictures: Tensor, seed: int, steps: int | None) -> tuple[Tensor, float]:
    """(copies, processor's seconds a picture, encoding included), in batches of 64."""
    began = time.process_time()
    how = {} if steps is None else {"steps": steps}
    made = copied(system, pictures, seed, **how)
    return made, (time.process_time() - began) / len(pictures)


def answer(rows: list[tuple], n: int) -> str:
    """Diffusion against regression for each stand-in; the last row of a decoder is the one with the most steps."""
    last = {row[0]: row for row in rows}

    def line(diffusion: str, plain: str) -> str:
        a, b = last[diffusion], last[plain]
        return (
            f"from {a[1]} the diffusion decoder's copies ({a[2]} steps) are {compared(a[3], b[3])} in Fréchet distance "
            f"than those by {plain} ({a[3]} against {b[3]}), and {a[4] - b[4]:+.1f} dB in PSNR"
        )

    best = max(rows, key=lambda row: row[5].value)
    return (
        f"On {n} test scenes, {line('superres', 'small')}; {line('diffused', 'kl')}. Most scenes are still read right "
        f"after {best[0]}: {best[5].value:.0%}."
    )


STUDY = Study(
    "Which decoder gives most back at one compression?",
    {name: Need(f"scenes.{name}") for name in STAND_INS},
    measured,
    n=300,
)
