"""DALL·E 2's priors on scenes (Ramesh et al. 2022, §2.2): from words to CLIP's embedding of a picture of them.

Either makes no picture by itself: scenes.unclip's decoder does, of what one of them says.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from phosphene.recipes.base import Plan, every, recipe, source_of
from phosphene.recipes.scenes.glide import DATA

if TYPE_CHECKING:
    from torch import Tensor

    from phosphene.data.batches import Cached
    from phosphene.metrics.interval import Interval
    from phosphene.systems.clip import ClipSystem
    from phosphene.systems.prior import ClipPrior


@recipe(clip="scenes.clip")
def prior(
    *,
    data: str = DATA,
    size: int = 32,
    clip: Path | None = None,
    steps: int = 1600,
    batch: int = 128,
    lr: float = 2e-3,
    width: int = 128,
    layers: int = 4,
    drop: float = 0.1,
    pictures: int = 30_000,
    held: int = 500,
    seed: int = 0,
) -> Plan:
    """unCLIP's diffusion prior on scenes: z_i itself is predicted, of z_i noised and of the words.

    phosphene train scenes.prior

    clip      a bundle of scenes.clip, whose embeddings are learned; trained first where none is given
    width     of the transformer; layers: its blocks
    drop      how often the caption is left out, for guidance by the empty one
    pictures  how many scenes are drawn to learn from
    held      how many test scenes' embeddings are predicted at the end, from their captions; 0 is none
    """
    from phosphene.diffusion.denoiser import Denoiser
    from phosphene.diffusion.schedule import Cosine
    from phosphene.nets.prior import Prior
    from phosphene.systems.prior import DiffusionPrior

    net = Prior(clip.arguments["width"], width, layers, width // 32, LENGTH)
    system = DiffusionPrior(clip, Denoiser(net, Cosine(), "x0"), steps=16)
    batches = seen(system, data, size, batch, drop, pictures, seed)
    system.measure(pairs(system, batches)[0])
    settings = dict(steps=steps, lr=lr, seed=seed, score_every=every(steps, 3))
    return Plan(
        system, batches, settings, score=lambda it: scores(it, min(held, 100), size),
        report=lambda it: lines(it, held, size), card="# scenes.prior\n\nunCLIP's diffusion prior, of scenes.",
    )  # fmt: skip


@recipe(clip="scenes.clip")
def ar_prior(
    *,
    data: str = DATA,
    size: int = 32,
    clip: Path | None = None,
    steps: int = 800,
    batch: int = 128,
    lr: float = 1e-3,
    width: int = 128,
    layers: int = 4,
    components: int = 32,
    buckets: int = 1024,
    dots: int = 32,
    drop: float = 0.1,
    pictures: int = 30_000,
    held: int = 500,
    seed: int = 0,
) -> Plan:
    """unCLIP's autoregressive prior on scenes: z_i's principal components, one bucket after the other.

    phosphene train scenes.ar_prior

    clip        a bundle of scenes.clip, whose embeddings are learned; trained first where none is given
    width       of the transformer; layers: its blocks
    components  how many are told, those of the largest eigenvalues; buckets: into how many each is divided
    dots        into how many the dot products of picture and words are divided
    drop        how often the caption is left out, for guidance by the empty one
    pictures    how many scenes are drawn to learn from
    held        how many test scenes' embeddings are predicted at the end, from their captions; 0 is none
    """
    from phosphene.nets.ar_prior import CodeTransformer, PcaCodes
    from phosphene.systems.prior import ArPrior

    dim = clip.arguments["width"]
    net = CodeTransformer(dim, width, layers, width // 32, LENGTH, components, buckets, dots)
    system = ArPrior(clip, net, PcaCodes(dim, components, buckets))
    batches = seen(system, data, size, batch, drop, pictures, seed)
    system.measure(*pairs(system, batches))
    settings = dict(steps=steps, lr=lr, seed=seed, score_every=every(steps, 3))
    return Plan(
        system, batches, settings, score=lambda it: scores(it, min(held, 100), size),
        report=lambda it: lines(it, held, size), card="# scenes.ar_prior\n\nunCLIP's autoregressive prior, of scenes.",
    )  # fmt: skip


LENGTH = 24  # tokens of the captions that scenes of one or two objects have, start and end among them


def seen(system: ClipPrior, data: str, size: int, batch: int, drop: float, pictures: int, seed: int) -> Cached:
    """What CLIP sees in the scenes, once, and their captions, drawn at each step."""
    from phosphene.data.batches import Batches, cached

    source = source_of(data, size=size, n=pictures)
    return cached(Batches(source, size=size, batch=batch, seed=seed, drop=drop), system)


def pairs(system: ClipPrior, batches: Cached, n: int = 4096) -> tuple[Tensor, Tensor]:
    """z_i and z_t of about n pictures and their captions: what a prior is measured on before it learns."""
    import torch

    some = [batches.at(step) for step in range(-(-n // batches.batch))]
    told = [(row, prompt) for batch in some for row, prompt in zip(batch.image, batch.prompts) if prompt]
    chunks = [[prompt for _, prompt in told[i : i + 256]] for i in range(0, len(told), 256)]
    return torch.stack([row for row, _ in told]), torch.cat([system.embed_text(part)[0] for part in chunks])


class Near(NamedTuple):
    """How near embeddings are to those of the pictures whose captions they were made of.

    cosine  with the picture's own
    named   the share of them to which, of the plain captions of all the pictures, its own is the nearest
    """

    cosine: Interval
    named: Interval


def near(prior: ClipPrior | None, clip: ClipSystem, n: int, size: int = 32, seed: int = 0, **how: Any) -> Near:
    """Of n test scenes of one or two objects: what a prior says for their captions; None: what CLIP's text tower says.

    Captions name the sizes, in English and Chinese by turns; seeds are seed, seed + 1, …; how: the prior's options.
    """
    import torch

    from phosphene.data.scenes import Scenes, caption, wilson
    from phosphene.metrics.interval import Interval, mean_of
    from phosphene.recipes.parts import pictures_of

    scenes = Scenes(size, n, "test", (1, 2))
    specs = [scenes[i].meta["spec"] for i in range(n)]
    said = [caption(spec, ("en", "zh")[i % 2]) for i, spec in enumerate(specs)]
    with torch.no_grad():
        image_emb = torch.cat([clip.embed_image(part) for part in pictures_of(scenes, size).split(250)])
        rows = [slice(i, min(i + 100, n)) for i in range(0, n, 100)]
        made = torch.cat([
            clip.embed_text(said[at]) if prior is None
            else prior.embeddings(said[at], seeds=range(seed + at.start, seed + at.stop), **how) for at in rows
        ])  # fmt: skip
    names = sorted({caption(spec) for spec in specs})
    nearest = (made @ clip.embed_text(names).T).argmax(1).tolist()
    hits = sum(names[k] == caption(spec) for k, spec in zip(nearest, specs))
    return Near(mean_of((made * image_emb).sum(-1)), Interval(hits / n, *wilson(hits, n)))


def scores(system: ClipPrior, n: int, size: int) -> dict[str, float]:
    """`near`, of n test scenes, as numbers."""
    return {name: it.value for name, it in near(system, system.clip, n, size)._asdict().items()} if n else {}


def lines(system: ClipPrior, n: int, size: int) -> list[str]:
    """What a prior predicts of n test scenes, and what the text's own embedding would be in its place."""
    if not n:
        return []
    found = {"predicted z_i": near(system, system.clip, n, size), "z_t itself": near(None, system.clip, n, size)}
    return [
        f"- {name}: cosine with the picture's z_i {it.cosine}; its own caption is the nearest to {it.named} of {n}"
        for name, it in found.items()
    ]
