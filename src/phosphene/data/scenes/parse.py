"""The exact parser: reads a scene back from a picture by drawing it again.

Ink (what is darker than white) falls apart into connected pieces. Each piece is compared with every shape, at every
size, slightly smaller and larger, at the sub-pixel place where its centre of mass lies; least squares give its colour.
What the pieces found do not explain, when all are drawn together, is something else: then the picture is refused.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from phosphene.data.scenes import draw
from phosphene.data.scenes.draw import COLOURS, DECOYS, SHAPES, SIZES, UNITS, Object, Scene
from phosphene.errors import Problem

INK = 0.25  # a pixel is ink where some channel is this much darker than white
SOFTNESS = (0.0, 0.3, 0.6)  # variance of its blur, in square pixels
FINALISTS = 12  # templates tried again at
NUDGES = [(y, x) for y in (-1, 0, 1) for x in (-1, 0, 1)]  # units around the place that the centre of mass gives
SCALES = (0.88, 0.94, 1.0, 1.06, 1.12)  # a drawn or generated shape may be this much smaller or larger than its size
TINTS = np.array(list(COLOURS.values()), np.float32) / 255 - 1  # minus darkness
# the largest difference in a channel to the colour that a piece is named by, and its share of the next colour's
COLOUR_TOLERANCE, COLOUR_AMBIGUITY = 0.25, 0.7
DECOY_TRUST = 0.985  # a decoy must explain so much more than a shape
SHAPE_TOLERANCE = 0.08  # the share of a piece's energy, in brightness, that its shape may leave unexplained
ROUGHNESS = 0.06  # what may stay unexplained of all pixels, as a root mean square: 24 dB
# what may stay unexplained of brightness and of any channel (JPEG blurs hue), averaged over 5 or 21 pixels of 32 × 32
FINE_TOLERANCE, WIDE_TOLERANCE = (0.13, 0.22), (0.06, 0.1)
LENIENCE = 1.6  # so much more on and beside an object, whose outline may be a little off


@dataclass(frozen=True)
class Reading:
    """What stands in a picture: the objects made out, and why the picture is not a scene (None if it is one)."""

    objects: Scene
    foreign: str | None = None

    @property
    def scene(self) -> Scene | None:
        """The scene, or None where something else stands in the picture."""
        return None if self.foreign else self.objects


@dataclass(frozen=True)
class _Piece:
    """One connected piece as fitted: what it is, or why it is nothing known; its tint, and the stamp that fits."""

    object: Object | None
    foreign: str | None
    tint: np.ndarray  # (3,) minus its darkness
    at: tuple[np.ndarray, int, int]


def as_array(picture: Any) -> np.ndarray:
    """float32 (H, W, 3) in [0, 1] from a PIL picture, uint8 (H, W, 3) or a tensor (3, H, W) in [-1, 1]."""
    if isinstance(picture, Image.Image):
        return np.asarray(picture.convert("RGB"), np.float32) / 255
    if not isinstance(picture, np.ndarray):  # a tensor; torch is not imported here
        return (picture.detach().float().cpu().numpy().transpose(1, 2, 0).clip(-1, 1) + 1) / 2
    if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3:
        raise Problem(f"parse: an array of {picture.dtype} {picture.shape}; uint8 (H, W, 3) would be right")
    return picture.astype(np.float32) / 255


def parse(picture: Any) -> Reading:
    """Reads the scene in a picture (PIL, uint8 (H, W, 3), or a tensor (3, H, W) in [-1, 1]; square, from 32 pixels).

    Objects come from left to right. Other sides than 32 and 64 are reduced to one of the two first. Problem if the
    picture is not square or smaller than 32.
    """
    ink = _darkness(as_array(picture))
    labels, count = components(ink.max(2) > INK)
    zones = _zones(labels, ink.shape[0] // 32)
    pieces = [_fit(ink, zones == label) for label in range(1, count + 1) if (labels == label).sum() >= 4]
    objects = tuple(sorted((p.object for p in pieces if p.object), key=lambda o: (o.x, o.y)))
    return Reading(objects, _foreign(ink, pieces))


def _darkness(pixels: np.ndarray) -> np.ndarray:
    height, width = pixels.shape[:2]
    if height != width or height < 32:
        raise Problem(f"parse: a picture of {width}×{height}; a square one of 32, 64 or more pixels would be right")
    side = 32 if height < 64 else 64
    if height != side:
        small = Image.fromarray(np.rint(pixels * 255).astype(np.uint8)).resize((side, side), Image.Resampling.BOX)
        pixels = np.asarray(small, np.float32) / 255
    return 1 - pixels


def components(mask: np.ndarray) -> tuple[np.ndarray, int]:
    """8-connected pieces of a mask (S, S): labels (S, S), 0 outside, and how many there are."""
    padded = np.pad(mask, 1)
    width, count = padded.shape[1], 0
    free, labels = padded.ravel().tolist(), np.zeros(padded.size, int)
    around = (-width - 1, -width, -width + 1, -1, 1, width - 1, width, width + 1)
    for start in np.flatnonzero(padded).tolist():
        if not free[start]:
            continue
        free[start], piece = False, [start]
        for at in piece:  # grows as it is read
            for step in around:
                if free[at + step]:
                    free[at + step] = False
                    piece.append(at + step)
        count += 1
        labels[piece] = count
    return labels.reshape(padded.shape)[1:-1, 1:-1], count


def _zones(labels: np.ndarray, reach: int) -> np.ndarray:
    """Each piece with its soft edge: labels grown by `reach` pixels into what is free."""
    for _ in range(reach):
        padded = np.pad(labels, 1)
        around = [padded[i : i + len(labels), j : j + len(labels)] for i in range(3) for j in range(3)]
        labels = np.where(labels > 0, labels, np.maximum.reduce(around))
    return labels


class _Templates(NamedTuple):
    """Every shape × size × scale × softness, K of them, at every sub-pixel offset."""

    covers: np.ndarray  # (K, Q, Q, P, P)
    centres: np.ndarray  # (K, 2) centre of mass, down and across, in pixels from the centre of the box
    names: list[tuple[str, str]]
    trust: np.ndarray  # (K,) factor on what it explains: a decoy must be clearly better


@functools.lru_cache(maxsize=2)
def _templates(side: int) -> _Templates:
    shapes = [*SHAPES, *DECOYS]
    names = [(shape, size) for shape in shapes for size in SIZES for _ in SCALES]
    stamps = [draw.cover(shape, d * k, side) for shape in shapes for d in SIZES.values() for k in SCALES]
    widest = max(s.shape[-1] for s in stamps) + 2
    pads = [(widest - s.shape[-1]) // 2 for s in stamps]
    sharp = np.stack([np.pad(s, ((0, 0), (0, 0), (p, p), (p, p))) for s, p in zip(stamps, pads, strict=True)])
    covers = np.concatenate([_soft(sharp, variance) for variance in SOFTNESS])
    first, place = covers[:, 0, 0], np.arange(widest) + 0.5 - widest / 2
    centres = np.stack([(first.sum(2) * place).sum(1), (first.sum(1) * place).sum(1)], 1) / first.sum((1, 2))[:, None]
    trust = np.array([DECOY_TRUST if shape in DECOYS else 1.0 for shape, _ in names * len(SOFTNESS)], np.float32)
    return _Templates(covers, centres, names * len(SOFTNESS), trust)


def _soft(covers: np.ndarray, variance: float) -> np.ndarray:
    """Blurred over the last two axes by the kernel (v/2, 1−v, v/2), whose variance is v square pixels."""
    for axis in (-1, -2):
        sides = np.roll(covers, 1, axis) + np.roll(covers, -1, axis)
        covers = (1 - variance) * covers + variance / 2 * sides
    return covers


def _fit(ink: np.ndarray, zone: np.ndarray) -> _Piece:
    """The template, place and tint that explain one piece best: the most of (Σ c·d)² / Σc², c the cover, d the ink."""
    side = ink.shape[0]
    covers, centres, _, trust = _templates(side)
    mine = ink * zone[..., None]
    weight, place = mine.sum(2), np.arange(side) + 0.5
    centre = np.array([(weight.sum(1) * place).sum(), (weight.sum(0) * place).sum()]) / weight.sum()
    at = np.rint((centre - centres) * (UNITS // side)).astype(int)  # (K, 2): the box's centre in units

    likely = np.argsort(-trust * _explained(mine, covers, np.arange(len(at)), at))[:FINALISTS]
    k = np.repeat(likely, len(NUDGES))
    tried = at[k] + np.tile(NUDGES, (FINALISTS, 1))
    best = int((trust[k] * _explained(mine, covers, k, tried)).argmax())
    return _named(mine, int(k[best]), *map(int, tried[best]))


def _explained(mine: np.ndarray, covers: np.ndarray, k: np.ndarray, at: np.ndarray) -> np.ndarray:
    """How much of the ink's square template k[n] explains with its box's centre at[n] units down and across: (N,)."""
    p, steps = covers.shape[-1], UNITS // mine.shape[0]
    padded = np.pad(mine, ((p, p), (p, p), (0, 0)))
    cell, offset = np.divmod(at, steps)
    explained = np.empty(len(k), np.float32)
    cells = cell[:, 0] * UNITS + cell[:, 1]
    for code in set(cells.tolist()):
        same = np.flatnonzero(cells == code)
        row, column = (c + p // 2 for c in divmod(code, UNITS))
        window = padded[row : row + p, column : column + p].reshape(-1, 3)
        chosen = covers[k[same], offset[same, 0], offset[same, 1]].reshape(-1, p * p)
        explained[same] = ((chosen @ window) ** 2).sum(1) / np.einsum("np,np->n", chosen, chosen)
    return explained


def _named(mine: np.ndarray, k: int, y: int, x: int) -> _Piece:
    """The piece with its colour. The tint is total ink over total cover, which no blur changes, chroma's neither."""
    covers, _, names, _ = _templates(mine.shape[0])
    steps, p = UNITS // mine.shape[0], covers.shape[-1]
    (row, down), (column, across) = divmod(y, steps), divmod(x, steps)
    at = (covers[k, down, across], row - p // 2, column - p // 2)
    tint = -mine.sum((0, 1)) / at[0].sum()
    apart, (shape, size) = np.abs(TINTS - tint).max(1), names[k]
    rest = mine.mean(2, keepdims=True)
    whole = float((rest**2).sum())
    draw.paste(rest, *at, tint.mean(keepdims=True))
    if shape in DECOYS or (rest**2).sum() > SHAPE_TOLERANCE * whole:
        return _Piece(None, f"a piece near x={column}, y={row} is none of the {len(SHAPES)} shapes", tint, at)
    nearest, next_to_it = np.sort(apart)[:2]
    if nearest > min(COLOUR_TOLERANCE, COLOUR_AMBIGUITY * next_to_it):
        rgb = tuple(int(v) for v in np.rint((1 + tint) * 255).clip(0, 255))
        return _Piece(
            None, f"a {shape} near x={column}, y={row} of the colour {rgb}, none of the {len(COLOURS)}", tint, at
        )
    return _Piece(Object(shape, list(COLOURS)[int(apart.argmin())], size, x, y), None, tint, at)


def _foreign(ink: np.ndarray, pieces: list[_Piece]) -> str | None:
    """Why the pieces, all drawn together, are not the picture; None if they are."""
    unknown = [p.foreign for p in pieces if p.foreign]
    if unknown:
        return unknown[0]
    rest = ink.copy()
    for p in pieces:
        draw.paste(rest, *p.at, p.tint)
    scale = ink.shape[0] // 32
    for width, (most_grey, most) in ((2 * scale, FINE_TOLERANCE), (4 * scale, WIDE_TOLERANCE)):
        left = _mean(_mean(rest, width), width)
        near = np.pad(_zones(np.abs(rest - ink).max(2) > 0.05, width // 2), (width - 1, width + 1))
        lenience = np.where(near, LENIENCE, 1)
        excess = np.maximum(np.abs(left.mean(2)) - most_grey * lenience, np.abs(left).max(2) - most * lenience)
        if excess.max() > 0:
            row, column = np.unravel_index(excess.argmax(), excess.shape)
            return f"something else near x={max(column - width, 0)}, y={max(row - width, 0)}"
    if float((rest**2).mean()) > ROUGHNESS**2:
        return "rough all over"
    return None


def _mean(field: np.ndarray, width: int) -> np.ndarray:
    """The mean over width × width pixels, also over the border, where nothing is: `width` rows and columns more."""
    sums = np.pad(field, ((width, width), (width, width), (0, 0))).cumsum(0).cumsum(1)
    return (sums[width:, width:] - sums[:-width, width:] - sums[width:, :-width] + sums[:-width, :-width]) / width**2
