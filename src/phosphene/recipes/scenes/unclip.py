"""unCLIP on scenes (Ramesh et al. 2022): a decoder of 16×16 pixels, an upsampler to 32×32; priors.py has the priors."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from phosphene.recipes.base import Plan, every, recipe, source_of
from phosphene.recipes.scenes.glide import DATA
from phosphene.recipes.scenes.latent import PROMPTS, reading

if TYPE_CHECKING:
    from phosphene.data.scenes import Score
    from phosphene.systems.unclip import Unclip


@recipe(clip="scenes.clip")
def unclip(
    *,
    data: str = DATA,
    size: int = 16,
    clip: Path | None = None,
    scratch: bool = False,
    steps: int = 2000,
    batch: int = 64,
    lr: float = 1e-3,
    width: int = 32,
    drop: float = 0.5,
    pictures: int = 30_000,
    judged: int = 500,
    seed: int = 0,
) -> Plan:
    """unCLIP's decoder: scenes of 16×16 pixels, those of 32×32 reduced, from what CLIP sees in them and from words.

    phosphene train scenes.unclip

    Its bundle makes small pictures without a prior: of words it is told their own embedding.

    clip      a bundle of scenes.clip, whose picture embedding is told; trained first where none is given
    scratch   the decoder's text transformer begins with random weights and not with CLIP's
    width     channels at the full size; four times as many at a quarter of it
    drop      how often the caption is left out; the embedding is left out of a tenth
    pictures  how many scenes are drawn to learn from
    judged    how many pictures of one object the exact parser reads at the end, enlarged by bicubic; 0 is none
    """
    from phosphene.recipes.cascade import plan_of_decoder, unclip_decoder

    system = unclip_decoder(clip, size, (width, 2 * width, 4 * width), (0, 1, 1), begin=not scratch)
    scenes = source_of(data, size=2 * size, n=pictures)
    settings = dict(steps=steps, lr=lr, seed=seed, sample_every=every(steps, 2), score_every=every(steps, 3))
    return plan_of_decoder(
        system, scenes, 2 * size, batch, settings, drop, PROMPTS * 2, dict(steps=20),
        score=lambda it: {"right": told(it, min(judged, 40)).rate} if judged else {},
        report=lambda it: what_tells(it, judged),
        card="# scenes.unclip\n\nunCLIP's decoder: scenes of 16×16 pixels, from what CLIP sees and from words.",
    )  # fmt: skip


@recipe(unclip="scenes.unclip", prior="scenes.prior")
def unclip_upscale(
    *,
    data: str = DATA,
    size: int = 32,
    unclip: Path | None = None,
    prior: Path | None = None,
    steps: int = 800,
    batch: int = 32,
    lr: float = 1e-3,
    width: int = 24,
    blurred: float = 0.8,
    noised: float = 0.0,
    pictures: int = 20_000,
    judged: int = 500,
    seed: int = 0,
) -> Plan:
    """unCLIP's upsampler, 16×16 → 32×32, told no words. Its bundle is the whole: prior, decoder and this.

    phosphene train scenes.unclip_upscale
    phosphene generate "a red circle" --model runs/scenes.unclip_upscale
    phosphene train scenes.unclip_upscale --unclip runs/scenes.unclip_upscale --size 64 --blurred 0 --noised 0.1

    The last line is a second one, 32×32 → 64×64, of the other kind, on top of the first.

    Measured with seed 0: 87.6 % of 500 prompts of one object are read right (docs/lineage/dalle2.md).

    unclip    a bundle of scenes.unclip, the decoder, or of this recipe; trained first where none is given
    prior     a bundle of scenes.prior or scenes.ar_prior, of the same CLIP; trained first where none is given
    width     channels at the full size
    blurred   what it is shown is blurred in training, by up to so many of its pixels; 0 is not at all
    noised    and noised up to this time, in training and afterwards; 0 is not at all
    pictures  how many scenes are drawn to learn from
    judged    how many pictures of one object the exact parser reads at the end, of unseen pairs two fifths; 0 is none
    """
    from phosphene.recipes.cascade import after_unclip, plan_of, unclip_upscaler

    system = unclip_upscaler(size, unclip.size, (width, 2 * width, 4 * width), blurred=blurred, noised=noised)
    settings = dict(steps=steps, lr=lr, seed=seed, sample_every=every(steps, 2), score_every=every(steps, 2))
    few = [20] + [10] * len(unclip.stages)
    return plan_of(
        system, source_of(data, size=size, n=pictures), size, batch, settings, prompts=PROMPTS * 2,
        grid=dict(steps=few), whole=after_unclip(unclip, prior), **reading(judged),
        card="# scenes.unclip_upscale\n\nunCLIP: words, what CLIP would see, and scenes of 32×32 pixels.",
    )  # fmt: skip


def what_tells(system: Unclip, n: int) -> list[str]:
    """How often the exact parser reads what was told, by embedding and words, and by either alone: a line each."""
    ways = {
        "z_i of a scene, and words": told(system, n),
        "z_i alone": told(system, -(-2 * n // 5), words=False),
        "words alone": told(system, -(-2 * n // 5), seen=False),
        "words, and their own embedding for z_i": told(system, -(-2 * n // 5), prior=True),
    } if n else {}  # fmt: skip
    return [f"- enlarged by bicubic, one object, told {what}: right {score}" for what, score in ways.items()]


def told(system: Unclip, n: int, words: bool = True, seen: bool = True, prior: bool = False) -> Score:
    """How the parser reads n pictures of one object: told the words, z_i of another scene of them, or the prior's."""
    import torch
    from torch.nn import functional as F

    from phosphene.data.scenes import evaluate_prompts, render, score
    from phosphene.data.scenes.judge import evaluation_scenes
    from phosphene.recipes.grids import made_of
    from phosphene.text.unclip import Meant

    prompts = evaluate_prompts("single", n)
    scenes = [torch.from_numpy(render(scene, 32)) for _, scene in evaluation_scenes("single", n)]
    with torch.no_grad():
        rows = system.clip.embed_image(torch.stack(scenes).permute(0, 3, 1, 2) / 127.5 - 1)
    meant = [Meant(p if words else None, z if seen else None) for p, z in zip(prompts, rows)]
    large = F.interpolate(made_of(system, prompts if prior else meant), size=(32, 32), mode="bicubic")
    return score(prompts, large.clamp(-1, 1), "single")
