"""Batches: which rows, which of their captions, cropped and flipped how, as a function of (seed, step, slot) alone.

A global batch is `slots` micro-batches of `batch` rows. Place p of slot s of step k stands at position
(k·slots + s)·batch + p; rows, captions, dropout, flips and crops are drawn by hashing (seed, position). So neither the
number of workers or processes, nor what was drawn before, nor how a global batch is cut into slots changes anything.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from itertools import count
from typing import Any

import numpy as np
import torch
from torch import Tensor

from phosphene.data.base import Example, Source
from phosphene.data.order import Bucketed, Shuffled, key, uniform
from phosphene.data.pictures import check_crop, colour, fitted, image_size, opaque
from phosphene.data.workers import in_order
from phosphene.errors import Problem, unknown
from phosphene.systems.base import Batch, Prompt, System, evaluating

PROMPTS = ("caption", "label", "layout", "map", "none")
WHERE = ("layout", "map")  # what says where things stand, and is not mirrored or cut with the picture
CAPTION, DROP, FLIP, CROP_X, CROP_Y, OTHER = range(10, 16)  # what a random number is for
TRIES = 100  # broken rows in a row before we say that the source is broken


@dataclass(frozen=True)
class Buckets:
    """Sizes of about `area` pixels, sides multiples of `multiple`, no longer than `longest` times as long as wide.

    Each picture goes to the bucket whose shape is nearest to its own (in log aspect).
    """

    area: int = 256 * 256
    multiple: int = 64
    longest: float = 2.0

    def sizes(self) -> list[tuple[int, int]]:
        """All (height, width)."""
        if self.area < self.multiple**2 or self.longest < 1:
            square = f"{self.multiple}x{self.multiple}"
            raise Problem(f"{self}: area must hold at least one {square} square, and longest be at least 1")
        found, width = set(), self.multiple
        while width <= (self.area * self.longest) ** 0.5 + 1e-6:
            height = max(self.multiple, int(self.area / width // self.multiple) * self.multiple)
            if max(width / height, height / width) <= self.longest:
                found |= {(height, width), (width, height)}
            width += self.multiple
        return sorted(found)


class Batches:
    """Draws batches from a source.

    source      a Source, or what `open_source` reads
    size        side of the pictures in pixels, or (height, width), or Buckets
    batch       rows of a slot (micro-batch); slots: how many of them make one step
    drop        how often a prompt is dropped to None, the null prompt
    flip        mirror half of the pictures
    crop        "center", "random" or "squash": see pictures.fitted
    background  the colour behind transparent pictures
    prompts     "caption": one of the row's captions, drawn anew each time, None where it has none; "label": its class
                number; "layout", "map": the row's boxes, or its pixels' labels (text/layout.py, text/maps.py); "none":
                None
    channels    3, or 1 for grey pictures
    multiple    what both sides must be divisible by, where the network says so

    `broken` holds {row: what is wrong} of the broken pictures met so far. A broken picture's place is taken by a row
    drawn from (seed, position).
    Raises Problem for options that make no sense, an empty source, and a source that lacks the wanted prompts.
    """

    def __init__(
        self,
        source: Source | str,
        *,
        size: int | tuple[int, int] | Buckets,
        batch: int,
        slots: int = 1,
        seed: int = 0,
        drop: float = 0.1,
        flip: bool = False,
        crop: str = "center",
        background: str | tuple[int, int, int] = (255, 255, 255),
        prompts: str = "caption",
        channels: int = 3,
        multiple: int = 1,
    ):
        if isinstance(source, str):
            from phosphene.data.base import open_source

            source = open_source(source)
        self.source, self.batch, self.slots, self.seed = source, batch, slots, seed
        self.drop, self.flip, self.crop, self.background = drop, flip, check_crop(crop), colour(background)
        self.prompts, self.channels = prompts, channels
        self.broken: dict[int, str] = {}  # row -> what is wrong with it, the file's name first
        self._check()
        self.size = size if isinstance(size, Buckets) else _checked_size(size, multiple)
        self.order = self._ordered()

    def _check(self) -> None:
        if self.batch < 1 or self.slots < 1:
            raise Problem(f"batch={self.batch} and slots={self.slots} must be at least 1")
        if not 0 <= self.drop <= 1:
            raise Problem(f"drop={self.drop} is a share of the prompts and must be within 0…1")
        if self.prompts not in PROMPTS:
            raise unknown("prompts", self.prompts, PROMPTS)
        if self.prompts in WHERE and (self.flip or self.crop == "random"):
            raise Problem(f"prompts={self.prompts!r} says where things stand, which flips and random crops change")
        if self.channels not in (1, 3):
            raise Problem(f"channels={self.channels}; pictures have 3 (colour) or 1 (grey)")
        if not len(self.source):
            raise Problem(f"{self.source.name} is empty: no picture in it, or none that passes the filters")
        if why := getattr(self.source, "lacks", {}).get(self.prompts):
            raise Problem(why)

    # -- drawing -----------------------------------------------------------------------------------------------------

    def at(self, step: int, slot: int = 0) -> Batch:
        """Micro-batch `slot` of step `step`, a function of (seed, step, slot) and nothing else."""
        micro = step * self.slots + slot
        positions = np.arange(micro * self.batch, (micro + 1) * self.batch, dtype=np.int64)
        rows = self.order.rows(micro, self.batch)
        images, captions, labels = self._pictures(rows, positions, micro)
        prompts = self._prompts(captions, labels, positions)
        return Batch(images, prompts, torch.from_numpy(rows), prepared=self.prepared)

    prepared = False

    def stream(
        self, start_step: int = 0, workers: int = 0, slots: Sequence[int] | None = None
    ) -> Iterator[tuple[int, list[Batch]]]:
        """(step, its batches) from `start_step` on, without end; `slots`: those that this process computes (None: all).

        With workers > 0, that many processes decode ahead; the batches are the same ones.
        """
        wanted = list(range(self.slots) if slots is None else slots)

        for step, (drawn, broken) in in_order(partial(self._step, wanted), count(start_step), workers):
            self.broken.update(broken)
            yield step, drawn

    def _step(self, slots: list[int], step: int) -> tuple[list[Batch], dict[int, str]]:
        """The batches of a step, and what was found to be broken."""
        met = set(self.broken)
        drawn = [self.at(step, slot) for slot in slots]
        return drawn, {row: why for row, why in self.broken.items() if row not in met}

    def _u(self, what: int, positions: np.ndarray) -> np.ndarray:
        return uniform(key(self.seed, what), positions)

    def _pictures(self, rows: np.ndarray, positions: np.ndarray, micro: int):
        """Pictures of `rows` (replaced in place where broken), their captions and their labels."""
        size = self.order.size(micro) or self._one_size()
        flip = self._u(FLIP, positions) < 0.5 if self.flip else np.zeros(len(rows), bool)
        places = np.stack([self._u(CROP_X, positions), self._u(CROP_Y, positions)], 1)
        images, captions, labels = [], [], []
        for i in range(len(rows)):
            rows[i], example = self._example(int(rows[i]), int(positions[i]), micro)
            image = self.picture(example, size, tuple(places[i]))
            images.append(image.flip(-1) if flip[i] else image)
            captions.append(self.said(example))
            labels.append(example.label)
        return _floats(torch.stack(images)), captions, labels

    def _example(self, row: int, position: int, micro: int) -> tuple[int, Example]:
        """The row itself, or, where it is broken, the first of those drawn in its stead that is not."""
        for attempt in range(TRIES):
            if row not in self.broken:
                try:
                    return row, self.source[row]
                except Problem as problem:
                    self.broken[row] = str(problem)
            row = self.order.another(micro, float(self._u(key(OTHER, attempt), np.array([position]))[0]))
        found = f"{len(self.broken)} broken pictures and no good one in {TRIES} tries"
        raise Problem(f"{self.source.name}: {found}; the first: {next(iter(self.broken.values()))}")

    def said(self, example: Example) -> tuple[Any, ...]:
        """What may be said of a row, one of which is drawn: its captions, or its layout or map.

        These the source makes, if it `tells` them, or they stand in the row's meta.
        """
        if self.prompts not in WHERE:
            return example.captions
        tell = getattr(self.source, "tells", {}).get(self.prompts)
        it = example.meta.get(self.prompts) if tell is None else tell(example)
        if it is None:
            raise Problem(f"{self.source.name} says no {self.prompts} of its pictures: a column of this name would")
        return (it,)

    def picture(self, example: Example, size: tuple[int, int], u: tuple[float, float] = (0.5, 0.5)) -> Tensor:
        """One picture, (C, H, W): uint8, or float where the source gives tensors."""
        if isinstance(example.image, Tensor):
            return example.image
        image = fitted(opaque(example.image, self.background), size, self.crop, u)
        pixels = np.array(image.convert("L") if self.channels == 1 else image)
        return torch.from_numpy(pixels.reshape(*size, self.channels)).permute(2, 0, 1)

    def _one_size(self) -> tuple[int, int]:
        assert not isinstance(self.size, Buckets)
        return self.size

    def _prompts(self, captions: list, labels: list, positions: np.ndarray) -> list[Prompt]:
        if self.prompts == "none":
            return [None] * len(positions)
        dropped = self._u(DROP, positions) < self.drop
        if self.prompts == "label":
            return [None if d else label for d, label in zip(dropped.tolist(), labels, strict=True)]
        draws = zip(dropped.tolist(), captions, self._u(CAPTION, positions).tolist(), strict=True)
        return [None if d or not c else c[int(u * len(c))] for d, c, u in draws]

    # -- order -------------------------------------------------------------------------------------------------------

    def _ordered(self) -> Shuffled | Bucketed:
        if isinstance(self.size, Buckets):
            return Bucketed(self._members(self.size), self.seed, self.batch)
        return Shuffled(len(self.source), self.seed, getattr(self.source, "shards", None))

    def _members(self, buckets: Buckets) -> dict[tuple[int, int], np.ndarray]:
        """{(height, width): rows}; reads every picture's header once."""
        sizes = np.array(buckets.sizes())
        shapes = np.log(sizes[:, 1] / sizes[:, 0])
        members: dict[tuple[int, int], list[int]] = {}
        for row in range(len(self.source)):
            try:
                width, height = size_of(self.source, row)
            except Problem as problem:
                self.broken[row] = str(problem)
                continue
            nearest = sizes[np.abs(shapes - np.log(width / height)).argmin()]
            members.setdefault((int(nearest[0]), int(nearest[1])), []).append(row)
        if not members:
            raise _all_broken(self)
        return {size: np.array(rows) for size, rows in members.items()}


