"""What the models of emoji share: their rows, an autoencoder, and a CLIP with whose words they begin."""

from __future__ import annotations

from typing import TYPE_CHECKING

from phosphene.errors import Problem
from phosphene.recipes.base import Plan, recipe, source_of

if TYPE_CHECKING:
    from phosphene.data.emoji import Emoji
    from phosphene.systems.autoencoder import AutoencoderSystem

STYLES = "noto|fluent-3d|fluent-flat|twemoji"  # OpenMoji is share-alike
GROUPS = "smileys-emotion|animals-nature|food-drink|activities|travel-places"
PROMPTS = [
    "a smiling cat", "fox", "pizza", "rocket", "a 3D emoji of a red apple", "flat emoji of a dolphin", "火箭",
    "立体 狐狸", "snowman", "guitar", "tiger face", "grinning face", "crying face", "sunflower", "strawberry",
    "soccer ball",
]  # fmt: skip


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

    batches = pictures_for(rows(data), size, batch, seed)
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


def rows(data: str, groups: str = "", styles: str = STYLES, split: str = "train") -> Emoji:
    """Rows of an emoji source, "" being all: "emoji" is drawn from the machine's font, "emoji:path=…" is a table."""
    return source_of(data, split=split, **{k: v for k, v in {"styles": styles, "groups": groups}.items() if v})


def held_rows(data: str, styles: str) -> Emoji | None:
    """The rows of the split "val"; None where there are none, as where emoji are drawn from a font."""
    try:
        return rows(data, styles=styles, split="val")
    except Problem:
        return None
