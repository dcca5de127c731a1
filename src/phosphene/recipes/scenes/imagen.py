"""Imagen on scenes (Saharia et al. 2022): frozen words, a base of 16×16 pixels, and stages that make it larger."""

from __future__ import annotations

from pathlib import Path

from phosphene.recipes.base import Plan, every, recipe, source_of
from phosphene.recipes.scenes.glide import DATA, reading_enlarged
from phosphene.recipes.scenes.latent import PROMPTS, reading


@recipe(clip="scenes.clip")
def imagen(
    *,
    data: str = DATA,
    size: int = 16,
    clip: Path | None = None,
    t5: str = "",
    steps: int = 2000,
    batch: int = 64,
    lr: float = 1e-3,
    width: int = 32,
    quantile: float | None = None,
    drop: float = 0.1,
    pictures: int = 30_000,
    judged: int = 500,
    seed: int = 0,
) -> Plan:
    """Imagen's base: scenes of 16×16 pixels, those of 32×32 reduced, from words that a frozen encoder reads.

    phosphene train scenes.imagen

    Measured with seed 0: enlarged by bicubic, 87.6 % of 500 prompts of one object are read right; 13 minutes on one
    core (docs/lineage/imagen.md).

    clip      a bundle of scenes.clip, whose text encoder reads, frozen; trained first where none is given
    t5        a folder of T5, or of another encoder of Hugging Face's, that reads in the place of clip's
    width     channels at the full size; four times as many at a quarter of it
    quantile  of the dynamic threshold, 0.995 in the paper; none is static, which white grounds want (study threshold)
    drop      how often the caption is left out, for guidance by the empty one
    pictures  how many scenes are drawn to learn from
    judged    how many pictures of one object the exact parser reads at the end, enlarged by bicubic; 0 is none
    """
    from phosphene.recipes.cascade import Reduced, imagen_base, imagen_words, plan_of
    from phosphene.text.hugging import HuggingEncoder

    words = imagen_words(HuggingEncoder(t5) if t5 else clip.text, 6 * width)
    system = imagen_base(words, size, (width, 2 * width, 4 * width), (0, 1, 1), quantile)
    scenes = Reduced(source_of(data, size=2 * size, n=pictures), size)
    settings = dict(steps=steps, lr=lr, seed=seed, sample_every=every(steps, 2), score_every=every(steps, 3))
    return plan_of(
        system, scenes, size, batch, settings, drop, PROMPTS * 2, **reading_enlarged(judged),
        card="# scenes.imagen\n\nImagen's base: scenes of 16×16 pixels, from words in English and Chinese.",
    )  # fmt: skip


@recipe(imagen="scenes.imagen")
def imagen_upscale(
    *,
    data: str = DATA,
    size: int = 32,
    imagen: Path | None = None,
    steps: int = 1600,
    batch: int = 32,
    lr: float = 1e-3,
    width: int = 24,
    level: float = 0.1,
    drop: float = 0.1,
    pictures: int = 20_000,
    judged: int = 500,
    seed: int = 0,
) -> Plan:
    """Imagen's super-resolution, 16×16 → 32×32. Its bundle is the cascade of the stages before and this.

    phosphene train scenes.imagen_upscale
    phosphene train scenes.imagen_upscale --size 64 --imagen runs/scenes.imagen_upscale --out runs/third

    Measured with seed 0: the cascade is right in 73.4 % of 500 prompts of one object; 8 minutes on one core more.

    imagen    a bundle of scenes.imagen, or of this recipe, which is given one stage more; trained first where none is
    width     channels at the full size; four times as many at a quarter of it, where most blocks are
    level     of the noise on the small picture at sampling, from 0 to 1; in training it is drawn
    drop      how often the caption is left out
    pictures  how many scenes are drawn to learn from
    judged    how many pictures of one object the exact parser reads at the end, of unseen pairs two fifths; 0 is none
    """
    from phosphene.recipes.cascade import after, imagen_upscaler, plan_of

    system = imagen_upscaler(imagen, size, (width, 2 * width, 4 * width), (1, 2, 3), level)
    settings = dict(steps=steps, lr=lr, seed=seed, sample_every=every(steps, 2), score_every=every(steps, 2))
    return plan_of(
        system, source_of(data, size=size, n=pictures), size, batch, settings, drop, PROMPTS * 2,
        whole=after(imagen), **reading(judged),
        card="# scenes.imagen_upscale\n\nImagen: scenes of 16×16 pixels and their enlargement, from words.",
    )  # fmt: skip
