"""Three kinds of guidance, one model: how near to real pictures, and how near to the words, as the scale goes up.

The model, GLIDE's base, is told words (classifier-free guidance), or it is told nothing and a judge of noisy pictures
pulls: a classifier (Dhariwal & Nichol 2021), or a CLIP (GLIDE, §2.3). All curves begin at the same pictures, of no
guidance. GLIDE's upsampler, told nothing, enlarges them all.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from PIL import Image
from torch import Tensor

from phosphene.data.scenes import caption, score
from phosphene.data.scenes.judge import evaluation_scenes
from phosphene.metrics.frechet import Moments
from phosphene.metrics.interval import Interval, frechet_interval
from phosphene.metrics.manifold import manifold_intervals
from phosphene.metrics.words import alignment
from phosphene.recipes.grids import made_of
from phosphene.studies.base import Found, Job, Need, Study
from phosphene.studies.pictures import Judge, compared, sheet
from phosphene.views.plot import Curve, Plot

SCALES = {
    "classifier-free": (1.0, 2.0, 4.0, 8.0),
    "classifier": (0.3, 1.0, 3.0, 10.0),
    "CLIP": (0.3, 1.0, 3.0, 10.0),
}
STEPS = 20  # of the base
JUDGES = {"classifier": "classifier", "CLIP": "clip"}  # kind -> the study's need that guides
COLUMNS = ("guidance", "scale", "Fréchet", "CLIP score", "precision", "recall", "right")


class Scored(NamedTuple):
    """frechet, precision, recall: against test scenes, by the shipped CLIP's features, whose is the CLIP score too.

    right  the share in which the exact parser reads the prompt's colour and shape, and nothing else
    """

    frechet: Interval
    clip: Interval
    precision: Interval
    recall: Interval
    right: Interval


def options(kind: str, scale: float, systems: dict[str, Any]) -> dict[str, Any]:
    """What `generate` is told. Where a judge guides, the model hears no words: its own guidance is 0."""
    if kind not in JUDGES:
        return {"guidance": scale}
    return {"guidance": 0.0, "guides": [(systems[JUDGES[kind]], scale)]}


def asked(n: int, seed: int) -> list[str]:
    """Prompts of one object, its colour and shape alone: what all three kinds can be told."""
    return [caption(spec.without_sizes()) for spec, _ in evaluation_scenes("single", n, seed)]


def made(cascade: Any, prompts: Sequence[str], seed: int, **how: Any) -> Tensor:
    """What the base makes of the prompts, and the upsampler, which is told none, of that: (N, 3, H, W)."""
    small, large = cascade.stages
    pictures = made_of(small, prompts, seed, steps=STEPS, **how)
    return made_of(large, [None] * len(prompts), seed, image=pictures)


def scored(judge: Judge, pictures: Tensor, prompts: Sequence[str], seed: int) -> Scored:
    features, read = judge.features(pictures), score(prompts, pictures)
    near = manifold_intervals(judge.seen, features, seed=seed)
    return Scored(
        frechet_interval(Moments.of(features), features, judge.real, seed=seed),
        alignment(judge.extractor.clip, features, prompts, seed)["clip_score"],
        near["precision"],
        near["recall"],
        Interval(read.rate, *read.interval),
    )


def measured(job: Job) -> Iterator[str | Found]:
    glide, judge, prompts = job.systems["glide"], Judge(), asked(job.n, job.seed)
    found: dict[str, list[tuple[float, Scored]]] = {}
    shown: dict[str, list[Tensor]] = {}
    yield f"no guidance: {job.n} pictures"
    nothing = made(glide, prompts, job.seed, guidance=0.0)
    start = scored(judge, nothing, prompts, job.seed)
    for kind, scales in SCALES.items():
        found[kind], shown[kind] = [(0.0, start)], [nothing[:8]]
        for scale in scales:
            yield f"{kind}, scale {scale:g}: {job.n} pictures"
            pictures = made(glide, prompts, job.seed, **options(kind, scale, job.systems))
            found[kind].append((scale, scored(judge, pictures, prompts, job.seed)))
            shown[kind].append(pictures[:8])
    rows = [(kind, scale, *it) for kind, each in found.items() for scale, it in each if scale]
    yield Found(
        COLUMNS, [("none", 0.0, *start), *rows], words_curve(found), answer(found, job.n),
        {"recall": recall_curve(found), "pictures": sheet("Three kinds of guidance", settings(shown), prompts)},
    )  # fmt: skip


def words_curve(found: dict[str, list[tuple[float, Scored]]]) -> Image.Image:
    """Fréchet's distance against the CLIP score, a curve a kind, the scale rising along it."""
    curves = [
        Curve(kind, [(it.clip.value, it.frechet.value) for _, it in each], [it.frechet[1:] for _, it in each])
        for kind, each in found.items()
    ]
    return Plot(curves, "CLIP score", "Fréchet's distance to test scenes; the scale rises along a curve").drawn()


def recall_curve(found: dict[str, list[tuple[float, Scored]]]) -> Image.Image:
    curves = [Curve(kind, [(it.recall.value, it.precision.value) for _, it in each]) for kind, each in found.items()]
    return Plot(curves, "recall", "precision; the scale rises along a curve", span=(0, 1)).drawn()


def settings(shown: dict[str, list[Tensor]]) -> list[tuple[str, Tensor]]:
    """(name, pictures), the same seeds in every one; that without guidance once, as all kinds begin with it."""
    rows: list[tuple[str, Tensor]] = []
    for kind, each in shown.items():
        for scale, pictures in zip((0.0, *SCALES[kind]), each):
            if scale or not rows:
                rows.append((f"{kind} {scale:g}" if scale else "none", pictures))
    return rows


def answer(found: dict[str, list[tuple[float, Scored]]], n: int) -> str:
    """What happens to precision and recall between no guidance and the most of each kind."""
    lines = []
    for kind, each in found.items():
        (_, first), (scale, last) = each[0], each[-1]
        lines.append(
            f"{kind}, from none to {scale:g}: precision {first.precision.value:.2f} → {last.precision.value:.2f}, "
            f"{compared(last.precision, first.precision)}; recall {first.recall.value:.2f} → "
            f"{last.recall.value:.2f}, {compared(last.recall, first.recall)}."
        )
    return " ".join(lines) + f" N = {n} a setting, 95 % intervals."


STUDY = Study(
    "What do classifier, CLIP and classifier-free guidance buy, and what does it cost?",
    {
        "glide": Need("scenes.glide_upscale"),
        "classifier": Need("scenes.classifier"),
        "clip": Need("scenes.clip_noised"),
    },
    measured,
    n=400,
)
