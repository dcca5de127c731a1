"""GLIDE on emoji (Nichol et al. 2021): a base of 32×32 pixels, and an upsampler to 64×64."""

from __future__ import annotations

from pathlib import Path

from phosphene.recipes.base import Plan, recipe
from phosphene.recipes.emoji.shared import GROUPS, PROMPTS, rows


@recipe(clip="emoji.clip")
def glide(
    *,
    data: str = "emoji",
    size: int = 32,
    groups: str = GROUPS,
    clip: Path | None = None,
    steps: int = 20_000,
    batch: int = 128,
    lr: float = 5e-4,
    width: int = 64,
    drop: float = 0.1,
    seed: int = 0,
) -> Plan:
    """GLIDE's base on emoji, of 32×32 pixels (Nichol et al. 2021); emoji.glide_upscale enlarges them. Not trained yet.

    phosphene train emoji.glide --data emoji:path=TABLE.parquet

    groups  Unicode's groups of emoji to learn, joined by |; "" is all
    clip    a bundle of emoji.clip, with whose text transformer its own begins; trained first where none is given
    width   channels at the full size; four times as many at an eighth of it
    drop    how often the caption is left out, for guidance by the empty one
    """
    from phosphene.recipes.cascade import Reduced, glide_base, glide_words, plan_of

    words = glide_words(clip, 4 * width)
    system = glide_base(words, size, (width, 2 * width, 3 * width, 4 * width), (0, 1, 1, 1))
    source = Reduced(rows(data, groups), size)
    settings = dict(steps=steps, lr=lr, seed=seed, sample_every=2000)
    return plan_of(system, source, size, batch, settings, drop, PROMPTS, card="# emoji.glide")


@recipe(glide="emoji.glide")
def glide_upscale(
    *,
    data: str = "emoji",
    size: int = 64,
    groups: str = GROUPS,
    glide: Path | None = None,
    steps: int = 10_000,
    batch: int = 64,
    lr: float = 5e-4,
    width: int = 48,
    drop: float = 0.1,
    seed: int = 0,
) -> Plan:
    """GLIDE's upsampler on emoji, 32×32 → 64×64. Its bundle is the cascade of emoji.glide and this. Not trained yet.

    phosphene train emoji.glide_upscale --data emoji:path=TABLE.parquet

    groups  Unicode's groups of emoji to learn, joined by |; "" is all
    glide   a bundle of emoji.glide, the base; trained first where none is given
    width   channels at the full size; four times as many at an eighth of it
    drop    how often the caption is left out
    """
    from phosphene.recipes.cascade import after, glide_upscaler, plan_of

    channels = (width, 2 * width, 3 * width, 4 * width)
    system = glide_upscaler(glide, size, channels, (0, 0, 1, 1), 4 * width)
    settings = dict(steps=steps, lr=lr, seed=seed, sample_every=2000)
    return plan_of(
        system, rows(data, groups), size, batch, settings, drop, PROMPTS, whole=after(glide),
        card="# emoji.glide_upscale",
    )  # fmt: skip
