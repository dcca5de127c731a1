"""What recipes of unCLIP's priors build alike, and how near what they predict is to what CLIP sees."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from phosphene.data.base import Source
from phosphene.data.batches import Batches, Cached, cached
from phosphene.data.scenes import Scenes, caption, wilson
from phosphene.diffusion.denoiser import Denoiser
from phosphene.diffusion.schedule import Cosine
from phosphene.metrics.interval import Interval, mean_of
from phosphene.nets.ar_prior import CodeTransformer, PcaCodes
from phosphene.nets.prior import Prior
from phosphene.recipes.parts import pictures_of
from phosphene.systems.clip import ClipSystem
from phosphene.systems.prior import ArPrior, ClipPrior, DiffusionPrior

AT_ONCE = 100


def diffusion_prior(clip: ClipSystem, width: int, layers: int, length: int) -> DiffusionPrior:
    """z_i itself is predicted, on the cosine schedule, from captions of up to `length` tokens."""
    net = Prior(clip.arguments["width"], width, layers, width // 32, length)
    return DiffusionPrior(clip, Denoiser(net, Cosine(), "x0"), steps=16)


def ar_prior(
    clip: ClipSystem, width: int, layers: int, length: int, components: int, buckets: int, dots: int
) -> ArPrior:
    """z_i's first principal components, one bucket after the other, from captions of up to `length` tokens.

    Guided by 2: after minutes of training its likelihoods are still broad, and guidance narrows them.
    """
    dim = clip.arguments["width"]
    net = CodeTransformer(dim, width, layers, width // 32, length, components, buckets, dots)
    return ArPrior(clip, net, PcaCodes(dim, components, buckets), guidance=2.0)


def seen(system: ClipPrior, source: Source, size: int, batch: int, drop: float, seed: int) -> Cached:
    """What CLIP sees in the pictures, once, and captions, drawn at each step; the prior takes its measures of them."""
    batches = cached(Batches(source, size=size, batch=batch, seed=seed, drop=drop), system)
    system.measure(*pairs(system, batches))
    return batches


def pairs(system: ClipPrior, batches: Cached, n: int = 4096) -> tuple[Tensor, Tensor]:
    """z_i and z_t of about n pictures and their captions, without those whose caption is dropped: (·, dim) each."""
    some = [batches.at(step) for step in range(-(-n // batches.batch))]
    told = [(row, prompt) for batch in some for row, prompt in zip(batch.image, batch.prompts) if prompt]
    chunks = [[prompt for _, prompt in told[i : i + AT_ONCE]] for i in range(0, len(told), AT_ONCE)]
    return torch.stack([row for row, _ in told]), torch.cat([system.embed_text(part)[0] for part in chunks])


class Held(NamedTuple):
    """Pictures (N, 3, H, W) that no prior has learned from, what is said of each, and what each is called."""

    pictures: Tensor
    said: Sequence[str]
    names: Sequence[str]


def held_scenes(n: int, size: int = 32) -> Held:
    """n test scenes of one or two objects, their captions in English and Chinese by turns, and in plain English."""
    scenes = Scenes(size, n, "test", (1, 2))
    specs = [scenes[i].meta["spec"] for i in range(n)]
    said = [caption(spec, ("en", "zh")[i % 2]) for i, spec in enumerate(specs)]
    return Held(pictures_of(scenes, size), said, [caption(spec) for spec in specs])


class Near(NamedTuple):
    """How near embeddings are to those of the pictures of which it was said what they were made of.

    cosine  with the picture's own
    named   the share of them to which, of the names of all the pictures, its own is the nearest
    """

    cosine: Interval
    named: Interval


@torch.no_grad()
def near(prior: ClipPrior | None, clip: ClipSystem, held: Held, seed: int = 0, **how: Any) -> Near:
    """What a prior makes of what is said, or, for None, what CLIP's text tower says of it.

    Seeds are seed, seed + 1, …; how: the prior's options.
    """
    rows = [slice(i, i + AT_ONCE) for i in range(0, len(held.said), AT_ONCE)]
    image_emb = torch.cat([clip.embed_image(held.pictures[at]) for at in rows])
    made = torch.cat([
        clip.embed_text(held.said[at]) if prior is None
        else prior.embeddings(held.said[at], seeds=range(seed + at.start, seed + at.start + len(held.said[at])), **how)
        for at in rows
    ])  # fmt: skip
    names = sorted(set(held.names))
    nearest = (made @ torch.cat([clip.embed_text([name]) for name in names]).T).argmax(1).tolist()
    hits = sum(names[k] == own for k, own in zip(nearest, held.names))
    return Near(mean_of((made * image_emb).sum(-1)), Interval(hits / len(made), *wilson(hits, len(made))))


def scored(held: Held) -> Callable[[ClipPrior], dict[str, float]]:
    """`near`, as a plan's score."""
    return lambda system: {name: it.value for name, it in near(system, system.clip, held)._asdict().items()}


def lines(system: ClipPrior, held: Held) -> list[str]:
    """How near what a prior predicts is, and how near the text's own embedding would be in its place."""
    found = {"predicted z_i": near(system, system.clip, held), "z_t itself": near(None, system.clip, held)}
    return [
        f"- {name}: cosine with the picture's z_i {it.cosine}; to {it.named.value:.1%} of {len(held.said)} "
        f"({it.named.low:.1%} to {it.named.high:.1%}) their own caption is the nearest"
        for name, it in found.items()
    ]
