"""Why noise is added back after each step: Algorithm 2 with σ_t·z left out, fixed small, fixed large and learned.

With the trained network, and with the exact denoiser of 2,000 scenes, which makes no mistakes of its own.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

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
    trained, judge = job.systems["ddpm"], Judge()
    by_heart = exact(trained.denoiser.schedule, size=trained.size, sampler="ddpm")
    ours = yield from swept(trained, list(KINDS), judge, job, "network")
    its = yield from swept(by_heart, [kind for kind in KINDS if kind != "learned"], judge, job, "exact")
    rows = [
        (name, kind, steps, *scored)
        for name, found in (("network", ours), ("exact", its))
        for (kind, steps), scored in found.items()
    ]
    last = STEPS[-1]
    out, small = ours["left out", last].scenes, ours["small", last].scenes
    answer = (
        f"At {last} steps {out.value:.0%} of the pictures are scenes with σ_t·z left out and {small.value:.0%} "
        f"with it: left out is {compared(out, small)}. By the exact denoiser, which has no errors of its own, they are "
        f"{its['left out', last].scenes.value:.0%} and {its['small', last].scenes.value:.0%} "
        f"(N = {job.n} a setting, 95 % intervals)."
    )
    yield "film strips"
    strips = film(trained, job.seed, STEPS[1]).picture()
    yield Found(("denoiser", "noise", "steps", *COLUMNS), rows, plot(ours).drawn(), answer, {"strips": strips})


Swept = dict[tuple[str, int], Scored]


def swept(system: Ddpm, kinds: list[str], judge: Judge, job: Job, name: str) -> Iterator[str]:
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
        shares = [found[kind, steps].scenes for steps in STEPS]
        points = [(math.log10(steps), share.value) for steps, share in zip(STEPS, shares, strict=True)]
        curves.append(Curve(kind, points, [share[1:] for share in shares]))
    return Plot(curves, "steps, as a power of ten", "share that the parser takes for scenes", span=(0, 1))


def film(system: Ddpm, seed: int, steps: int) -> View:
    """x_t from the noise to the picture, a row a kind of noise: the same start in each."""
    cells = [strip(system, seed, steps=steps, **KINDS[kind]) for kind in KINDS]
    columns = [f"{round((1 - i / 6) * steps)} to go" for i in range(7)] + ["the picture"]
    return View(
        f"Algorithm 2 in {steps} steps", [Grid(cells, list(KINDS), columns)],
        "x_t, which the network sees, from the same noise. Where a step's noise is left out, x is cleaner than t says, "
        "and the network, which was never shown such an x, smooths it further.",
    )  # fmt: skip


STUDY = Study(
    "Why is noise added back after each step, and how much of it?", {"ddpm": Need("scenes.ddpm")}, measured, n=64
)
