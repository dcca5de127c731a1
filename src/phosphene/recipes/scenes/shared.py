"""What the systems on scenes share: an autoencoder, and a CLIP whose text encoder they begin with."""

from __future__ import annotations

from typing import TYPE_CHECKING

from phosphene.recipes.base import Plan, every, recipe, source_of

if TYPE_CHECKING:
    from torch import Tensor


@recipe()
def autoencoder(
    *,
    data: str = "scenes",
    size: int = 32,
    steps: int = 600,
    batch: int = 64,
    channels: int = 8,
    lr: float = 2e-3,
    pictures: int = 20_000,
    seed: int = 0,
) -> Plan:
    """An autoencoder of scenes, f = 4: 32×32 pixels ↔ 8×8×8.

    phosphene train scenes.autoencoder

    channels  numbers a place of the latent
    pictures  how many scenes are drawn to learn from
    """
    from phosphene.data.base import parse_spec
    from phosphene.data.scenes import Scenes
    from phosphene.recipes.parts import patch_autoencoder, pictures_for, pictures_of
    from phosphene.recipes.scores import copies

    batches = pictures_for(source_of(data, size=size, n=pictures), size, batch, seed)
    system, finish = patch_autoencoder(batches, f=4, channels=channels, widths=(64, 96), depth=1)
    score = copies(pictures_of(Scenes(size, 128, "test"), size)) if parse_spec(data)[0] == "scenes" else None
    settings = dict(steps=steps, lr=lr, seed=seed, score_every=every(steps))
    return Plan(system, batches, settings, score=score, finish=finish, card="# scenes.autoencoder")


@recipe()
def clip(
    *,
    data: str = "scenes",
    size: int = 32,
    steps: int = 600,
    batch: int = 256,
    lr: float = 1e-3,
    width: int = 192,
    pictures: int = 30_000,
    held: int = 500,
    seed: int = 0,
) -> Plan:
    """CLIP of scenes; the systems that are told words begin with its text encoder.

    phosphene train scenes.clip

    width     of both towers' features
    pictures  how many scenes are drawn to learn from
    held      how many scenes of the split "test" it has to name at the end
    """
    from phosphene.data.batches import Batches, cached
    from phosphene.nets.autoencoder import ConvTower
    from phosphene.recipes.parts import text_encoder
    from phosphene.recipes.scores import named
    from phosphene.systems.clip import ClipSystem

    scenes = source_of(data, size=size, n=pictures)
    system = ClipSystem(text_encoder(scenes, 512, width, layers=2), ConvTower(width, (48, 96, 144), 1), width, size)
    batches = cached(Batches(scenes, size=size, batch=batch, seed=seed, drop=0.0))
    settings = dict(steps=steps, lr=lr, weight_decay=0.05, seed=seed, score_every=every(steps))
    score = named(*one_objects(size, min(held, 200), "en")) if held else None
    return Plan(
        system, batches, settings, score=score,
        report=lambda it: objects_named(it, size, held), card="# scenes.clip",
    )  # fmt: skip


def objects_named(system, size: int, held: int) -> list[str]:
    """How often a test scene of one object is nearest, of all their words, to its own: a line a language."""
    from phosphene.recipes.parts import zero_shot

    if not held:
        return []
    return [
        zero_shot(system, pictures, f"object ({language})", said)
        for language in ("en", "zh")
        for pictures, said in [one_objects(size, held, language)]
    ]


def one_objects(size: int, n: int, language: str) -> tuple[Tensor, list[str]]:
    """n test scenes of one object, (n, 3, H, W), and what is said of each."""
    from phosphene.data.scenes import Scenes, caption
    from phosphene.recipes.parts import pictures_of

    scenes = Scenes(size, n, "test", (1, 1))
    return pictures_of(scenes, size), [caption(scenes[i].meta["spec"], language) for i in range(n)]
