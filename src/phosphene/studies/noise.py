"""Why noise is added back after each step: Algorithm 2 with σ_t·z left out, fixed small, fixed large and learned.

With the trained network, and with the exact denoiser of 2,000 scenes, which makes no mistakes of its own.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Iterator
from typing import Any

from PIL import Image

from phosphene.studies.base import Found, Job, Need, Study
from phosphene.studies.exact import exact
from phosphene.studies.pictures import COLUMNS, Judge, Scored, compared, made, strip
from phosphene.systems.ddpm import Ddpm
from phosphene.views.page import Grid, View
from phosphene.views.plot import Curve, Plot

STEPS = (10, 100, 1000)
KINDS: dict[str, dict[str, Any]] = {  # how Algorithm 2 is told
    "left out": {"silent": True, "variance": "small"},
    "small": {"variance": "small"},
    "large": {"variance": "large"},
    "learned": {"variance": "learned"},
    "DDIM": {"sampler": "ddim"},
}


def measured(job: Job) -> Iterator[str | Found]:
    trained = job.systems["ddpm"]
    judge = Judge(size=trained.size)
    by_heart = exact(trained.denoiser.schedule, size=trained.size, sampler="ddpm")
    ours = yield from swept(trained, list(KINDS), judge, job, "network")
    known = [kind for kind in KINDS if kind != "learned"]
    its = yield from swept(by_heart, known, judge, job, "exact")
    rows = [
        (name, kind, steps, *scored)
        for name, found in (("network", ours), ("exact", its))
        for (kind, steps), scored in found.items()
    ]
    last = STEPS[-1]
    told = []
    for name, found in (("network", ours), ("exact denoiser", its)):
        out, small = found["left out", last], found["small", last]
        told.append(
            f"by the {name}, in {last} steps, σ_t·z left out gives {out.kinds} kinds of things in {job.n} pictures "
            f"and a distance of {out.frechet}; the small variance {small.kinds} kinds and {small.frechet}, which is "
            f"{compared(small.frechet, out.frechet)}"
        )
    answer = "; ".join(told) + f" (N = {job.n} a setting, 95 % intervals)."
    answer = answer[0].upper() + answer[1:]
    yield "film strips"
    strips = {"strips": film(trained, list(KINDS), job.seed), "exact": film(by_heart, known, job.seed)}
    yield Found(("denoiser", "noise", "steps", *COLUMNS), rows, plot(ours).drawn(), answer, strips)


Swept = dict[tuple[str, int], Scored]


def swept(system: Ddpm, kinds: list[str], judge: Judge, job: Job, name: str) -> Generator[str, None, Swept]:
    """Returns {(kind, steps): scores}."""
    found: Swept = {}
    for kind in kinds:
        for steps in STEPS:
            yield f"{name}: noise {kind}, {steps} steps, {job.n} pictures"
            found[kind, steps] = judge(made(system, job.n, job.seed, steps=steps, **KINDS[kind]))
    return found


def plot(found: Swept) -> Plot:
    curves = []
    for kind in dict.fromkeys(kind for kind, _ in found):
        distances = [found[kind, steps].frechet for steps in STEPS]
        points = [(math.log10(steps), it.value) for steps, it in zip(STEPS, distances, strict=True)]
        curves.append(Curve(kind, points, [it[1:] for it in distances]))
    return Plot(curves, "steps, as a power of ten", "Fréchet distance by the network", logarithmic=True)


def film(system: Ddpm, kinds: list[str], seed: int) -> Image.Image:
    """x_t from the noise to the picture, a row a kind of noise: the same start in each."""
    steps = STEPS[1]
    cells = [strip(system, seed, steps=steps, **KINDS[kind]) for kind in kinds]
    columns = [f"{round((1 - i / 6) * steps)} to go" for i in range(7)] + ["the picture"]
    reading = (
        "x_t, which the denoiser sees, from the same noise. Where a step's noise is left out, x is cleaner than t says "
        "and lies at the mean of all pictures, from where every run goes the same way."
    )
    return View(f"Algorithm 2 in {steps} steps", [Grid(cells, kinds, columns)], reading).picture()


STUDY = Study(
    "Why is noise added back after each step, and how much of it?", {"ddpm": Need("scenes.ddpm")}, measured, n=64
)
