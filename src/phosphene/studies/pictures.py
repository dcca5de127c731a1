"""What studies of scenes share: pictures made of nothing, scored against scenes that no run has seen; film strips."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from PIL import Image
from torch import Tensor

from phosphene.data.scenes import Scenes, accepted, parse
from phosphene.data.sheet import to_image
from phosphene.diffusion.denoiser import Denoise, Denoised
from phosphene.diffusion.noise import Plain
from phosphene.metrics.features import extractor
from phosphene.metrics.frechet import Moments
from phosphene.metrics.interval import Interval, frechet_interval
from phosphene.recipes.cascade import enlarged, reduced
from phosphene.recipes.parts import pictures_of
from phosphene.systems.ddpm import Ddpm
from phosphene.views.page import Grid, View

SEEN = 2000  # test scenes that made ones are compared with
COLUMNS = ("Fréchet", "scenes", "kinds")  # of a table, for what a Judge says


class Scored(NamedTuple):
    """frechet: distance to test scenes by the shipped CLIP's features; scenes: the share the exact parser accepts.

    kinds: how many different things, by colour and shape, it reads in all the pictures.
    """

    frechet: Interval
    scenes: Interval
    kinds: int


class Judge:
    """Scores pictures (N, 3, H, W) in [−1, 1]. Fréchet's distance is too large for few: compare it at equal N only.

    size  of the pictures; below 32×32, they are enlarged, and the test scenes are reduced and enlarged.
    """

    def __init__(self, n: int | None = None, size: int = 32):
        self.extractor = extractor("clip")
        self.seen = self.features(held(n or SEEN, size))
        self.real = Moments.of(self.seen)

    def features(self, pictures: Tensor) -> Tensor:
        """(N, D)."""
        shown = enlarged(pictures).clamp(-1, 1).permute(0, 2, 3, 1).contiguous()
        pixels = ((shown + 1) * 127.5).round().to(torch.uint8)
        return torch.cat([self.extractor(part) for part in pixels.split(250)])

    def __call__(self, pictures: Tensor) -> Scored:
        pictures = enlarged(pictures)
        features, share = self.features(pictures), accepted(pictures)
        distance = frechet_interval(Moments.of(features), features, self.real)
        kinds = {(thing.colour, thing.shape) for picture in pictures for thing in parse(picture).objects}
        return Scored(distance, Interval(share.rate, *share.interval), len(kinds))


def held(n: int, size: int = 32, split: str = "test") -> Tensor:
    """n scenes of one object of a split, (n, 3, size, size): those of "test" no run has seen."""
    pictures = pictures_of(Scenes(32, n, split, (1, 1)), 32)
    return pictures if size == 32 else reduced(pictures, size)


class Silent(Plain):
    """A noise path without noise: runs start from their seeds' noise, and none is added on the way."""

    def __call__(self, t: Tensor, s: Tensor) -> Tensor:
        return torch.zeros(len(self.seeds), *self.shape)


def made(system: Ddpm, n: int, seed: int, *, silent: bool = False, at_once: int = 64, **how: Any) -> Tensor:
    """n pictures, told nothing, of seeds seed, seed + 1, …; silent: without noise on the way."""
    parts = []
    for first in range(seed, seed + n, at_once):
        seeds = range(first, min(first + at_once, seed + n))
        *_, last = system.generate([None] * len(seeds), seeds=seeds, **_noise(system, seeds, silent), **how)
        parts.append(last.picture())
    return torch.cat(parts)


def strip(system: Ddpm, seed: int, columns: int = 8, *, silent: bool = False, **how: Any) -> list[Image.Image]:
    """One run: what the network was shown, x_t at `columns` − 1 times evenly spread, and the picture that came out."""
    seen: list[Tensor] = []

    def looking(denoise: Denoise) -> Denoise:
        def looked(x: Tensor, t: Tensor) -> Denoised:
            seen.append(x)
            return denoise(x, t)

        return looked

    *_, last = system.generate([None], seeds=[seed], around=looking, **_noise(system, [seed], silent), **how)
    places = [round(i * (len(seen) - 1) / (columns - 2)) for i in range(columns - 1)]
    return [to_image(x[0]) for x in [*(system.decode(seen[i]) for i in places), last.picture()]]


def _noise(system: Ddpm, seeds: Sequence[int], silent: bool) -> dict[str, Any]:
    shape = (system.channels, system.size, system.size)
    return {"noise": Silent(shape, seeds, system.stage)} if silent else {}


def sheet(title: str, shown: Sequence[tuple[str, Tensor]], prompts: Sequence[str], reading: str = "") -> Image.Image:
    """A page of the pictures of every setting, (name, (N, 3, H, W)), a row each, the prompts above; reading: of it."""
    cells = [[to_image(picture) for picture in pictures] for _, pictures in shown]
    columns = list(prompts[: len(cells[0])])
    return View(title, [Grid(cells, [name for name, _ in shown], columns)], reading).picture()


def compared(a: Interval, b: Interval) -> str:
    """What two intervals say of a against b: lower, higher, or no difference at this scale."""
    if a.high < b.low:
        return "lower"
    return "higher" if a.low > b.high else "no different at this scale (the intervals overlap)"
