"""The exact parser: reads a scene back from a picture by drawing it again.

Ink (what is darker than white) falls apart into connected pieces. Each piece is compared with every shape, at every
size, slightly smaller and larger, at the sub-pixel place where its centre of mass lies; least squares give its colour.
What the pieces found do not explain, when all are drawn together, is something else: then the picture is refused.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from phosphene.data.scenes import draw
from phosphene.data.scenes.draw import COLOURS, SHAPES, SIZES, UNITS, Object, Scene
from phosphene.errors import Problem

INK = 0.25  # a pixel is ink where some channel is this much darker than white
NUDGES = ((0, 0), (-1, 0), (1, 0), (0, -1), (0, 1))  # units around the place that the centre of mass gives
SCALES = (0.88, 0.94, 1.0, 1.06, 1.12)  # a drawn or generated shape may be this much smaller or larger than its size
TINTS = np.array(list(COLOURS.values()), np.float32) / 255 - 1  # minus darkness
COLOUR_TOLERANCE = 0.17  # the largest difference in a channel to the colour a piece is named by
FINE_TOLERANCE, WIDE_TOLERANCE = 0.24, 0.07  # what may stay unexplained, averaged over about 4 and 25 pixels of 32 × 32


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
    """One connected piece as fitted: `tint` (3,) is minus its darkness, `at` the stamp that explains it."""

    object: Object | None
    tint: np.ndarray
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
    labels, count = components((ink.max(2) > INK).tolist())
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


def components(mask: list[list[bool]]) -> tuple[np.ndarray, int]:
    """8-connected pieces of a square mask: labels (S, S), 0 outside, and how many there are."""
    side, count = len(mask), 0
    labels = [[0] * side for _ in range(side)]
    for row in range(side):
        for column in range(side):
            if not mask[row][column] or labels[row][column]:
                continue
            count += 1
            labels[row][column] = count
            todo = [(row, column)]
            while todo:
                r, c = todo.pop()
                for i in range(max(r - 1, 0), min(r + 2, side)):
                    for j in range(max(c - 1, 0), min(c + 2, side)):
                        if mask[i][j] and not labels[i][j]:
                            labels[i][j] = count
                            todo.append((i, j))
    return np.array(labels), count


def _zones(labels: np.ndarray, reach: int) -> np.ndarray:
    """Each piece with its soft edge: labels grown by `reach` pixels into what is free."""
    for _ in range(reach):
        padded = np.pad(labels, 1)
        around = [padded[i : i + len(labels), j : j + len(labels)] for i in range(3) for j in range(3)]
        labels = np.where(labels > 0, labels, np.maximum.reduce(around))
    return labels


@functools.lru_cache(maxsize=2)
def _templates(side: int) -> tuple[np.ndarray, list[tuple[str, str]]]:
    """Every shape × size × scale at every offset: (K, Q, Q, P, P), and the K names."""
    names = [(shape, size) for shape in SHAPES for size in SIZES for _ in SCALES]
    stamps = [draw.cover(shape, d * k, side) for shape in SHAPES for d in SIZES.values() for k in SCALES]
    widest = max(s.shape[-1] for s in stamps)
    pads = [(widest - s.shape[-1]) // 2 for s in stamps]
    return np.stack([np.pad(s, ((0, 0), (0, 0), (p, p), (p, p))) for s, p in zip(stamps, pads, strict=True)]), names


@functools.lru_cache(maxsize=2)
def _centres(side: int) -> np.ndarray:
    """Each template's centre of mass (K, 2), down and across, in pixels from the centre of its box."""
    t = _templates(side)[0][:, 0, 0]
    place = np.arange(t.shape[-1]) + 0.5 - t.shape[-1] / 2
    return np.stack([(t.sum(2) * place).sum(1), (t.sum(1) * place).sum(1)], 1) / t.sum((1, 2))[:, None]


