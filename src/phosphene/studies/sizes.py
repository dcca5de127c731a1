"""Is the text encoder's size or the U-Net's worth more? Imagen's curves (Saharia et al. 2022, §4.4), small.

Four bases of 16×16 pixels, alike in all but two sizes: that of the frozen text encoder, which is scenes.clip's at two
widths, and that of the U-Net. Each is a curve: as the guidance rises, how near to real pictures, how near to the words.
"""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn

from phosphene.data.scenes import evaluate_prompts
from phosphene.data.sheet import contact_sheet
from phosphene.recipes.cascade import enlarged
from phosphene.recipes.grids import made_of
from phosphene.studies.base import Found, Job, Need, Study
from phosphene.studies.guidance import Scored, scored, words_curve
from phosphene.studies.pictures import Judge, compared

GUIDANCE = (1.0, 2.0, 4.0, 8.0)
STEPS = 12  # of the sampler
TEXTS = {"small": Need("scenes.clip", {"width": 32}), "large": Need("scenes.clip")}
WIDTHS = {"small": 16, "large": 32}  # channels of the U-Net
TRAINED = {"steps": 500, "pictures": 10_000, "judged": 0}
COLUMNS = ("text", "U-Net", "text, M", "U-Net, M", "guidance", "Fréchet", "CLIP score", "precision", "recall", "right")
SCORES = {"Fréchet": "frechet", "CLIP score": "clip", "right": "right"}  # of which the answer speaks
SHOWN = 8
Curves = dict[str, list[tuple[float, Scored]]]  # name of a base: (guidance, scores), …


def measured(job: Job) -> Iterator[str | Found]:
    judge, prompts = Judge(), evaluate_prompts("single", job.n, job.seed)
    found: Curves = {}
    rows, shown = [], []
    for name, base in job.systems.items():
        text, unet = (part.split()[0] for part in name.split(", "))
        sizes = parameters(base.encoder.text), parameters(base.denoiser.net)
        found[name] = []
        for guidance in GUIDANCE:
            yield f"{name}, guidance {guidance:g}: {job.n} pictures"
            pictures = enlarged(made_of(base, prompts, job.seed, steps=STEPS, guidance=guidance))
            found[name].append((guidance, scored(judge, pictures, prompts, job.seed)))
            rows.append((text, unet, *sizes, guidance, *found[name][-1][1]))
        shown += list(enlarged(made_of(base, prompts[:SHOWN], job.seed, steps=STEPS)))
    sheet = contact_sheet(shown, [name for name in found for _ in range(len(prompts[:SHOWN]))], SHOWN)
    yield Found(COLUMNS, rows, words_curve(found), answer(found, job.n), {"pictures": sheet})


def parameters(net: nn.Module) -> float:
    """In millions."""
    return sum(p.numel() for p in net.parameters()) / 1e6


def answer(found: Curves, n: int) -> str:
    """What either size changes while the other stays, each base at its best guidance by Fréchet's distance."""
    best = {name: min((it for _, it in each), key=lambda it: it.frechet.value) for name, each in found.items()}

    def change(one: str, other: str) -> str:
        pairs = ((what, getattr(best[one], name), getattr(best[other], name)) for what, name in SCORES.items())
        said = (f"{what} {y.value:.3g} against {x.value:.3g}, {compared(y, x)}" for what, x, y in pairs)
        return f"{other} against {one}: {'; '.join(said)}."

    axes = {
        "A larger text encoder": [(f"small text, {u} U-Net", f"large text, {u} U-Net") for u in WIDTHS],
        "A larger U-Net": [(f"{t} text, small U-Net", f"{t} text, large U-Net") for t in TEXTS],
    }
    lines = [f"{axis}: {' '.join(change(*pair) for pair in pairs)}" for axis, pairs in axes.items()]
    return " ".join(lines) + f" N = {n} a point, each at its best guidance, 95 % intervals."


STUDY = Study(
    "Is it worth more to make the text encoder larger, or the U-Net?",
    {
        f"{t} text, {u} U-Net": Need("scenes.imagen", {"clip": TEXTS[t], "width": WIDTHS[u], **TRAINED})
        for t in TEXTS
        for u in WIDTHS
    },
    measured,
    n=250,
)
