"""The CLIP that comes with the package: small, and the eyes of `phosphene evaluate` where none are named."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from phosphene.recipes.base import Plan, recipe
from phosphene.recipes.emoji.shared import STYLES, held_rows, rows

if TYPE_CHECKING:
    from PIL import Image

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
    worse: float = 0.5,
    start: Path | None = None,
    seed: int = 0,
) -> Plan:
    """CLIP on emoji, on white and on coloured grounds, and on drawn scenes, clean and worsened; small towers.

    phosphene train clip.small --data emoji:path=TABLE.parquet

    The shipped CLIP was trained in two goes, with --worse 0 and then with --start, on a shared core of an Intel Xeon
    with AMX, 35 minutes: zero-shot on 328 held-out rows, English name 51.8 %, Chinese name 50.3 % (models/clip.md).

    size    side of the pictures that it sees
    styles  which emoji, joined by |; "" is all
    width   of the space that both towers project to
    scenes  how many scenes are drawn to learn from, besides the emoji; 0 is none
    worse   share of the emoji on colours and of the scenes that are noisy, blurred or coarse, and said to be
    start   a bundle of this recipe to go on from
    """
    from phosphene.data.batches import Batches, cached
    from phosphene.data.scenes import Scenes
    from phosphene.nets.autoencoder import ConvTower
    from phosphene.recipes.parts import Joined, names_found, text_encoder
    from phosphene.systems.clip import ClipSystem
    from phosphene.weights import bundle

    emoji = rows(data, styles=styles)
    others = [Grounds(emoji), *([Scenes(n=scenes, size=SIDE, split="train")] if scenes else [])]
    source = Joined([emoji, Worsened(Joined(others), worse)])
    if start is None:
        text = text_encoder(source, 2048, 128, layers=2, read=len(source))
        system = ClipSystem(text, ConvTower(width, (64, 128, 192), 1, patch=4), width, size)
    else:
        system = bundle.load(start)
    batches = cached(Batches(source, size=size, batch=batch, seed=seed, drop=0.0))
    settings = dict(steps=steps, lr=lr, weight_decay=0.05, seed=seed)
    held = held_rows(data, styles)
    return Plan(
        system, batches, settings, report=lambda it: names_found(it, held, size), card="# clip.small", dtype="bf16"
    )


class Grounds:
    """Transparent pictures, each on a colour drawn by its row: what is shown is not its ground."""

    def __init__(self, source: Source):
        self.source, self.name = source, f"{source.name} on colours"

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, i: int) -> Example:
        from phosphene.data.pictures import opaque

        draw, example = random.Random(f"ground {i}"), self.source[i]
        return replace(example, image=opaque(example.image, tuple(draw.randrange(256) for _ in range(3))))


WORSE = {  # kind: the words for it, the least and the most of it
    "noise": ("noisy", "噪点", 5.0, 60.0),  # grey levels
    "blur": ("blurred", "模糊", 0.4, 5.0),  # pixels of SIDE
    "pixels": ("pixelated", "马赛克", 1.5, 6.0),  # of SIDE, that become one
}
DEGREES = (("slightly ", "有点"), ("", ""), ("very ", "很"))
SIDE = 64


class Worsened:
    """A share of the pictures with noise, blurred, or of coarse pixels, in several degrees, and saying so.

    Words alone teach to overlook such things: the same fox is the same fox. What a picture's quality is measured with
    must see them.
    """

    def __init__(self, source: Source, share: float = 0.5):
        self.source, self.share, self.name = source, share, f"{source.name}, worsened"

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, i: int) -> Example:
        draw, example = random.Random(f"worse {i}"), self.source[i]
        if draw.random() >= self.share:
            return example
        kind, share = draw.choice(list(WORSE)), draw.random()
        en, zh, least, most = WORSE[kind]
        image = worsened(example.image, kind, least * (most / least) ** share, draw.randrange(2**32))
        more, rather = DEGREES[int(3 * share)]
        says = tuple(f"{more}{en}, {c}" if c.isascii() else f"{rather}{zh}，{c}" for c in example.captions)
        return replace(example, image=image, captions=says)


def worsened(image: Image.Image, kind: str, strength: float, seed: int) -> Image.Image:
    """An opaque picture, SIDE × SIDE, with so much of a kind of WORSE."""
    import numpy as np
    from PIL import Image, ImageFilter

    image = image.resize((SIDE, SIDE), Image.Resampling.LANCZOS)
    if kind == "blur":
        return image.filter(ImageFilter.GaussianBlur(strength))
    if kind == "pixels":
        few = round(SIDE / strength)
        return image.resize((few, few), Image.Resampling.BOX).resize((SIDE, SIDE), Image.Resampling.NEAREST)
    pixels = np.asarray(image) + np.random.default_rng(seed).normal(0, strength, (SIDE, SIDE, 3))
    return Image.fromarray(np.rint(pixels).clip(0, 255).astype(np.uint8))
