"""Why two tools, or two people, get different numbers for the same pictures.

The same features of the same two sets, with one convention changed at a time: how pictures are resized, whether they
went through JPEG, how many there are, and which half of the reference is taken. What the number moves by is what that
convention is worth; a difference between two papers that is smaller than that says nothing.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..data.base import Source
from ..errors import Problem
from .features import Extractor, replaced
from .frechet import Moments, frechet
from .resize import RESIZES
from .statistics import pictures, some_rows

WHOSE = {
    "antialiased": "Pillow in floats, antialiased: clean-fid's and ours",
    "rounded": "Pillow in 8 bits, bilinear: pictures resized and saved before",
    "torch": "bilinear without antialiasing: pytorch-fid's",
    "tensorflow": "bilinear from the corner, without antialiasing: the first FID's and torch-fidelity's",
}
JPEG = (95, 75)


class Change(NamedTuple):
    """One convention changed: of which kind, what, the distance then, and by how much it moved."""

    kind: str
    what: str
    distance: float
    moved: float


def explain(a: Source, b: Source, extractor: Extractor, n: int | None = None, seed: int = 0) -> list[Change]:
    """The Fréchet distance of a to the reference b, first with our conventions, then with each other one.

    n  pictures of each at most. Raises Problem for fewer than 8 on a side.
    """
    sides = [list(pictures(it, some_rows(it, n, seed), None)) for it in (a, b)]
    for it, side in zip((a, b), sides):
        if len(side) < 8:
            raise Problem(f"{it.name}: {len(side)} pictures can be read; to explain a distance at least 8 are wanted")
    made, real = (_features(side, extractor) for side in sides)
    base = _distance(made, real)
    found = [Change("as it is", f"{len(made)} against {len(real)}, {WHOSE[extractor.resize]}", base, 0.0)]

    def add(kind: str, what: str, distance: float) -> None:
        found.append(Change(kind, what, distance, distance - base))

    for how in RESIZES:
        if how != extractor.resize and extractor.size is not None:
            other = replaced(extractor, how)
            again = [_features(side, other) for side in sides]
            add("resize", WHOSE[how], _distance(*again))
            add("resize of one side", f"{WHOSE[how]}; the reference as it was", _distance(again[0], real))
    for quality in JPEG:
        add("JPEG of one side", f"the first through JPEG of quality {quality}", _distance(
            _features([through_jpeg(x, quality) for x in sides[0]], extractor), real))  # fmt: skip
    for share in (2, 4):
        add("sample count", f"{len(made) // share} of the first", _distance(made[_some(made, share, seed)], real))
    half = _some(real, 2, seed)
    rest = torch.tensor(sorted({*range(len(real))} - {*half.tolist()}))
    add("reference set", "one half of the reference", _distance(made, real[half]))
    add("reference set", "its other half", _distance(made, real[rest]))
    add(
        "reference set",
        "its two halves with each other: what is left where nothing differs",
        _distance(real[half], real[rest]),
    )
    return found


def shares(changes: Sequence[Change]) -> dict[str, float]:
    """{kind: the most that a change of this kind moves the distance}, largest first."""
    kinds = dict.fromkeys(c.kind for c in changes[1:])
    most = {k: max((c.moved for c in changes if c.kind == k and "two halves" not in c.what), key=abs) for k in kinds}
    return dict(sorted(most.items(), key=lambda item: -abs(item[1])))


def _features(side: Sequence[Tensor], extractor: Extractor) -> Tensor:
    return torch.cat([extractor(batch) for batch in _alike(side)])


def _alike(side: Sequence[Tensor], batch: int = 32) -> Iterator[Tensor]:
    """Pictures (1, H, W, 3), in batches where neighbours are of one size."""
    waiting: list[Tensor] = []
    for picture in side:
        if waiting and (len(waiting) == batch or picture.shape != waiting[0].shape):
            yield torch.cat(waiting)
            waiting = []
        waiting.append(picture)
    yield torch.cat(waiting)


def _distance(a: Tensor, b: Tensor) -> float:
    return frechet(Moments.of(a), Moments.of(b))


def _some(features: Tensor, share: int, seed: int) -> Tensor:
    order = torch.randperm(len(features), generator=torch.Generator().manual_seed(seed))
    return order[: len(features) // share]


def through_jpeg(picture: Tensor, quality: int) -> Tensor:
    """A picture uint8 (1, H, W, 3) as a JPEG of this quality gives it back."""
    data = io.BytesIO()
    Image.fromarray(picture[0].numpy()).save(data, "JPEG", quality=quality)
    return torch.from_numpy(np.array(Image.open(data)))[None]
