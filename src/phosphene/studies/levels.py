"""How noisy should the small picture be that is made larger? The level of Imagen's augmentation, swept at sampling.

The base's faults are not those of reduced pictures, which the upscaler learned from. With some noise it believes what
it is shown less, and repairs; with much it invents (Saharia et al. 2022, §4.4 and appendix D.2).
"""

from __future__ import annotations

from collections.abc import Iterator

from phosphene.data.scenes import evaluate_prompts
from phosphene.data.sheet import contact_sheet
from phosphene.recipes.grids import made_of
from phosphene.studies.base import Found, Job, Need, Study
from phosphene.studies.guidance import Scored, scored
from phosphene.studies.pictures import Judge, compared
from phosphene.views.plot import Curve, Plot

LEVELS = (0.0, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 0.9)
COLUMNS = ("level", "Fréchet", "CLIP score", "precision", "recall", "right")
SHOWN = 8


def measured(job: Job) -> Iterator[str | Found]:
    cascade, judge = job.systems["imagen"], Judge()
    first, *larger = cascade.stages
    prompts = evaluate_prompts("single", job.n, job.seed)
    yield f"the base: {job.n} pictures"
    small = made_of(first, prompts, job.seed)  # once: all levels enlarge the same
    found, shown = [], []
    for level in LEVELS:
        yield f"level {level:g}: {job.n} pictures"
        pictures = small
        for stage in larger:
            pictures = made_of(stage, prompts, job.seed, image=pictures, level=level)
        found.append((level, scored(judge, pictures, prompts, job.seed)))
        shown += list(pictures[:SHOWN])
    right = Curve("right", [(level, it.right.value) for level, it in found], [it.right[1:] for _, it in found])
    plot = Plot([right], "level of the noise on the small picture", "right of single objects", span=(0.0, 1.0))
    sheet = contact_sheet(shown, [f"level {level:g}" for level, _ in found for _ in prompts[:SHOWN]], SHOWN)
    rows = [(level, *it) for level, it in found]
    yield Found(COLUMNS, rows, plot.drawn(), answer(found, job.n), {"pictures": sheet})


def answer(found: list[tuple[float, Scored]], n: int) -> str:
    """The best level by each of two scores, against none."""
    (_, none), lines = found[0], []
    for what, best in (
        ("Fréchet", min(found, key=lambda it: it[1].frechet.value)),
        ("right", max(found, key=lambda it: it[1].right.value)),
    ):
        at, it = best
        mine, theirs = (getattr(scores, what.lower().replace("é", "e")) for scores in (it, none))
        lines.append(
            f"{what} is best at level {at:g}: {mine.value:.3g} against {theirs.value:.3g} at level 0, "
            f"{compared(mine, theirs)}."
        )
    return " ".join(lines) + f" N = {n} a level, 95 % intervals."


STUDY = Study(
    "How noisy should the small picture be that is made larger?",
    {"imagen": Need("scenes.imagen_upscale")},
    measured,
    n=250,
)
