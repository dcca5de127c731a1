"""How well does a text-to-emoji model draw what it is told? Retrieval, by a judge that had no part in its training.

The judge is a CLIP of another seed, trained on the train rows of all styles:

    phosphene train emoji.clip --data emoji:path=TABLE --styles "" --seed 1 --size 64 --out runs/judge
    python benchmarks/emoji.py --model emoji --judge runs/judge --table TABLE

With --sheet FILE it only draws the contact sheet of PROMPTS, to be judged by eye.

A picture counts if, of the names of all emoji that the table has in its style, the prompt's is the nearest (recall@1)
or among the five nearest (recall@5). Printed for what the model made and, by the same judge, for the real pictures;
chance is 1 over the number of names. Pairs of emoji and style of the split "val" were never seen, neither by the model
nor by the judge.
"""

from __future__ import annotations

import random
import re
import sys
from pathlib import Path
from typing import NamedTuple

import torch
from torch.nn import functional as F

import phosphene
from phosphene.cli.options import call
from phosphene.data.base import open_source
from phosphene.data.batches import Batches
from phosphene.data.emoji import STYLES
from phosphene.data.scenes import wilson
from phosphene.data.sheet import contact_sheet
from phosphene.metrics.words import recall_at
from phosphene.recipes.grids import made_of
from phosphene.systems.clip import ClipSystem

PROMPTS = re.split(
    r",\s+",
    """
a smiling cat, fox, pizza, rocket, a red apple, dolphin, snowman, sunflower, strawberry, tiger face,
grinning face, crying face, sleeping face, nerd face, robot, ghost, alien, skull, red heart,
clown face, dog face, panda, frog, penguin, butterfly, octopus, turtle, whale, elephant, rose,
banana, watermelon, hamburger, birthday cake, doughnut, ice cream, hot beverage, beer mug, carrot,
mushroom, soccer ball, trophy, basketball, Christmas tree, balloon, bicycle, airplane, sailboat,
house, rainbow, 3D fox, flat fox, noto fox, twemoji fox, 3D pizza, flat pizza, noto pizza,
twemoji pizza, a 3D emoji of a strawberry, a flat emoji of a strawberry, 狐狸, 火箭, 草莓, 企鹅,
蝴蝶, 汉堡, 足球, 帆船, 彩虹, 笑脸, 立体狐狸, 扁平狐狸, 立体风格的火箭, 扁平风格的火箭, 哭泣的脸,
机器人, 向日葵, 西瓜, 圣诞树, 房子
""".strip(),
)


class Row(NamedTuple):
    """A picture of the table, and what it is asked for with."""

    picture: torch.Tensor  # (3, H, W)
    name: str
    name_zh: str
    style: str


def rows(table: str, size: int, split: str, names: set[str] | None = None) -> list[Row]:
    """The table's rows of a split, in the model's styles; only those of `names` where given."""
    source = open_source(f"emoji:path={table},split={split}")
    batches = Batches(source, size=size, batch=1)
    found = []
    for i in range(len(source)):
        example = source[i]
        meta = example.meta
        if names is None or meta["name_en"] in names:
            picture = batches.picture(example, (size, size)).float() / 127.5 - 1
            found.append(Row(picture, meta["name_en"], meta["name_zh"], meta["style"]))
    return found


def prompt(row: Row, language: str) -> str:
    """A style's word and a name."""
    style = STYLES[row.style]
    return f"{style.en} {row.name}" if language == "en" else f"{style.zh}{row.name_zh}"


class Recall(NamedTuple):
    at1: int
    at5: int
    n: int

    def __str__(self) -> str:
        low, high = wilson(self.at1, self.n)
        return f"{self.at1 / self.n:.3f} ({low:.3f}…{high:.3f})  @5 {self.at5 / self.n:.3f}  n={self.n}"


class Names(NamedTuple):
    """All names of a style, and the judge's embedding of each: of the mean of four captions that say it."""

    names: list[str]
    embeddings: torch.Tensor  # (N, D)


@torch.no_grad()
def names_of(judge: ClipSystem, everything: list[Row]) -> dict[str, Names]:
    """{style: its names}. Captions are averaged as in Radford et al. 2021, §3.1.4 (prompt ensembling)."""
    found = {}
    for style in sorted({row.style for row in everything}):
        mine = list({row.name: row for row in everything if row.style == style}.values())
        said = [text for row in mine for text in (row.name, row.name_zh, prompt(row, "en"), prompt(row, "zh"))]
        embedded = torch.cat([judge.embed_text(said[i : i + 256]) for i in range(0, len(said), 256)])
        found[style] = Names([row.name for row in mine], F.normalize(embedded.view(len(mine), 4, -1).mean(1), dim=-1))
    return found


@torch.no_grad()
def recall(judge: ClipSystem, pictures: torch.Tensor, asked: list[Row], names: dict[str, Names]) -> Recall:
    """Nearest names of the row's style, by the judge."""
    at1 = at5 = 0
    embedded = torch.cat([judge.embed_image(part) for part in pictures.split(128)])
    for row, picture in zip(asked, embedded, strict=True):
        known = names[row.style]
        scores, right = (known.embeddings @ picture)[None], [known.names.index(row.name)]
        at1, at5 = at1 + recall_at(scores, right, 1), at5 + recall_at(scores, right, 5)
    return Recall(at1, at5, len(asked))


def main(
    model: str = "emoji",
    judge: Path = Path("runs/judge"),
    table: str = "emoji.parquet",
    n: int = 384,
    guidance: float | None = None,
    steps: int | None = None,
    seed: int = 0,
    sheet: Path | None = None,
) -> None:
    """Prints recall@1 and @5 of n trained pairs and of all val pairs, in two languages, and of the real pictures."""
    system = phosphene.load(model)
    if sheet:
        contact_sheet(made_of(system, PROMPTS, seed), PROMPTS, columns=10).save(sheet)
        return
    clip = phosphene.load(judge)
    known = set(system.vocabulary.names)
    everything = rows(table, system.size, "train") + rows(table, system.size, "val")
    names = names_of(clip, everything)
    ours = ("noto", "fluent-3d", "fluent-flat", "twemoji")
    train = [row for row in rows(table, system.size, "train", known) if row.style in ours]
    val = [row for row in rows(table, system.size, "val", known) if row.style in ours]
    random.Random(seed).shuffle(train)
    chance = sum(1 / len(names[row.style].names) for row in val) / len(val)
    print(f"{len(known)} names known to the model; chance: recall@1 {chance:.4f}, @5 {5 * chance:.4f}")
    for what, asked in (("trained pairs", train[:n]), ("val pairs", val)):
        real = torch.stack([row.picture for row in asked])
        print(f"{what:14s} real     {recall(clip, real, asked, names)}")
        for language in ("en", "zh"):
            prompts = [prompt(row, language) for row in asked]
            made = made_of(system, prompts, seed, guidance=guidance, steps=steps)
            print(f"{what:14s} made {language}  {recall(clip, made, asked, names)}", flush=True)


if __name__ == "__main__":
    call(main, sys.argv[1:], "emoji.py")