def _fit(ink: np.ndarray, zone: np.ndarray) -> _Piece:
    """The template, place and tint that explain one piece best: the least of Σd² − (Σ c·d)² / Σc² over the templates."""
    side = ink.shape[0]
    templates = _templates(side)[0]
    steps, p = UNITS // side, templates.shape[-1]
    mine = ink * zone[..., None]
    weight = mine.sum(2)
    place = np.arange(side) + 0.5
    centre = np.array([(weight.sum(1) * place).sum(), (weight.sum(0) * place).sum()]) / weight.sum()
    at = np.rint((centre - _centres(side)) * steps).astype(int)  # (K, 2): the box's centre in units, were it this one

    padded = np.pad(mine, ((p, p), (p, p), (0, 0)))
    explained = np.full((len(NUDGES), len(at)), -1.0)
    for n, nudge in enumerate(NUDGES):
        cell, offset = np.divmod(at + nudge, steps)
        chosen = templates[np.arange(len(at)), offset[:, 0], offset[:, 1]].reshape(len(at), -1)
        for row, column in np.unique(cell, axis=0):
            same = np.flatnonzero((cell == (row, column)).all(1))
            window = padded[row + p // 2 : row + p // 2 + p, column + p // 2 : column + p // 2 + p].reshape(-1, 3)
            explained[n, same] = ((chosen[same] @ window) ** 2).sum(1) / (chosen[same] ** 2).sum(1)
    n, k = np.unravel_index(explained.argmax(), explained.shape)
    y, x = at[k] + NUDGES[n]
    return _named(mine, int(k), int(y), int(x))


def _named(mine: np.ndarray, k: int, y: int, x: int) -> _Piece:
    templates, names = _templates(mine.shape[0])
    steps, p = UNITS // mine.shape[0], templates.shape[-1]
    (row, down), (column, across) = divmod(y, steps), divmod(x, steps)
    at = (templates[k, down, across], row - p // 2, column - p // 2)
    flat = np.zeros((*mine.shape[:2], 3), np.float32)
    draw.paste(flat, *at, np.ones(3, np.float32))
    tint = -(mine * flat).sum((0, 1)) / max(float((flat[..., 0] ** 2).sum()), 1e-6)
    apart = np.abs(TINTS - tint).max(1)
    if apart.min() > COLOUR_TOLERANCE:
        return _Piece(None, tint, at)
    shape, size = names[k]
    return _Piece(Object(shape, list(COLOURS)[int(apart.argmin())], size, x, y), tint, at)


def _foreign(ink: np.ndarray, pieces: list[_Piece]) -> str | None:
    """Why the pieces, all drawn together, are not the picture; None if they are."""
    for p in pieces:
        if p.object is None:
            rgb = tuple(int(v) for v in np.rint((1 + p.tint) * 255).clip(0, 255))
            return f"a piece of the colour {rgb}, which is none of the {len(COLOURS)}"
    rest = ink.copy()
    for p in pieces:
        draw.paste(rest, *p.at, p.tint)
    scale = ink.shape[0] // 32
    fine = np.abs(_mean(_mean(rest, 2 * scale), 2 * scale)).max(2)
    wide = np.abs(_mean(_mean(rest, 4 * scale), 4 * scale)).max(2)
    for field, width, most in ((fine, 2 * scale, FINE_TOLERANCE), (wide, 4 * scale, WIDE_TOLERANCE)):
        if field.max() > most:
            row, column = np.unravel_index(field.argmax(), field.shape)
            return f"something else near x={max(column - width, 0)}, y={max(row - width, 0)}"
    return None


def _mean(field: np.ndarray, width: int) -> np.ndarray:
    """The mean over width × width pixels, also over the border, where nothing is: `width` rows and columns more."""
    sums = np.pad(field, ((width, width), (width, width), (0, 0))).cumsum(0).cumsum(1)
    return (sums[width:, width:] - sums[:-width, width:] - sums[width:, :-width] + sums[:-width, :-width]) / width**2
