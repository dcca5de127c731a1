"""What came before DDPM: diffusion trained by the full bound (2015), and score matching with Langevin dynamics (2019).

One network, data and steps, told nothing. The bound and DDPM are both chains, of which the bound says how many bits a
picture costs; Langevin dynamics is no chain, and has none. It goes where the score says, and whatever else has a
gradient may pull as well (Dhariwal & Nichol 2021): here a classifier, which never saw exploding noise.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from PIL import Image
from torch import Tensor

from phosphene.data.scenes import score
from phosphene.metrics.interval import Interval, mean_of
from phosphene.metrics.likelihood import bits
from phosphene.recipes.cascade import enlarged
from phosphene.recipes.grids import made_of
from phosphene.studies.base import Found, Job, Need, Study
from phosphene.studies.guidance import asked
from phosphene.studies.pictures import COLUMNS, Judge, Scored, compared, held, sheet
from phosphene.views.plot import Curve, Plot

SCALES = (0.0, 1.0, 3.0)  # of the classifier that guides NCSN
HELD = 32  # pictures that the bound is measured on, each by all 1,000 steps
CHAINS = {"bound": "DPM 2015, the bound", "simple": "DDPM, L_simple"}  # need -> what it is called
NCSN = "NCSN"
READING = "The words above are what the classifier pulls to; nobody else hears them, nor it at scale 0."  # the pictures


class Row(NamedTuple):
    """bits: a number of test scenes, None without a chain; right: the share that are what was asked for, where asked.

    scale  of the classifier; None where none could be asked
    """

    model: str
    scale: float | None
    bits: Interval | None
    scored: Scored
    right: Interval | None


def measured(job: Job) -> Iterator[str | Found]:
    size = job.systems["ncsn"].size
    judge, known, prompts = Judge(size=size), held(HELD, size), asked(job.n, job.seed)
    rows: list[Row] = []
    shown: list[tuple[str, Tensor]] = []
    for need, name in CHAINS.items():
        yield f"{name}: the bound on {len(known)} test scenes, and {job.n} pictures"
        cost = mean_of(bits(job.systems[need], known, method="bound", seed=job.seed))
        pictures = enlarged(made_of(job.systems[need], [None] * job.n, job.seed))
        rows.append(Row(name, None, cost, judge(pictures), None))
        shown.append((name, pictures[:8]))
    for scale in SCALES:
        yield f"{NCSN}, the classifier at scale {scale:g}: {job.n} pictures"
        guides = [(job.systems["classifier"], scale)]
        pictures = enlarged(made_of(job.systems["ncsn"], prompts, job.seed, guides=guides))
        read = score(prompts, pictures)
        rows.append(Row(NCSN, scale, None, judge(pictures), Interval(read.rate, *read.interval)))
        shown.append((f"{NCSN}, scale {scale:g}", pictures[:8]))
    yield Found(
        ("model", "scale", "bits", *COLUMNS, "right"),
        [(row.model, row.scale, row.bits, *row.scored, row.right) for row in rows],
        plot(rows), answer(rows, job.n), {"pictures": sheet("DDPM and its ancestors", shown, prompts, READING)},
    )  # fmt: skip


def plot(rows: list[Row]) -> Image.Image:
    """What NCSN makes, against the classifier's scale."""
    guided = [row for row in rows if row.right is not None]
    shares = {
        "what was asked for": [row.right for row in guided],
        "taken for scenes": [row.scored.scenes for row in guided],
    }
    curves = [
        Curve(name, [(row.scale, it.value) for row, it in zip(guided, each)], [it[1:] for it in each])
        for name, each in shares.items()
    ]
    return Plot(curves, "the classifier's scale", "share of NCSN's pictures", span=(0, 1)).drawn()


def answer(rows: list[Row], n: int) -> str:
    bound, simple, *guided = rows
    plain, pulled = guided[0], guided[-1]
    scenes, others = bound.scored.scenes, simple.scored.scenes
    return (
        f"Trained by the bound a chain costs {bound.bits} bits a number, {compared(bound.bits, simple.bits)} than by "
        f"L_simple ({simple.bits}); {scenes.value:.1%} of its pictures are scenes, {compared(scenes, others)} than by "
        f"L_simple ({others.value:.1%}); of NCSN's {plain.scored.scenes.value:.1%} are. With a classifier at scale "
        f"{pulled.scale:g} NCSN makes what was asked for in {pulled.right.value:.1%}, "
        f"{compared(pulled.right, plain.right)} than without ({plain.right.value:.1%}). N = {n} a setting, the bits on "
        f"{HELD} test scenes, 95 % intervals."
    )


STUDY = Study(
    "What did DDPM's ancestors make?",
    {
        "bound": Need("scenes.ddpm", {"weight": "bound"}),
        "simple": Need("scenes.ddpm"),
        "ncsn": Need("scenes.ncsn"),
        "classifier": Need("scenes.classifier"),
    },
    measured,
    n=64,
)
