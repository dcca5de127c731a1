"""Noise against picture: the same network, data and steps, told to predict ε or x0."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from phosphene.diffusion.denoiser import Denoiser
from phosphene.studies.base import Found, Job, Need, Study
from phosphene.studies.pictures import COLUMNS, Judge, compared, held, made
from phosphene.views.plot import Curve, Plot

STEPS = (10, 100)
HELD = 128  # pictures that are noised and guessed
LOGSNR = [float(v) for v in torch.linspace(8, -8, 17)]


def measured(job: Job) -> Iterator[str | Found]:
    size = job.systems["eps"].size
    judge, known, rows, curves = Judge(size=size), held(HELD, size), [], []
    for predicts, system in job.systems.items():
        yield f"{predicts}: its guesses of {len(known)} noised scenes"
        curves.append(Curve(predicts, list(zip(LOGSNR, errors(system.denoiser, known, job.seed), strict=True))))
        for steps in STEPS:
            yield f"{predicts}, {steps} steps: {job.n} pictures"
            rows.append((predicts, steps, *judge(made(system, job.n, job.seed, steps=steps, variance="small"))))
    plot = Plot(curves, "log SNR: clean on the left, noise on the right", "error of the guess of x0", True, True)
    by = {(predicts, steps): scenes for predicts, steps, _, scenes, _ in rows}
    eps, x0 = by["eps", STEPS[-1]], by["x0", STEPS[-1]]
    better = {predicts: [x for (x, y), (_, other) in zip(a, b, strict=True) if y < other] for predicts, a, b in (
        ("eps", curves[0].points, curves[1].points), ("x0", curves[1].points, curves[0].points))}  # fmt: skip
    answer = (
        f"At {STEPS[-1]} steps {eps.value:.0%} of the pictures by ε and {x0.value:.0%} of those by x0 are scenes: ε is "
        f"{compared(eps, x0)} (N = {job.n}, 95 % intervals). Its guess of the picture is the better one "
        f"{_where(better['eps'])}, that of x0 {_where(better['x0'])}."
    )
    yield Found(("predicts", "steps", *COLUMNS), rows, plot.drawn(), answer)


def _where(logsnrs: list[float]) -> str:
    return f"at {len(logsnrs)} log SNRs from {max(logsnrs):g} to {min(logsnrs):g}" if logsnrs else "nowhere"


@torch.no_grad()
def errors(denoiser: Denoiser, pictures: Tensor, seed: int) -> list[float]:
    """The root mean square error of the guess of x0, clamped to [−1, 1], at each of LOGSNR: the same noise at all."""
    eps = torch.randn(pictures.shape, generator=torch.Generator().manual_seed(seed))
    found = []
    for logsnr in LOGSNR:
        t = denoiser.schedule.at(logsnr)
        guess = denoiser(denoiser.schedule.jump(pictures, t, eps), t).x0.clamp(-1, 1)
        found.append(float((guess - pictures).square().mean().sqrt()))
    return found


STUDY = Study(
    "Is it better to predict the noise or the picture?",
    {"eps": Need("scenes.ddpm"), "x0": Need("scenes.ddpm", {"predicts": "x0"})},
    measured,
    n=200,
)