class Cached(Batches):
    """Batches whose pictures, or latents, were made once and stay in memory; captions are still drawn at each step.

    Made by `cached`. Draws the same rows and prompts as the Batches it was made from.
    """

    def __init__(
        self, origin: Batches, table: Tensor, flipped: Tensor | None, captions: list, labels: list, prepared: bool
    ):
        self.__dict__.update(origin.__dict__)
        self.table, self.flipped, self.captions, self.labels, self.prepared = table, flipped, captions, labels, prepared

    def _pictures(self, rows: np.ndarray, positions: np.ndarray, micro: int):
        for i in range(len(rows)) if self.broken else ():
            attempt = 0
            while int(rows[i]) in self.broken:
                rows[i] = self.order.another(micro, float(self._u(key(OTHER, attempt), positions[i : i + 1])[0]))
                attempt += 1
        images = self.table[torch.from_numpy(rows)]
        if self.flip:
            mirrored = torch.from_numpy(self._u(FLIP, positions) < 0.5)
            other = images.flip(-1) if self.flipped is None else self.flipped[torch.from_numpy(rows)]
            images = torch.where(mirrored[:, None, None, None], other, images)
        which = rows.tolist()
        return _floats(images), [self.captions[r] for r in which], [self.labels[r] for r in which]

    def stream(self, start_step: int = 0, workers: int = 0, slots: Sequence[int] | None = None):
        """As Batches.stream; there is nothing left for workers to do."""
        return super().stream(start_step, 0, slots)


