"""The CLIP that comes with the package: small, and the eyes of `phosphene evaluate` where none are named."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from phosphene.recipes.base import Plan, recipe
from phosphene.recipes.emoji import STYLES, held_rows, rows

if TYPE_CHECKING:
    from phosphene.data.base import Example, Source


@recipe()
def small(
    *,
    data: str = "emoji",
    styles: str = STYLES,
    size: int = 48,
    steps: int = 1800,
    batch: int = 256,
    lr: float = 1e-3,
    width: int = 128,
    scenes: int = 6000,
    seed: int = 0,
) -> Plan:
    """CLIP on emoji, on white and on coloured grounds, and on drawn scenes, in English and Chinese; small towers.

    phosphene train clip.small --data emoji:path=TABLE.parquet

    size    side of the pictures that it sees
    styles  which emoji, joined by |; "" is all
    width   of the space that both towers project to
    scenes  how many scenes are drawn to learn from, besides the emoji; 0 is none
    """
    from phosphene.data.batches import Batches, cached
    from phosphene.data.scenes import Scenes
    from phosphene.nets.autoencoder import ConvTower
    from phosphene.recipes.parts import Joined, names_found, text_encoder
    from phosphene.systems.clip import ClipSystem

    emoji = rows(data, styles=styles)
    parts = [emoji, Grounds(emoji), *([Scenes(n=scenes, size=64, split="train")] if scenes else [])]
    source = Joined(parts)
    text = text_encoder(source, 2048, 128, layers=2, read=len(source))
    system = ClipSystem(text, ConvTower(width, (64, 128, 192), 1, patch=4), width, size)
    batches = cached(Batches(source, size=size, batch=batch, seed=seed, drop=0.0))
    settings = dict(steps=steps, lr=lr, weight_decay=0.05, seed=seed)
    held = held_rows(data, styles)
    return Plan(
        system, batches, settings, report=lambda it: names_found(it, held, size), card="# clip.small", dtype="bf16"
    )


class Grounds:
    """A source of transparent pictures, each each on a colour drawn by its row: what is shown is not its ground."""

    def __init__(self, source: Source):
        self.source, self.name = source, f"{source.name} on colours"

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, i: int) -> Example:
        import random

        from phosphene.data.pictures import opaque

        draw, example = random.Random(f"ground {i}"), self.source[i]
        return replace(example, image=opaque(example.image, tuple(draw.randrange(256) for _ in range(3))))
