"""Statistics of a set of pictures, in memory that does not grow with their number, and the file they are kept in.

The file is a .safetensors: mean, scatter and count, a bounded uniform sample of the features, and in its header how
they were made (source, rows, size, features, checksum, resize, date, versions). What was made otherwise is refused.
"""

from __future__ import annotations

import datetime
import hashlib
import random
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..data.base import Source
from ..data.batches import Batches
from ..errors import Problem
from .features import Extractor, cache
from .frechet import Moments

KEEP = 10_000  # features that are kept of a set, whatever its size
MADE_ALIKE = ("features", "checksum", "feature_size", "resize", "picture_size")


@dataclass
class Statistics:
    """moments, `kept` features (K, D) in float32 with the rows (K,) of their pictures, and how they were made."""

    moments: Moments
    kept: Tensor
    rows: Tensor
    about: dict[str, str] = field(default_factory=dict)

    @property
    def n(self) -> int:
        return self.moments.n


def collect(
    features: Iterable[Tensor], dim: int, about: dict[str, str] | None = None, *, keep: int = KEEP, seed: int = 0
) -> Statistics:
    """Statistics of features (B, dim) that come in batches; every one is kept with the same probability (Vitter 1985).

    Raises Problem for fewer than two pictures.
    """
    collector = Collector(dim, keep, seed)
    for batch in features:
        collector.add(batch)
    return collector.end(about)


class Collector:
    """What `collect` keeps, for features of several kinds that come at once.

    Which ones are kept depends on their number and the seed alone: two collectors of the same pictures keep the same.
    """

    def __init__(self, dim: int, keep: int = KEEP, seed: int = 0):
        self.moments, self.keep, self.rng = Moments(dim), keep, random.Random(seed)
        self.kept, self.rows = torch.empty(0, dim), torch.empty(0, dtype=torch.int64)

    def add(self, batch: Tensor) -> None:
        """Features (B, dim)."""
        room, first = max(0, self.keep - len(self.kept)), self.moments.n
        self.moments.add(batch)
        if room:
            self.kept = torch.cat([self.kept, batch[:room].float()])
            self.rows = torch.cat([self.rows, torch.arange(first, first + len(batch[:room]))])
        for i in range(room, len(batch)):
            place = self.rng.randrange(first + i + 1)
            if place < self.keep:
                self.kept[place], self.rows[place] = batch[i].float(), first + i

    def end(self, about: dict[str, str] | None = None) -> Statistics:
        """Raises Problem for fewer than two pictures."""
        if self.moments.n < 2:
            raise Problem(f"statistics want at least 2 pictures, not {self.moments.n}")
        return Statistics(self.moments, self.kept, self.rows, dict(about or {}))


def save(statistics: Statistics, path: str | Path) -> Path:
    """Writes them, with how they were made, the date and the versions."""
    from .. import __version__
    from ..weights.files import write_tensors

    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    made = {"kind": "statistics", "n": str(statistics.n), "date": now, "phosphene": __version__}
    tensors = {
        "mean": statistics.moments.mean,
        "scatter": statistics.moments.scatter,
        "kept": statistics.kept,
        "rows": statistics.rows,
    }
    return write_tensors(path, tensors, {**statistics.about, **made, "torch": torch.__version__})


def load(path: str | Path, **wanted: str) -> Statistics:
    """Reads them. Raises Problem for another kind of file, and where they were not made as `wanted` says."""
    from ..weights.files import open_tensors

    tensors = open_tensors(path)
    about = tensors.metadata
    if about.get("kind") != "statistics" or not {"mean", "scatter", "kept", "rows"} <= set(tensors):
        raise Problem(f"{path} holds no statistics of pictures; `phosphene evaluate` makes such files")
    for name, value in wanted.items():
        if about.get(name) != value:
            raise Problem(f"{path} was made with {name} {about.get(name)!r}, not {value!r}: not comparable")
    moments = Moments(len(tensors["mean"]))
    moments.n, moments.mean, moments.scatter = int(about["n"]), tensors["mean"].clone(), tensors["scatter"].clone()
    return Statistics(moments, tensors["kept"].clone(), tensors["rows"].clone(), dict(about))


# Of data --------------------------------------------------------------------------------------------------------------


def some_rows(source: Source, n: int | None, seed: int = 0) -> list[int]:
    """n different rows of a source, drawn by `seed`; all of them, in order, where there are no more."""
    if n is None or n >= len(source):
        return list(range(len(source)))
    return random.Random(f"rows/{seed}").sample(range(len(source)), n)


def pictures(
    source: Source,
    rows: Iterable[int],
    size: tuple[int, int] | None,
    batch: int = 32,
    good: list[int] | None = None,
) -> Iterator[Tensor]:
    """Batches of pictures uint8 (B, H, W, 3), cropped in the middle and brought to (height, width) as in training.

    With size None they come one by one, as large as they are. Broken ones are left out; the rows that are not are
    added to `good`.
    """
    batches = Batches(source, size=size or 1, batch=1, prompts="none")
    waiting: list[Tensor] = []
    for row in rows:
        try:
            example = source[row]
        except Problem:
            continue
        if good is not None:
            good.append(row)
        if isinstance(example.image, Tensor):
            raise Problem(f"{source.name}: its rows are tensors ready for a network, and no pictures to compare")
        height, width = size or _shape(example.image)
        waiting.append(batches.picture(example, (height, width)).permute(1, 2, 0))
        if size is None or len(waiting) == batch:
            yield torch.stack(waiting)
            waiting = []
    if waiting:
        yield torch.stack(waiting)


def _shape(image: Any) -> tuple[int, int]:
    return tuple(image.shape[:2]) if isinstance(image, np.ndarray) else image.size[::-1]


def digest(source: Source, looked: int = 16) -> str:
    """Which pictures a source holds: a hash of its name, its length and some evenly spread pictures."""
    told = hashlib.sha256(f"{source.name} {len(source)}".encode())
    for row in sorted({i * len(source) // looked for i in range(looked)}):
        for picture in pictures(source, [row], None):
            told.update(picture.numpy().tobytes())
    return told.hexdigest()[:12]


def reference(
    source: Source,
    extractor: Extractor,
    size: tuple[int, int],
    n: int | None = None,
    *,
    seed: int = 0,
    spec: str = "",
    folder: Path | None = None,
) -> Statistics:
    """Statistics of n pictures of a source at this size, from the cache where they are there, else made and kept there.

    folder  the cache; the user's own where none is given
    """
    about = {
        **extractor.about,
        "source": spec or source.name,
        "pictures": digest(source),
        "split": str(getattr(source, "split", "")),
        "picture_size": f"{size[1]}x{size[0]}",
        "asked": "all" if n is None else f"{n} by seed {seed}",
    }
    key = hashlib.sha256(repr(sorted(about.items())).encode()).hexdigest()[:10]
    name = re.sub(r"\W+", "-", f"{source.name}")[-60:].strip("-")
    path = (folder or cache() / "statistics") / f"{name}-{key}.safetensors"
    if path.is_file():
        return load(path, **about)
    good: list[int] = []
    shown = pictures(source, some_rows(source, n, seed), size, good=good)
    found = collect(map(extractor, shown), extractor.dim, about)
    found.rows = torch.tensor(good)[found.rows]
    return load(save(found, path))