def cached(
    batches: Batches,
    system: System | None = None,
    *,
    workers: int = 0,
    dtype: torch.dtype = torch.float16,
    progress: Callable[[int, int], Any] | None = None,
) -> Cached:
    """Every row through `system.prepare` once, so that training decodes no picture: (N, C, h, w) of `dtype` in memory.

    Without a system the pictures themselves are kept, as uint8. With `flip` a system's latents are made of both the
    picture and its mirror image. Torch's generators are as before afterwards, and prepare draws from the batches' seed.
    `progress(rows done, rows in all)` is called now and then.
    Raises Problem for random crops and buckets, which one table cannot hold, and where no picture can be read.
    """
    if batches.crop == "random" or not isinstance(batches.order, Shuffled):
        raise Problem(
            "a cache holds each picture in one size and one crop: use crop='center' or 'squash' and a single size"
        )
    n, rows_at_once = len(batches.source), 128
    chunks = [range(i, min(i + rows_at_once, n)) for i in range(0, n, rows_at_once)]

    table = flipped = None
    captions: list[tuple[str, ...]] = [()] * n
    labels: list[int | None] = [None] * n
    with torch.random.fork_rng(), nullcontext() if system is None else evaluating(system):
        torch.manual_seed(key(batches.seed, 99))
        for chunk, rows in in_order(partial(_read_all, batches), chunks, workers):
            for row, (_, c, label, why) in zip(chunk, rows, strict=True):
                captions[row], labels[row] = c, label
                if why:
                    batches.broken[row] = why
            good = [(row, image) for row, (image, *_) in zip(chunk, rows, strict=True) if image is not None]
            if good:
                where = torch.tensor([row for row, _ in good])
                made = torch.stack([image for _, image in good])
                table = _put(table, n, where, _prepared(system, made, where, dtype))
                if batches.flip and system is not None:
                    flipped = _put(flipped, n, where, _prepared(system, made.flip(-1), where, dtype))
            if progress:
                progress(chunk.stop, n)
    if table is None:
        raise _all_broken(batches)
    return Cached(batches, table, flipped, captions, labels, prepared=system is not None)


