"""DALL·E 2's priors on scenes (Ramesh et al. 2022, §2.2): from words to CLIP's embedding of a picture of them.

Either makes no picture by itself: scenes.unclip's decoder does, of what one of them says.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from phosphene.recipes.base import Plan, every, recipe, source_of
from phosphene.recipes.scenes.glide import DATA

if TYPE_CHECKING:
    from phosphene.data.batches import Cached
    from phosphene.systems.prior import ClipPrior

LENGTH = 24  # tokens of the captions that scenes of one or two objects have, start and end among them


@recipe(clip="scenes.clip")
def prior(
    *,
    data: str = DATA,
    size: int = 32,
    clip: Path | None = None,
    steps: int = 1400,
    batch: int = 128,
    lr: float = 2e-3,
    width: int = 128,
    layers: int = 4,
    drop: float = 0.1,
    pictures: int = 30_000,
    held: int = 500,
    seed: int = 0,
) -> Plan:
    """unCLIP's diffusion prior on scenes: z_i itself is predicted, from z_i noised and from the words.

    phosphene train scenes.prior

    clip      a bundle of scenes.clip, whose embeddings are learned; trained first where none is given
    width     of the transformer; layers: its blocks
    drop      how often the caption is left out, for guidance by the empty one
    pictures  how many scenes are drawn to learn from
    held      how many test scenes' embeddings are predicted at the end, from their captions; 0 is none
    """
    from phosphene.recipes.priors import diffusion_prior, seen

    system = diffusion_prior(clip, width, layers, LENGTH)
    batches = seen(system, source_of(data, size=size, n=pictures), size, batch, drop, seed)
    card = "# scenes.prior\n\nunCLIP's diffusion prior, of scenes."
    return _plan(system, batches, dict(steps=steps, lr=lr, seed=seed), held, size, card)


@recipe(clip="scenes.clip")
def ar_prior(
    *,
    data: str = DATA,
    size: int = 32,
    clip: Path | None = None,
    steps: int = 970,
    batch: int = 128,
    lr: float = 1.5e-3,
    width: int = 128,
    layers: int = 4,
    components: int = 16,
    buckets: int = 1024,
    dots: int = 32,
    drop: float = 0.1,
    pictures: int = 30_000,
    held: int = 500,
    seed: int = 0,
) -> Plan:
    """unCLIP's autoregressive prior on scenes: z_i's principal components, one bucket after the other.

    phosphene train scenes.ar_prior

    In all its steps it calculates as much as scenes.prior does.

    clip        a bundle of scenes.clip, whose embeddings are learned; trained first where none is given
    width       of the transformer; layers: its blocks
    components  how many are told, those of the largest eigenvalues; buckets: into how many each is divided
    dots        into how many the dot products of picture and words are divided
    drop        how often the caption is left out, for guidance by the empty one
    pictures    how many scenes are drawn to learn from
    held        how many test scenes' embeddings are predicted at the end, from their captions; 0 is none
    """
    from phosphene.recipes.priors import ar_prior, seen

    system = ar_prior(clip, width, layers, LENGTH, components, buckets, dots)
    batches = seen(system, source_of(data, size=size, n=pictures), size, batch, drop, seed)
    card = "# scenes.ar_prior\n\nunCLIP's autoregressive prior, of scenes."
    return _plan(system, batches, dict(steps=steps, lr=lr, seed=seed), held, size, card)


def _plan(system: ClipPrior, batches: Cached, settings: dict, held: int, size: int, card: str) -> Plan:
    from phosphene.recipes.priors import held_scenes, lines, scored

    settings["score_every"] = every(settings["steps"], 3)
    return Plan(
        system, batches, settings, score=scored(held_scenes(min(held, 100), size)) if held else None,
        report=lambda it: lines(it, held_scenes(held, size)) if held else [], card=card,
    )  # fmt: skip
