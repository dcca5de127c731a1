"""Imagen on emoji (Saharia et al. 2022): a base of 64×64 pixels, and its super-resolution to 128×128."""

from __future__ import annotations

from pathlib import Path

from phosphene.recipes.base import Plan, recipe
from phosphene.recipes.emoji.shared import GROUPS, PROMPTS, rows


@recipe(clip="emoji.clip")
def imagen(
    *,
    data: str = "emoji",
    size: int = 64,
    groups: str = GROUPS,
    clip: Path | None = None,
    steps: int = 40_000,
    batch: int = 128,
    lr: float = 3e-4,
    width: int = 96,
    drop: float = 0.1,
    seed: int = 0,
) -> Plan:
    """Imagen's base on emoji, 64×64 pixels (Saharia et al. 2022); emoji.imagen_upscale enlarges them. Not trained yet.

    phosphene train emoji.imagen --data emoji:path=TABLE.parquet

    groups  Unicode's groups of emoji to learn, joined by |; "" is all
    clip    a bundle of emoji.clip, whose text encoder reads, frozen; trained first where none is given
    width   channels at the full size; four times as many at an eighth of it
    drop    how often the caption is left out, for guidance by the empty one
    """
    from phosphene.recipes.cascade import imagen_base, imagen_words, plan_of

    channels = (width, 2 * width, 3 * width, 4 * width)
    system = imagen_base(imagen_words(clip.text, 4 * width), size, channels, (0, 0, 1, 1))
    settings = dict(steps=steps, lr=lr, seed=seed, sample_every=2000)
    return plan_of(system, rows(data, groups), size, batch, settings, drop, PROMPTS, card="# emoji.imagen")


@recipe(imagen="emoji.imagen")
def imagen_upscale(
    *,
    data: str = "emoji",
    size: int = 128,
    groups: str = GROUPS,
    imagen: Path | None = None,
    steps: int = 20_000,
    batch: int = 64,
    lr: float = 3e-4,
    width: int = 64,
    level: float = 0.1,
    drop: float = 0.1,
    seed: int = 0,
) -> Plan:
    """Imagen's super-resolution on emoji, 64×64 → 128×128. Its bundle is the cascade of both. Not trained yet.

    phosphene train emoji.imagen_upscale --data emoji:path=TABLE.parquet

    groups  Unicode's groups of emoji to learn, joined by |; "" is all
    imagen  a bundle of emoji.imagen, the base; trained first where none is given
    width   channels at half the size; eight times as many at a sixteenth of it
    level   of the noise on the small picture at sampling, from 0 to 1; in training it is drawn
    drop    how often the caption is left out
    """
    from phosphene.recipes.cascade import after, imagen_upscaler, plan_of

    channels = (width, 2 * width, 4 * width, 8 * width)
    system = imagen_upscaler(imagen, size, channels, (1, 2, 4, 4), level)
    settings = dict(steps=steps, lr=lr, seed=seed, sample_every=2000)
    return plan_of(
        system, rows(data, groups), size, batch, settings, drop, PROMPTS, whole=after(imagen),
        card="# emoji.imagen_upscale",
    )  # fmt: skip