def _read_all(batches: Batches, rows: range) -> list:
    return [_read(batches, row) for row in rows]


def _read(batches: Batches, row: int):
    """(uint8 picture or None, captions, label, what is wrong or None)"""
    try:
        example = batches.source[row]
    except Problem as problem:
        return None, (), None, str(problem)
    return batches.picture(example, batches._one_size()), batches.said(example), example.label, None


def _prepared(system: System | None, images: Tensor, rows: Tensor, dtype: torch.dtype) -> Tensor:
    if system is None:
        return images
    with torch.no_grad():
        batch = Batch(_floats(images), [None] * len(rows), rows).to(system.device)
        return system.prepare(batch).image.to("cpu", dtype)


def _put(table: Tensor | None, n: int, where: Tensor, values: Tensor) -> Tensor:
    if table is None:
        table = values.new_zeros((n, *values.shape[1:]))
    table[where] = values
    return table


def _all_broken(batches: Batches) -> Problem:
    n, name = len(batches.source), batches.source.name
    return Problem(f"{name}: none of its {n} pictures can be read; the first: {batches.broken[0]}")


def size_of(source: Source, row: int) -> tuple[int, int]:
    """(width, height) of a row's picture. Raises Problem where it cannot be read."""
    if hasattr(source, "size") and callable(source.size):
        return source.size(row)
    return image_size(source[row].image)


def _floats(images: Tensor) -> Tensor:
    """uint8 0…255 as float32 −1…1; other types only become float32."""
    return images.float().div_(127.5).sub_(1) if images.dtype == torch.uint8 else images.float()


def _checked_size(size: int | Sequence[int], multiple: int) -> tuple[int, int]:
    sides = (size, size) if isinstance(size, int) else tuple(size)
    if len(sides) != 2 or not all(isinstance(s, int) and 1 <= s <= 16384 for s in sides):
        raise Problem(f"size={size!r}; a side in pixels, or (height, width), each 1…16384, is right")
    if any(s % multiple for s in sides):
        fits = " or ".join(str(f) for f in sorted({max(multiple, s // multiple * multiple) for s in sides}))
        raise Problem(f"size={size!r} is not divisible by {multiple}, which this model needs; {fits} would fit")
    return sides  # type: ignore[return-value]
