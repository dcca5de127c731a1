"""Dynamic against static thresholding at high guidance (Saharia et al. 2022, §2.3 and figure A.8).

Guidance pushes x0 out of [−1, 1]. It may be left there, clamped (static), or clamped to its own quantile and divided by
it (dynamic).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor

from phosphene.data.scenes import evaluate_prompts
from phosphene.data.sheet import contact_sheet
from phosphene.metrics.interval import Interval, mean_of
from phosphene.recipes.cascade import enlarged
from phosphene.recipes.grids import made_of
from phosphene.studies.base import Found, Job, Need, Study
from phosphene.studies.guidance import Scored, scored, words_curve
from phosphene.studies.pictures import Judge, compared
from phosphene.systems.ddpm import Ddpm

GUIDANCE = (1.0, 3.0, 8.0, 16.0)
KINDS = {"none": (None, None), "static": (None, 1.0), "dynamic": ((0.995,), 1.0)}  # threshold and bound of a Ddpm
COLUMNS = ("threshold", "guidance", "Fréchet", "CLIP score", "precision", "recall", "right", "saturated")
SHOWN = 8


def measured(job: Job) -> Iterator[str | Found]:
    base, judge = job.systems["imagen"], Judge()
    prompts = evaluate_prompts("single", job.n, job.seed)
    found: dict[str, list[tuple[float, Scored, Interval]]] = {kind: [] for kind in KINDS}
    shown = []
    for kind in KINDS:
        for guidance in GUIDANCE:
            yield f"{kind}, guidance {guidance:g}: {job.n} pictures"
            with thresholded(base, kind):
                small = made_of(base, prompts, job.seed, guidance=guidance)
            pictures = enlarged(small)
            found[kind].append((guidance, scored(judge, pictures, prompts, job.seed), saturated(small)))
            shown += list(pictures[:SHOWN])
    rows = [(kind, guidance, *it, full) for kind, each in found.items() for guidance, it, full in each]
    plot = words_curve({kind: [(guidance, it) for guidance, it, _ in each] for kind, each in found.items()})
    names = [f"{kind} {guidance:g}" for kind in KINDS for guidance in GUIDANCE for _ in prompts[:SHOWN]]
    yield Found(
        COLUMNS, rows, plot, answer(found, job.n), {"pictures": contact_sheet(shown, names, SHOWN)}
    )  # fmt: skip


@contextmanager
def thresholded(base: Ddpm, kind: str) -> Iterator[None]:
    """The base with a threshold of KINDS within, and afterwards as it was."""
    was = base.threshold, base.bound
    base.threshold, base.bound = KINDS[kind]
    try:
        yield
    finally:
        base.threshold, base.bound = was


def saturated(pictures: Tensor) -> Interval:
    """The share of a picture's numbers that are at the ends of their range, the mean over pictures."""
    return mean_of((pictures.abs() > 0.995).double().flatten(1).mean(1))


def answer(found: dict[str, list[tuple[float, Scored, Interval]]], n: int) -> str:
    """Dynamic against static at the highest guidance."""
    (guidance, static, a), (_, dynamic, b) = found["static"][-1], found["dynamic"][-1]
    said = (
        f"{what} {y.value:.3g} against {x.value:.3g}, {compared(y, x)}"
        for what, x, y in (
            ("Fréchet", static.frechet, dynamic.frechet),
            ("right", static.right, dynamic.right),
            ("saturated", a, b),
        )
    )
    return f"Dynamic against static at guidance {guidance:g}: {'; '.join(said)}. N = {n} a point, 95 % intervals."


STUDY = Study(
    "Does dynamic thresholding help where guidance is high?",
    {"imagen": Need("scenes.imagen")},
    measured,
    n=250,
)
