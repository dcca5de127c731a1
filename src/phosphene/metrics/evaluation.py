"""A model measured on data: what it makes is collected, scored, judged by words, and shown beside what it learned from.

Here is what does not care how pictures are made: `cli/evaluate.py` makes them, `System` and `Source` are all it knows.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..data.base import Source
from ..data.scenes import Scenes, Verdict, matches
from ..errors import Problem
from .composition import composition
from .copies import psnr, ssim
from .features import Extractor
from .frechet import Moments, frechet
from .interval import Interval, bootstrap, mean_of
from .neighbours import neighbours
from .scores import Scores, notes_of, scores
from .statistics import Collector, Statistics, collect
from .words import alignment

SHOWN = 64  # pictures of a setting that are kept to be shown


@dataclass
class Measured:
    """One setting: its scores, shares of words {name: Interval}, exact accuracies {name: (Interval, n)}, copies.

    shown       the first pictures
    nearest     rows of the training pictures nearest to those that look most like a copy, with their ratio
    """

    scores: Scores
    words: dict[str, Interval]
    accuracy: dict[str, tuple[Interval, int]]
    shown: list[Image.Image]
    nearest: list[tuple[int, int, float]]  # (number of the made picture, row of the training one, d1/d2)
    copies: tuple[int, int]  # how many of how many

    def plain(self) -> dict[str, Any]:
        """As JSON has it."""
        found = self.scores.plain() | {name: it._asdict() for name, it in self.words.items()}
        if self.accuracy:
            found["accuracy"] = {name: {**it._asdict(), "n": n} for name, (it, n) in self.accuracy.items()}
        return found | {"copies": {"found": self.copies[0], "of": self.copies[1]}}


def prompts_of(source: Source, rows: Sequence[int], told: str, seed: int = 0) -> list[Any]:
    """What the model is asked for, one a row: a caption drawn by (seed, row), the class, or None.

    told  "caption", "label" or "none". Raises Problem where a row does not have it.
    """
    if told == "none":
        return [None] * len(rows)
    prompts: list[Any] = []
    for row in rows:
        example = source[row]
        if told == "label" and example.label is None:
            raise Problem(f"row {row} of {source.name} has no class, and this model wants one")
        if told == "caption" and not example.captions:
            raise Problem(f"row {row} of {source.name} has no caption, and this model wants one")
        prompts.append(
            example.label if told == "label" else random.Random(f"ask/{seed}/{row}").choice(example.captions)
        )
    return prompts


def measure(
    images: Iterable[Image.Image],
    prompts: Sequence[Any],
    extractor: Extractor,
    real: Statistics,
    *,
    judge: Extractor | None = None,
    trained: Statistics | None = None,
    exact: bool = False,
    seed: int = 0,
) -> Measured:
    """Scores of made pictures, one a prompt, against the statistics of real ones.

    judge    the features of a CLIP that reads words, for CLIP score and R-precision
    trained  statistics of the training set, for copies; `real` where none are given
    exact    the prompts are of `scenes`, and the parser reads every picture
    """
    shown: list[Image.Image] = []
    verdicts: list[Verdict] = []
    judged = Collector(judge.dim) if judge is not None else None

    def features() -> Iterator[Tensor]:
        for batch in _batches(images):
            shown.extend(batch[: SHOWN - len(shown)])
            if exact:
                verdicts.extend([matches(*pair) for pair in zip(prompts[len(verdicts) :], batch)])
            pixels = torch.stack([torch.from_numpy(np.array(image.convert("RGB"))) for image in batch])
            found = extractor(pixels)
            if judged is not None:
                judged.add(found if judge is extractor else judge(pixels))
            yield found

    about = {**extractor.about, "picture_size": real.about.get("picture_size", "")}
    made = collect(features(), extractor.dim, about)
    found = neighbours(made.kept, (trained or real).kept)
    worst = found.ratio.argsort()[:SHOWN].tolist()
    near = [(int(made.rows[i]), int((trained or real).rows[found.nearest[i]]), float(found.ratio[i])) for i in worst]
    return Measured(
        scores(made, real, extractor.classes, seed),
        words(judge, judged.end(), prompts, seed) if judge is not None and judged is not None else {},
        composition(prompts, verdicts) if exact else {},
        shown,
        [pair for pair in near if pair[0] < len(shown)][:8],
        (found.copies, len(found.ratio)),
    )


def words(judge: Extractor, seen: Statistics, prompts: Sequence[Any], seed: int = 0) -> dict[str, Interval]:
    """CLIP score and R-precision of what the judge has seen, one prompt a picture; none where prompts do not differ."""
    told = [prompts[row] for row in seen.rows.tolist()]
    several = len({p for p in told if isinstance(p, str)}) > 1
    return alignment(judge.clip, seen.kept, told, seed) if several else {}


def words_of(
    judge: Extractor, pictures: Iterable[Tensor], prompts: Sequence[Any], seed: int = 0
) -> dict[str, Interval]:
    """`words` of the real pictures uint8 (B, H, W, 3) that the prompts were taken from: what the judge makes of them.

    A judge that does not find its own words in real pictures says nothing of made ones.
    """
    return words(judge, collect(map(judge, pictures), judge.dim), prompts, seed)


def is_exact(source: Source, prompts: Sequence[Any], size: tuple[int, int]) -> bool:
    """Whether the parser of scenes can judge pictures of these prompts."""
    return isinstance(source, Scenes) and isinstance(prompts[0], str) and size[0] == size[1] >= 32


@dataclass
class Copied:
    """How an autoencoder copies: Fréchet's distance of copies to originals, PSNR, SSIM; the first eight pairs."""

    frechet: Interval
    psnr: Interval
    ssim: Interval
    pairs: list[tuple[Tensor, Tensor]]
    notes: list[str]
    n: int

    def plain(self) -> dict[str, Any]:
        """As JSON has it."""
        numbers = {name: getattr(self, name)._asdict() for name in ("frechet", "psnr", "ssim")}
        return {**numbers, "notes": self.notes, "n": self.n}


