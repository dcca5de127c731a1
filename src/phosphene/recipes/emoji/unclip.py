"""unCLIP on emoji (Ramesh et al. 2022): its diffusion prior, a decoder of 64×64 pixels, an upsampler to 128×128."""

from __future__ import annotations

from pathlib import Path

from phosphene.recipes.base import Plan, recipe
from phosphene.recipes.emoji.shared import GROUPS, PROMPTS, STYLES, held_rows, rows


@recipe(clip="emoji.clip")
def prior(
    *,
    data: str = "emoji",
    size: int = 64,
    styles: str = STYLES,
    clip: Path | None = None,
    steps: int = 20_000,
    batch: int = 256,
    lr: float = 5e-4,
    width: int = 384,
    layers: int = 8,
    length: int = 32,
    drop: float = 0.1,
    seed: int = 0,
) -> Plan:
    """unCLIP's diffusion prior on emoji: from words to what emoji.clip sees (Ramesh et al. 2022). Not trained yet.

    phosphene train emoji.prior --data emoji:path=TABLE.parquet

    styles  which rows, joined by |; "" is all
    clip    a bundle of emoji.clip, whose embeddings are learned; trained first where none is given
    width   of the transformer; layers: its blocks; length: how many tokens of a caption it is told
    drop    how often the caption is left out, for guidance by the empty one
    """
    from phosphene.recipes.parts import pictures_of
    from phosphene.recipes.priors import Held, diffusion_prior, lines, seen

    system = diffusion_prior(clip, width, layers, length)
    batches = seen(system, rows(data, styles=styles), size, batch, drop, seed)
    held = held_rows(data, styles)

    def report(trained):
        if held is None:
            return []
        names = [r["name_en"] for r in held.rows]
        said = [r[("name_en", "name_zh")[i % 2]] for i, r in enumerate(held.rows)]
        return lines(trained, Held(pictures_of(held, size), said, names))

    return Plan(system, batches, dict(steps=steps, lr=lr, seed=seed), report=report, card="# emoji.prior")


@recipe(clip="emoji.clip")
def unclip(
    *,
    data: str = "emoji",
    size: int = 64,
    groups: str = GROUPS,
    clip: Path | None = None,
    steps: int = 40_000,
    batch: int = 128,
    lr: float = 3e-4,
    width: int = 96,
    drop: float = 0.5,
    seed: int = 0,
) -> Plan:
    """unCLIP's decoder on emoji, 64×64 pixels (Ramesh et al. 2022); emoji.unclip_upscale is the whole. Not trained yet.

    phosphene train emoji.unclip --data emoji:path=TABLE.parquet

    groups  Unicode's groups of emoji to learn, joined by |; "" is all
    clip    a bundle of emoji.clip, whose picture embedding is told; trained first where none is given
    width   channels at the full size; four times as many at an eighth of it
    drop    how often the caption is left out; the embedding is left out of a tenth
    """
    from phosphene.recipes.cascade import plan_of_decoder, unclip_decoder

    system = unclip_decoder(clip, size, (width, 2 * width, 3 * width, 4 * width), (0, 0, 1, 1))
    settings = dict(steps=steps, lr=lr, seed=seed, sample_every=2000)
    return plan_of_decoder(system, rows(data, groups), size, batch, settings, drop, PROMPTS, card="# emoji.unclip")


@recipe(unclip="emoji.unclip", prior="emoji.prior")
def unclip_upscale(
    *,
    data: str = "emoji",
    size: int = 128,
    groups: str = GROUPS,
    unclip: Path | None = None,
    prior: Path | None = None,
    steps: int = 20_000,
    batch: int = 64,
    lr: float = 3e-4,
    width: int = 64,
    blurred: float = 0.8,
    seed: int = 0,
) -> Plan:
    """unCLIP's upsampler on emoji, 64×64 → 128×128. Its bundle is the whole: prior, decoder and this. Not trained yet.

    phosphene train emoji.unclip_upscale --data emoji:path=TABLE.parquet

    groups   Unicode's groups of emoji to learn, joined by |; "" is all
    unclip   a bundle of emoji.unclip, the decoder; trained first where none is given
    prior    a bundle of emoji.prior, of the same CLIP; trained first where none is given
    width    channels at the full size
    blurred  what it is shown is blurred in training, by up to so many of its pixels
    """
    from phosphene.recipes.cascade import after_unclip, plan_of, unclip_upscaler

    system = unclip_upscaler(size, unclip.size, (width, 2 * width, 3 * width, 4 * width), blurred=blurred)
    settings = dict(steps=steps, lr=lr, seed=seed, sample_every=2000)
    return plan_of(
        system, rows(data, groups), size, batch, settings, whole=after_unclip(unclip, prior),
        prompts=PROMPTS, card="# emoji.unclip_upscale",
    )  # fmt: skip
