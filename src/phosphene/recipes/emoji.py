"""Emoji: a bilingual text-to-image model, small enough to come with the package. In three parts: a decoder (with its
encoder), a text encoder (from CLIP), and the denoiser between them, trained separately and joined.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from phosphene.errors import Problem
from phosphene.recipes.base import Plan, check_choice, recipe, source_of

if TYPE_CHECKING:
    from phosphene.data.emoji import Emoji
    from phosphene.systems.autoencoder import AutoencoderSystem
    from phosphene.text.vocabulary import Vocabulary

STYLES = "noto|fluent-3d|fluent-flat|twemoji"  # OpenMoji is share-alike
GROUPS = "smileys-emotion|animals-nature|food-drink|activities|travel-places"
PRESETS: dict[str, dict[str, Any]] = {
    "cpu": dict(size=64, width=128, deep=160, depth=1, groups=GROUPS, steps=5000, batch=128),
    "gpu": dict(size=128, width=128, deep=160, depth=1, groups="", steps=30_000, batch=512),
}


@recipe()
def autoencoder(
    *,
    data: str = "emoji",
    size: int = 64,
    steps: int = 5000,
    batch: int = 16,
    channels: int = 16,
    lr: float = 1e-3,
    adversarial: float = 0.0,
    seed: int = 0,
) -> Plan:
    """An autoencoder of emoji, f = 8: 64×64 pixels ↔ 8×8×16. It starts from the principal components of patches.

    phosphene train emoji.autoencoder --data emoji:path=TABLE.parquet

    channels     numbers a place of the latent
    adversarial  above 0: with a patch discriminator of this weight (VAE + GAN)
    """
    from phosphene.recipes.parts import copied, patch_autoencoder, pictures_for, pictures_of

    batches = pictures_for(rows(data, styles=STYLES), size, batch, seed)
    system, finish = patch_autoencoder(
        batches,
        f=8,
        channels=channels,
        widths=(48, 96, 128),
        depth=2,
        adversarial=adversarial,
    )
    settings = dict(steps=steps, lr=lr, warmup=50, floor=0.02, seed=seed)
    held = held_rows(data, STYLES)

    def report(trained: AutoencoderSystem) -> list[str]:
        return [] if held is None else [copied(trained, pictures_of(held, size))]

    return Plan(system, batches, settings, finish=finish, report=report, card="# emoji.autoencoder")


@recipe()
def clip(
    *,
    data: str = "emoji",
    size: int = 32,
    styles: str = STYLES,
    steps: int = 700,
    batch: int = 256,
    lr: float = 1e-3,
    width: int = 256,
    seed: int = 0,
) -> Plan:
    """CLIP on emoji and their names and keywords in two languages; its text encoder starts emoji.latent.

    phosphene train emoji.clip --data emoji:path=TABLE.parquet

    Measured for all five styles, --styles "" --seed 1 --size 48 --steps 1000, 13 minutes on one core of a Xeon with
    AMX: zero-shot on 405 held-out rows, English name 44.4 %, Chinese name 42.2 % (chance 0.3 %), group 28.4 % (11.1 %).

    size    side of the pictures that it sees
    styles  which rows, joined by |; "" is all
    width   of both towers' features
    """
    from phosphene.data.batches import Batches, cached
    from phosphene.nets.autoencoder import ConvTower
    from phosphene.recipes.parts import names_found, text_encoder
    from phosphene.systems.clip import ClipSystem

    source = rows(data, styles=styles)
    text = text_encoder(source, 4096, width, layers=4)
    system = ClipSystem(text, ConvTower(width, (64, 128, 192), 1, patch=4), width, size)
    batches = cached(Batches(source, size=size, batch=batch, seed=seed, drop=0.0))
    settings = dict(steps=steps, lr=lr, weight_decay=0.05, seed=seed)

    held = held_rows(data, styles)
    return Plan(system, batches, settings, report=lambda it: names_found(it, held, size), card="# emoji.clip")


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
    source = rows(data, styles=STYLES, groups=knobs["groups"] if groups is None else groups)
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
    from phosphene.data.batches import Batches, cached
    from phosphene.recipes.cascade import Reduced, glide_base, glide_words
    from phosphene.recipes.grids import grid_of

    words = glide_words(clip, 4 * width)
    system = glide_base(words, size, (width, 2 * width, 3 * width, 4 * width), (0, 1, 1, 1))
    source = Reduced(rows(data, styles=STYLES, groups=groups), size)
    batches = cached(Batches(source, size=size, batch=batch, seed=seed, drop=drop))
    settings = dict(steps=steps, lr=lr, seed=seed, sample_every=2000)
    return Plan(system, batches, settings, sample=grid_of(PROMPTS), card="# emoji.glide")


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
    from phosphene.data.batches import Batches, cached
    from phosphene.recipes.cascade import glide_upscaler, glide_words_again
    from phosphene.recipes.grids import grid_of
    from phosphene.systems.cascade import Cascade

    words = glide_words_again(glide.encoder, 4 * width)
    system = glide_upscaler(words, size, glide.size, (width, 2 * width, 3 * width, 4 * width), (0, 0, 1, 1))
    source = rows(data, styles=STYLES, groups=groups)
    batches = cached(Batches(source, size=size, batch=batch, seed=seed, drop=drop))
    settings = dict(steps=steps, lr=lr, seed=seed, sample_every=2000)
    return Plan(
        system, batches, settings, whole=lambda it: Cascade([glide, it]), sample=grid_of(PROMPTS),
        card="# emoji.glide_upscale",
    )  # fmt: skip


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
    from phosphene.data.batches import Batches, cached
    from phosphene.recipes.cascade import imagen_base, imagen_words
    from phosphene.recipes.grids import grid_of

    channels = (width, 2 * width, 3 * width, 4 * width)
    system = imagen_base(imagen_words(clip.text, 4 * width), size, channels, (0, 0, 1, 1))
    source = rows(data, styles=STYLES, groups=groups)
    batches = cached(Batches(source, size=size, batch=batch, seed=seed, drop=drop))
    settings = dict(steps=steps, lr=lr, seed=seed, sample_every=2000)
    return Plan(system, batches, settings, sample=grid_of(PROMPTS), card="# emoji.imagen")


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
    from phosphene.data.batches import Batches, cached
    from phosphene.recipes.cascade import imagen_upscaler
    from phosphene.recipes.grids import grid_of
    from phosphene.systems.cascade import Cascade

    channels = (width, 2 * width, 4 * width, 8 * width)
    system = imagen_upscaler(imagen.encoder.text, size, imagen.size, channels, (1, 2, 4, 4), level)
    batches = cached(Batches(rows(data, styles=STYLES, groups=groups), size=size, batch=batch, seed=seed, drop=drop))
    settings = dict(steps=steps, lr=lr, seed=seed, sample_every=2000)
    return Plan(
        system, batches, settings, whole=lambda it: Cascade([imagen, it]), sample=grid_of(PROMPTS),
        card="# emoji.imagen_upscale",
    )  # fmt: skip


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
    from phosphene.data.batches import Batches, cached
    from phosphene.nets.components import Components
    from phosphene.recipes.cascade import unclip_decoder
    from phosphene.recipes.grids import grid_of
    from phosphene.recipes.parts import some_of
    from phosphene.systems.unclip import Unclip

    system = unclip_decoder(clip, size, (width, 2 * width, 3 * width, 4 * width), (0, 0, 1, 1))
    batches = cached(Batches(rows(data, styles=STYLES, groups=groups), size=size, batch=batch, seed=seed, drop=drop))
    components = Components.of(clip.embed_image(some_of(batches, 4096)))
    settings = dict(steps=steps, lr=lr, seed=seed, sample_every=2000)
    return Plan(
        system, batches, settings, whole=lambda it: Unclip([it], None, components), sample=grid_of(PROMPTS),
        card="# emoji.unclip",
    )  # fmt: skip


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
    from phosphene.data.batches import Batches, cached
    from phosphene.recipes.cascade import unclip_upscaler
    from phosphene.recipes.grids import grid_of
    from phosphene.systems.unclip import Unclip, joined

    system = unclip_upscaler(size, unclip.size, (width, 2 * width, 3 * width, 4 * width), blurred=blurred)
    batches = cached(Batches(rows(data, styles=STYLES, groups=groups), size=size, batch=batch, seed=seed))
    settings = dict(steps=steps, lr=lr, seed=seed, sample_every=2000)
    prior = joined(prior, unclip.stages[0])
    return Plan(
        system, batches, settings, whole=lambda it: Unclip([*unclip.stages, it], prior, unclip.components),
        sample=grid_of(PROMPTS), card="# emoji.unclip_upscale",
    )  # fmt: skip


PROMPTS = [
    "a smiling cat", "fox", "pizza", "rocket", "a 3D emoji of a red apple", "flat emoji of a dolphin", "火箭",
    "立体 狐狸", "snowman", "guitar", "tiger face", "grinning face", "crying face", "sunflower", "strawberry",
    "soccer ball",
]  # fmt: skip


def held_rows(data: str, styles: str) -> Emoji | None:
    """The rows of the split "val"; None where there are none, as where emoji are drawn from a font."""
    try:
        return source_of(data, split="val", **({"styles": styles} if styles else {}))
    except Problem:
        return None


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


def rows(data: str, **options: str) -> Emoji:
    """The training rows of an emoji source: "emoji" is drawn from the machine's font, "emoji:path=…" is a table."""
    return source_of(data, split="train", **{k: v for k, v in options.items() if v})