@torch.no_grad()
def copied(autoencoder: Any, pictures: Iterable[Tensor], extractor: Extractor, seed: int = 0) -> Copied:
    """An autoencoder's copies of pictures uint8 (B, H, W, 3), against these pictures themselves.

    The interval of the distance draws originals together with their copies: both sides are of the same pictures.
    """
    device = next(autoencoder.parameters()).device
    near: list[Tensor] = []
    alike: list[Tensor] = []
    pairs: list[tuple[Tensor, Tensor]] = []
    ours, theirs = (Collector(extractor.dim) for _ in range(2))
    for batch in pictures:
        x = batch.permute(0, 3, 1, 2).float().to(device) / 127.5 - 1
        made = autoencoder.decode(autoencoder.encode(x)).float().clamp(-1, 1).cpu()
        copies = ((made + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous()
        near.append(psnr(copies, batch))
        alike.append(ssim(copies, batch))
        ours.add(extractor(batch))
        theirs.add(extractor(copies))
        pairs.extend(zip(batch[: 8 - len(pairs)], copies))
    real, made = (it.end(extractor.about) for it in (ours, theirs))
    distance = frechet(made.moments, real.moments)
    again = lambda rows: frechet(Moments.of(made.kept[rows]), Moments.of(real.kept[rows]))  # noqa: E731
    spread = bootstrap(distance, again, len(real.kept), draws=100 if extractor.dim <= 256 else 20, seed=seed)
    half = (spread.high - distance) * (len(real.kept) / real.n) ** 0.5  # as in frechet_interval
    whole = Interval(distance, max(0.0, distance - half), distance + half)
    return Copied(whole, mean_of(torch.cat(near)), mean_of(torch.cat(alike)), pairs, notes_of(made, real), real.n)


def _batches(images: Iterable[Image.Image], size: int = 32) -> Iterator[list[Image.Image]]:
    batch: list[Image.Image] = []
    for image in images:
        batch.append(image)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch
