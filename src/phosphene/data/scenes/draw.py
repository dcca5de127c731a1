"""What a scene is, and how it is drawn: coloured shapes on white, apart from each other.

Lengths are whole units of 1/128 of the picture's side, so that a scene is the same at every size. Each (shape,
diameter, sub-pixel offset) is drawn once by PIL, sixteen times too large, and reduced by averaging; a picture is then a
few additions: 255 − cover · (255 − colour).
"""

from __future__ import annotations

import functools
import math
import random
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from phosphene.errors import Problem, unknown

UNITS = 128  # one side of the picture
SIZES = {"small": 28, "medium": 40, "large": 54}  # diameter: 7, 10 and 13.5 pixels of 32
GAP, MARGIN = 10, 4  # least distance between two objects' boxes, and from a box to the border
COLOURS = {
    "red": (220, 30, 40),
    "orange": (255, 140, 0),
    "yellow": (255, 222, 20),
    "green": (20, 150, 60),
    "blue": (30, 80, 220),
    "purple": (135, 40, 170),
    "pink": (255, 130, 195),
    "black": (25, 25, 25),
}
FINE = 16  # supersampling: subpixels a pixel


@dataclass(frozen=True)
class Object:
    """One shape. x, y: the centre of its box in units (0 … 128), x to the right and y down."""

    shape: str
    colour: str
    size: str
    x: int
    y: int


Scene = tuple[Object, ...]


def _heart() -> list[tuple[float, float]]:
    turn = [2 * math.pi * k / 96 for k in range(96)]
    height = [13 * math.cos(a) - 5 * math.cos(2 * a) - 2 * math.cos(3 * a) - math.cos(4 * a) for a in turn]
    return [(16 * math.sin(a) ** 3 / 32, (-2.5 - y) / 32) for a, y in zip(turn, height, strict=True)]


def _cross(w: float = 0.17) -> list[tuple[float, float]]:
    quarter = [(-w, -0.5), (w, -0.5), (w, -w)]
    return [p for turn in range(4) for p in _turned(quarter, turn)]


def _turned(points: list[tuple[float, float]], quarters: int) -> list[tuple[float, float]]:
    for _ in range(quarters):
        points = [(-y, x) for x, y in points]
    return points


# outlines in a box from −0.5 to 0.5; a circle is a radius, a ring a radius and its hole's
SHAPES: dict[str, list[tuple[float, float]] | tuple[float, ...]] = {
    "circle": (0.5,),
    "square": [(-0.46, -0.46), (0.46, -0.46), (0.46, 0.46), (-0.46, 0.46)],
    "triangle": [(0.0, -0.47), (0.5, 0.43), (-0.5, 0.43)],
    "cross": _cross(),
    "ring": (0.5, 0.27),
    "heart": _heart(),
}
DECOYS = {"diamond": [(0.0, -0.5), (0.5, 0.0), (0.0, 0.5), (-0.5, 0.0)]}  # never drawn in a scene; the parser knows it


@functools.cache
def cover(shape: str, diameter: float, side: int) -> np.ndarray:
    """How much of each pixel the shape covers, for every sub-pixel offset.

    diameter is in units. Returns float32 (Q, Q, P, P) in [0, 1], Q = 128/side offsets down and across; the shape's
    centre stands at pixel coordinate P/2 + offset/Q, P even.
    """
    steps = UNITS // side
    half = math.ceil(diameter / 2 / steps) + 2  # pixels
    fine, radius = FINE * 2 * half, diameter / steps * FINE
    mask = Image.new("L", (fine, fine))
    pen, middle = ImageDraw.Draw(mask), fine / 2
    outline = (SHAPES | DECOYS)[shape]
    if isinstance(outline, tuple):
        for r, ink in zip(outline, (255, 0), strict=False):
            pen.ellipse(
                [middle - r * radius, middle - r * radius, middle + r * radius - 1, middle + r * radius - 1], ink
            )
    else:
        corners = [(round(middle + x * radius), round(middle + y * radius)) for x, y in outline]
        pen.polygon([(x - (x > middle), y - (y > middle)) for x, y in corners], 255)  # PIL fills its edges' pixels too
    drawn = np.asarray(mask, np.float32) / 255
    shifts = [k * FINE // steps for k in range(steps)]
    moved = [[np.roll(drawn, (down, across), (0, 1)) for across in shifts] for down in shifts]
    p = 2 * half
    return np.stack([np.stack([m.reshape(p, FINE, p, FINE).mean((1, 3)) for m in row]) for row in moved])


def stamp(shape: str, diameter: float, x: float, y: float, side: int) -> tuple[np.ndarray, int, int]:
    """One object's cover (P, P) and the pixel (top, left) where it goes; it may reach over the border."""
    covers, steps = cover(shape, diameter, side), UNITS // side
    half = covers.shape[-1] // 2
    (row, down), (column, across) = divmod(round(y), steps), divmod(round(x), steps)
    return covers[down, across], row - half, column - half


def paste(canvas: np.ndarray, cover: np.ndarray, top: int, left: int, ink: np.ndarray) -> None:
    """canvas (H, W, 3) += cover (P, P) · ink (3,), cut at the border."""
    (height, width), p = canvas.shape[:2], cover.shape[0]
    rows, columns = slice(max(top, 0), min(top + p, height)), slice(max(left, 0), min(left + p, width))
    part = cover[rows.start - top : rows.stop - top, columns.start - left : columns.stop - left]
    canvas[rows, columns] += part[..., None] * ink


INKS = {name: np.array(rgb, np.float32) - 255 for name, rgb in COLOURS.items()}


def render(scene: Scene, side: int = 32) -> np.ndarray:
    """The picture of a scene, uint8 (side, side, 3). Problem if side is not 32 or 64."""
    check_side(side)
    canvas = np.full((side, side, 3), 255, np.float32)
    for o in scene:
        paste(canvas, *stamp(o.shape, SIZES[o.size], o.x, o.y, side), INKS[o.colour])
    return np.rint(canvas).astype(np.uint8)


def check_side(side: int) -> None:
    if side not in (32, 64):
        raise Problem(f"scenes: size={side!r} is not a size scenes are drawn at; 32 or 64 would be right")


def check_object(shape: str, colour: str, size: str | None) -> None:
    """Problem, with the nearest name, for a shape, colour or size that is not drawn."""
    for what, name, known in (("shape", shape, SHAPES), ("colour", colour, COLOURS), ("size", size, SIZES)):
        if name is not None and name not in known:
            raise unknown(what, name, known)


def place(sizes: list[str], rng: random.Random, tries: int = 12) -> list[tuple[int, int]] | None:
    """Uniform centres whose boxes stay GAP apart and MARGIN inside, or None if they did not fit."""
    placed: list[tuple[int, int, int]] = []
    for size in sizes:
        half = SIZES[size] // 2
        low, span = MARGIN + half, UNITS - 2 * (MARGIN + half) + 1
        for _ in range(tries):
            x, y = low + int(rng.random() * span), low + int(rng.random() * span)
            if all(max(abs(x - a), abs(y - b)) >= half + h + GAP for a, b, h in placed):
                placed.append((x, y, half))
                break
        else:
            return None
    return [(x, y) for x, y, _ in placed]
