"""What lies between words and pixels: unCLIP's pages (Ramesh et al. 2022, §3).

A picture is (z_i, x_T), what CLIP sees in it and the noise that makes it so. Four grids: variations, in which eta lets
go of x_T; the way from each picture to the next; z_i turned from what a picture shows to what the next one does; and
z_i told by its first principal components. All of it is `generate(image=…)`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from ..canvas import Picture, prepare
from ..data.base import Example
from ..data.sheet import to_image
from ..errors import Problem
from ..request import to_images
from ..systems.unclip import Unclip
from .model import Model, of_any_kind
from .page import Grid, View

DIALS = (
    (0.0, 0),
    (0.25, 0),
    (0.5, 0),
    (0.75, 0),
    (1.0, 0),
    (1.0, 1),
    (1.0, 2),
)  # eta, and how much is added to the seed
SHARES = (0.0, 1 / 6, 1 / 3, 0.5, 2 / 3, 5 / 6, 1.0)
TURNS = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5)
READING = (
    "A picture is what CLIP sees in it, z_i, and the noise from which the decoder makes just it, x_T. Variations keep "
    "z_i, and eta lets go of x_T; between two pictures both go along their great circles; told other words, z_i turns "
    "by a share of the angle to what they say more; by components, z_i is what so many directions of its space say."
)


def meanings(
    pictures: Sequence[Picture | Example],
    says: Sequence[str] = (),
    *,
    model: Model = None,
    seed: int = 0,
    steps: int | None = None,
    guidance: float | None = None,
    **using: Any,
) -> View:
    """What pictures mean to a model of unCLIP's kind, as a page of four grids.

    pictures   two or more: files, PIL pictures, or Examples of a source
    says       what each of them shows; none: their own captions, and without any no words are told
    seed, steps, guidance   of the decoder, as `generate` takes them
    using      device=, precision=, … as Studio takes them
    Raises Problem for a model of another kind, for one picture, and for words that are not one a picture.
    """
    system, name, origin = of_any_kind(model, **using)
    if not isinstance(system, Unclip):
        raise Problem(f"{name} is a {type(system).__name__}: what pictures mean is unCLIP's to show")
    if len(pictures) < 2:
        raise Problem(f"{len(pictures)} pictures: two or more are wanted, with ways between them")
    shown = [to_image(p) if isinstance(p, Example) else p for p in pictures]
    captions = [p.captions[0] for p in pictures if isinstance(p, Example) and p.captions]
    says = list(says) or (captions if len(captions) == len(shown) else [])
    if says and len(says) != len(shown):
        raise Problem(f"{len(shown)} pictures and {len(says)} texts: one says what each shows")
    side = (system.size, system.size)
    images = torch.cat([prepare(p, size=side).image for p in shown])
    page = _Page(system, images, [to_images(image[None])[0] for image in images], seed, _said(steps, guidance))
    parts = [page.variations(), page.ways()]
    parts += [page.turns(says)] if says else []
    parts += [page.components()] if system.components is not None else []
    told = {"says": says, "seed": seed, "steps": steps, "guidance": guidance, **origin}
    numbers = {} if system.components is None else {"variance": system.components.variance.tolist()}
    return View(f"What {len(shown)} pictures mean", parts, READING, told, numbers)


def _said(steps: int | None, guidance: float | None) -> dict[str, Any]:
    return {name: value for name, value in (("steps", steps), ("guidance", guidance)) if value is not None}


class _Page:
    """The grids of some pictures, images (n, 3, H, W), of which each is a row."""

    def __init__(self, system: Unclip, images: Tensor, shown: list[Image.Image], seed: int, how: dict[str, Any]):
        self.system, self.images, self.shown, self.seed, self.how = system, images, shown, seed, how

    def made(self, image: Tensor, prompts: Sequence[str | None] = (None,), more: int = 0, **how: Any) -> Image.Image:
        """One picture of an image (1, 3, H, W)."""
        *_, last = self.system.generate(list(prompts), seeds=[self.seed + more], image=image, **self.how, **how)
        return to_images(last.picture())[0]

    def variations(self) -> Grid:
        rows = [[one, *(self.made(it, eta=eta, more=more) for eta, more in DIALS)] for one, it in self.each()]
        columns = ["the picture", *(f"eta {eta:g}" + ("\nanother seed" if more else "") for eta, more in DIALS)]
        return Grid(
            rows, [""] * len(rows), columns, title="Variations: the same meaning, and ever less the same picture"
        )

    def ways(self) -> Grid:
        pairs = zip(self.each(), self.each()[1:])
        rows = [[one, *(self._between(a, b, u) for u in SHARES), other] for (one, a), (other, b) in pairs]
        columns = ["the picture", *(f"{u:.2f}" for u in SHARES), "the other"]
        return Grid(
            rows, [""] * len(rows), columns, title="From each picture to the next: z_i and x_T on great circles"
        )

    def _between(self, a: Tensor, b: Tensor, share: float) -> Image.Image:
        return self.made(a, towards=b, strength=share)

    def turns(self, says: Sequence[str]) -> Grid:
        after = [*says[1:], says[0]]
        rows = [
            [self.made(it, [new], invert=[old], strength=share) for share in TURNS]
            for (_, it), old, new in zip(self.each(), says, after)
        ]
        names = [f"{old} → {new}" for old, new in zip(says, after)]
        columns = [f"{share:g}" for share in TURNS]
        return Grid(rows, names, columns, title="Told other words: z_i turned towards norm(z_t - z_t0)")

    def components(self) -> Grid:
        variance = self.system.components.variance
        dim = len(variance)
        counts = [k for k in (1, 2, 4, 8, 16, 32, 64, 128, 256) if k < dim] + [dim]
        rows = [[*(self.made(it, components=k) for k in counts), one] for one, it in self.each()]
        shares = [float(variance[:k].sum() / variance.sum()) for k in counts]
        columns = [f"{k}\n{share:.0%}" for k, share in zip(counts, shares)] + ["the picture"]
        return Grid(
            rows, [""] * len(rows), columns, title="By the first principal components: how many, of what variance"
        )

    def each(self) -> list[tuple[Image.Image, Tensor]]:
        return list(zip(self.shown, self.images.split(1)))
