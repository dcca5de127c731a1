"""unCLIP's priors at equal compute: by diffusion, code by code, and none, the text's embedding in the picture's place.

One decoder makes pictures of what each says (Ramesh et al. 2022, §5.1): told the words besides, as there, and told the
embedding alone, so that what the embedding says is all that it knows.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from phosphene.data.scenes import Scenes, evaluate_prompts, score
from phosphene.data.scenes.draw import render
from phosphene.data.scenes.judge import evaluation_scenes
from phosphene.data.sheet import contact_sheet
from phosphene.metrics.interval import Interval
from phosphene.recipes.grids import made_of
from phosphene.recipes.parts import pictures_of
from phosphene.recipes.priors import Held, held_scenes, near
from phosphene.studies.base import Found, Job, Need, Study
from phosphene.studies.latents import spent
from phosphene.studies.pictures import compared
from phosphene.systems.base import Batch
from phosphene.systems.prior import ClipPrior, DiffusionPrior
from phosphene.systems.unclip import Unclip, joined
from phosphene.text.unclip import Meant
from phosphene.views.plot import Curve, Plot

STEPS = (1, 2, 4, 8, 16, 32)  # of the diffusion prior
SHOWN = 8
NONE, TRUE = "none: z_t", "a picture's own z_i"
COLUMNS = (
    "prior", "training, TFLOP", "training, CPU s", "MFLOP an embedding", "CPU ms an embedding", "cosine", "named",
    "right, with words", "right, embedding alone",
)  # fmt: skip


def measured(job: Job) -> Iterator[str | Found]:
    unclip = job.systems["unclip"]
    priors = {name: joined(it, unclip.stages[0]) for name, it in job.systems.items() if name != "unclip"}
    prompts = evaluate_prompts("single", job.n, job.seed)
    held = held_scenes(job.n)
    said, costs, nearness = {}, {}, {}
    for name, prior in [*priors.items(), (NONE, None)]:
        yield f"{name}: {job.n} embeddings"
        trained = (None, None) if prior is None else training_cost(prior, job.runs[name])
        costs[name] = (*trained, *cost(prior, unclip, prompts))
        nearness[name] = near(prior, unclip.clip, held, job.seed)
        said[name] = embeddings(prior, unclip, prompts, job.seed)
    said[TRUE] = pictured(unclip, job.n, job.seed)
    rows, strips = [], []
    for name, rows_of in said.items():
        yield f"{name}: {2 * job.n} pictures"
        both, alone = (pictures(unclip, rows_of, told, job.seed) for told in (prompts, [None] * job.n))
        right = [score(prompts, made) for made in (both, alone)]
        shares = [Interval(it.rate, *it.interval) for it in right]
        rows.append((name, *costs.get(name, [None] * 4), *nearness.get(name, [None] * 2), *shares))
        strips.append(alone[:SHOWN])
    yield "the diffusion prior's steps"
    plot = Plot(
        curves(priors, unclip, nearness, held, job.seed),
        "steps of the diffusion prior, as a power of two",
        "1 - cosine with the picture's z_i",
    )
    sheet = contact_sheet(torch.cat(strips), [name for name in said for _ in range(len(strips[0]))], len(strips[0]))
    yield Found(COLUMNS, rows, plot.drawn(), answer(rows, job.n), {"pictures": sheet})


def embeddings(prior: ClipPrior | None, unclip: Unclip, prompts: Sequence[str], seed: int) -> Tensor:
    """z_i (N, dim) that a prior says, seeds seed, seed + 1, …; without one, z_t."""
    if prior is None:
        return unclip.stages[0].said(prompts)
    rows = [range(i, min(i + 100, len(prompts))) for i in range(0, len(prompts), 100)]
    return torch.cat([prior.embeddings(prompts[at.start : at.stop], seeds=[seed + i for i in at]) for at in rows])


def pictured(unclip: Unclip, n: int, seed: int) -> Tensor:
    """z_i (n, dim) of scenes that are what the prompts say: what a perfect prior might say."""
    scenes = [torch.from_numpy(render(scene, 32)) for _, scene in evaluation_scenes("single", n, seed)]
    return unclip.stages[0].seen(torch.stack(scenes).permute(0, 3, 1, 2) / 127.5 - 1)


def pictures(unclip: Unclip, image_emb: Tensor, words: Sequence[str | None], seed: int) -> Tensor:
    """What the decoder makes of embeddings and words, enlarged by bicubic to what the exact parser reads."""
    small = made_of(unclip.stages[0], [Meant(*told) for told in zip(words, image_emb)], seed)
    return F.interpolate(small, size=(32, 32), mode="bicubic").clamp(-1, 1)


def cost(prior: ClipPrior | None, unclip: Unclip, prompts: Sequence[str]) -> tuple[float, float]:
    """(10⁶ floating-point operations, processor's milliseconds) an embedding, the text tower's part included."""
    some = prompts[:32]
    with FlopCounterMode(display=False) as counter:
        embeddings(prior, unclip, some[:1], 0)
    began = time.process_time()
    embeddings(prior, unclip, some, 0)
    return counter.get_total_flops() / 1e6, 1000 * (time.process_time() - began) / len(some)


def training_cost(prior: ClipPrior, run: Any) -> tuple[float, float]:
    """(10¹² floating-point operations, processor's seconds) of a run on captioned scenes."""
    batch = json.loads((run / "settings.json").read_text())["recipe"]["batch"]
    source = Scenes(32, batch, objects=(1, 2))
    captions = [source[i].captions[0] for i in range(batch)]
    return spent(prior, Batch(pictures_of(source, 32), captions, torch.arange(batch)), run)


def curves(priors: dict[str, Any], unclip: Unclip, nearness: dict[str, Any], held: Held, seed: int) -> list[Curve]:
    """1 - cosine by the steps of the diffusion prior, as powers of two, and the others' as level lines."""
    found = []
    for name, it in nearness.items():
        if isinstance(priors.get(name), DiffusionPrior):
            each = [(s, near(priors[name], unclip.clip, held, seed, steps=s).cosine) for s in STEPS]
        else:
            each = [(s, it.cosine) for s in (STEPS[0], STEPS[-1])]
        dash = (4, 4) if name == NONE else ()
        points = [(math.log2(s), 1 - c.value) for s, c in each]
        found.append(Curve(name, points, [(1 - c.high, 1 - c.low) for _, c in each], dash))
    return found


def answer(rows: list[tuple], n: int) -> str:
    """Each prior against none, and the two against each other."""
    right = {row[0]: row[-1] for row in rows}
    none, true = right.pop(NONE), right.pop(TRUE)
    others = "; ".join(f"{name} {it.value:.0%}, {compared(it, none)}" for name, it in right.items())
    a, b = right
    return (
        f"Of {n} pictures that the decoder makes of an embedding alone are right: without a prior {none.value:.0%}; "
        f"{others}; of a picture's own embedding {true.value:.0%}. {a} against {b}: {compared(right[a], right[b])} "
        f"(95 % intervals)."
    )


STUDY = Study(
    "Which prior, at equal compute: by diffusion, code by code, or none?",
    {"diffusion": Need("scenes.prior"), "AR": Need("scenes.ar_prior"), "unclip": Need("scenes.unclip")},
    measured,
    n=500,
)
