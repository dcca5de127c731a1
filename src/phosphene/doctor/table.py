"""One pass over a source: what the checks of data look at, in memory that does not grow with the pictures' size.

Of each row a thumbnail of 16 × 16, a hash of the whole picture, and what is said of it are kept: about 1 kB.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ..data.base import Source
from ..data.pictures import fitted, opaque
from ..errors import Problem

SIDE = 16
SAME = 2.0  # levels of 255: pictures whose thumbnails differ by less, as a root mean square, are copies


@dataclass(frozen=True)
class Table:
    """Rows of a source, those that can be read.

    thumbs    (N, 16·16·3) float32, levels from 0 to 255
    hashes    of the whole pictures; captions, rows: of each
    total     how many rows the source has
    """

    thumbs: Tensor
    hashes: list[bytes]
    captions: list[tuple[str, ...]]
    rows: list[int]
    total: int

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def share(self) -> float:
        """How much of the source was looked at."""
        return len(self) / max(1, self.total)


def table(source: Source, look: int) -> Table:
    """Up to `look` rows, evenly spread over the source. Broken pictures are passed over."""
    n = len(source)
    thumbs, hashes, captions, rows = [], [], [], []
    for row in range(n) if n <= look else [i * n // look for i in range(look)]:
        try:
            example = source[row]
        except Problem:
            continue
        pixels = _pixels(example.image)
        thumbs.append(_thumbnail(pixels))
        hashes.append(hashlib.blake2b(repr(pixels.shape).encode() + pixels.tobytes(), digest_size=16).digest())
        captions.append(tuple(example.captions))
        rows.append(row)
    stacked = torch.stack(thumbs) if thumbs else torch.zeros(0, SIDE * SIDE * 3)
    return Table(stacked, hashes, captions, rows, n)


def copies(a: Table, b: Table | None = None) -> tuple[dict[int, int], dict[int, int]]:
    """({place in b: place in a} of equal pictures, the same of pictures as good as equal).

    Without b, copies within a: each place that has an earlier one like it. A pair's thumbnails differ by less than
    SAME; their 4 × 4 means differ by no more than they do, and so sort out almost all pairs without a comparison.
    """
    other = a if b is None else b
    first: dict[bytes, int] = {}
    equal = {}
    if b is None:
        for place, digest in enumerate(a.hashes):
            if first.setdefault(digest, place) != place:
                equal[place] = first[digest]
    else:
        first = {digest: place for place, digest in reversed(list(enumerate(a.hashes)))}
        equal = {place: first[digest] for place, digest in enumerate(b.hashes) if digest in first}
    near = {}
    for place, candidates in _candidates(a.thumbs, other.thumbs):
        candidates = candidates[candidates < place] if b is None else candidates
        if place in equal or not len(candidates):
            continue
        off = (a.thumbs[candidates] - other.thumbs[place]).square().mean(1).sqrt()
        if off.min() < SAME:
            near[place] = int(candidates[off.argmin()])
    return equal, near


def _candidates(a: Tensor, b: Tensor):
    """(place in b, places in a whose coarse means are near enough), for the places that have any."""
    coarse, other = _coarse(a), _coarse(b)
    for start in range(0, len(other), 512):
        off = torch.cdist(other[start : start + 512], coarse) / coarse.shape[1] ** 0.5
        near = (off < SAME).nonzero()
        if len(near):
            places, counts = near[:, 0].unique_consecutive(return_counts=True)
            for place, found in zip(places.tolist(), near[:, 1].split(counts.tolist())):
                yield start + place, found


def _coarse(thumbs: Tensor) -> Tensor:
    return F.avg_pool2d(thumbs.view(-1, 3, SIDE, SIDE), 4).flatten(1)


def _pixels(image) -> np.ndarray:
    """uint8 (H, W, 3); a tensor (C, H, W) is taken to be in [−1, 1]."""
    if isinstance(image, Tensor):
        levels = ((image.float().clamp(-1, 1) + 1) * 127.5).round().byte()
        return (
            levels.expand(3, -1, -1).permute(1, 2, 0).contiguous().numpy() if len(levels) in (1, 3) else levels.numpy()
        )
    return np.asarray(opaque(image, (255, 255, 255)))


def _thumbnail(pixels: np.ndarray) -> Tensor:
    from PIL import Image

    small = np.asarray(fitted(Image.fromarray(pixels), (SIDE, SIDE), "squash"))
    return torch.from_numpy(small.copy()).permute(2, 0, 1).flatten().float()
