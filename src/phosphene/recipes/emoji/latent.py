"""Latent diffusion of emoji: the model that comes with the package."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from phosphene.recipes.base import Plan, check_choice, recipe
from phosphene.recipes.emoji.shared import GROUPS, PROMPTS, rows

if TYPE_CHECKING:
    from phosphene.data.emoji import Emoji
    from phosphene.text.vocabulary import Vocabulary

PRESETS: dict[str, dict[str, Any]] = {
    "cpu": dict(size=64, width=128, deep=160, depth=1, groups=GROUPS, steps=5000, batch=128),
    "gpu": dict(size=128, width=128, deep=160, depth=1, groups="", steps=30_000, batch=512),
}


@recipe(autoencoder="emoji.autoencoder", clip="emoji.clip")
def latent(
    *,
    data: str = "emoji",
    preset: str = "cpu",
    groups: str | None = None,
    autoencoder: Path | None = None,
    clip: Path | None = None,
    steps: int | None = None,
    batch: int | None = None,
    lr: float = 1e-3,
    drop: float = 0.1,
    seed: int = 0,
) -> Plan:
    """The model that comes with the package: emoji from words in English and Chinese, in four styles.

    phosphene train emoji.latent --data emoji:path=TABLE.parquet

    The shipped model is preset cpu with 5,000 steps: 70 minutes on a core of an Intel Xeon with AMX, recall@1 0.78 in
    English and 0.76 in Chinese (models/emoji.md). Preset gpu has not been trained yet.

    preset       cpu (64×64 pictures) or gpu (128×128)
    groups       Unicode's groups of emoji to learn, joined by |; None is the preset's choice, "" is all
    autoencoder  a bundle of emoji.autoencoder; trained first where none is given
    clip         a bundle of emoji.clip; trained first where none is given
    steps, batch   None is the preset's choice
    drop         how often the caption is left out, for classifier-free guidance
    """
    from phosphene.data.batches import Batches, cached
    from phosphene.diffusion.denoiser import Denoiser
    from phosphene.diffusion.schedule import Flow
    from phosphene.nets.layers import ScaleShiftResBlock, SpatialTransformer
    from phosphene.nets.unet import UNet
    from phosphene.recipes.grids import grid_of
    from phosphene.systems.latent import Latent

    knobs = check_choice("preset", preset, PRESETS)
    source = rows(data, knobs["groups"] if groups is None else groups)
    ae, text = autoencoder.autoencoder, clip.text
    net = UNet(
        ae.channels, ae.channels, (knobs["width"], knobs["deep"]), knobs["depth"], (0, 1), head_dim=32,
        context_dim=text.width, vector_dim=text.width, emb_dim=2 * knobs["width"],
        block=ScaleShiftResBlock, attend=SpatialTransformer,
    )  # fmt: skip
    denoiser = Denoiser(net, Flow(draws="logit_normal", mean=0.4), "flow")
    system = Latent(denoiser, ae, text, knobs["size"], guidance=2.0, vocabulary=vocabulary_of(source))
    batches = cached(Batches(source, size=knobs["size"], batch=batch or knobs["batch"], seed=seed, drop=drop), system)
    settings = dict(steps=steps or knobs["steps"], lr=lr, seed=seed, sample_every=500)
    return Plan(system, batches, settings, sample=grid_of(PROMPTS), card="# emoji.latent", dtype="bf16")


def vocabulary_of(source: Emoji) -> Vocabulary:
    """What a model of these rows knows: every emoji with its names and keywords, and the words for styles."""
    from phosphene.data.emoji import STYLES as WORDS
    from phosphene.text.vocabulary import Vocabulary

    known = {r["codepoint"]: r for r in source.rows}
    entries = [
        [r["name_en"], r["name_zh"], *(r.get("keywords_en") or []), *(r.get("keywords_zh") or [])]
        for _, r in sorted(known.items())
    ]
    styles = {r["style"] for r in source.rows}
    return Vocabulary(entries, [word for style in WORDS if style in styles for word in WORDS[style]])
