"""Curves with bands, drawn with Pillow alone."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from ..training.plot import COLOURS, GRID, ticks
from .letters import FINE, INK, SOFT, face, sayable

WIDTH, LEFT, RIGHT, BOTTOM, LINE = 640 * FINE, 58 * FINE, 14 * FINE, 40 * FINE, 18 * FINE
SIZE = 12 * FINE  # of type


@dataclass
class Curve:
    """Points (x, y), in the order of x; `band` is (low, high) around each y.

    dash: (on, off) on a screen, of a yardstick, which is thin and grey.
    """

    name: str
    points: Sequence[tuple[float, float]]
    band: Sequence[tuple[float, float]] = ()
    dash: tuple[int, int] = ()


@dataclass
class Plot:
    """Curves over one axis.

    across, up   what the axes are; `falling`: x runs from high to low
    logarithmic  the axis up; what is not above 0 is left out there
    span         (low, high) of the axis up, where the curves do not say; tall: its length on a screen
    """

    curves: list[Curve]
    across: str
    up: str
    logarithmic: bool = False
    falling: bool = False
    span: tuple[float, float] | None = None
    tall: int = 270
    colours: Sequence[str] = field(default=COLOURS)

    def drawn(self) -> Image.Image:
        """A legend, the curves, both axes. Of points that are no numbers none is drawn."""
        legend = self._legend()
        frame = _Frame(self, legend.height + 8 * FINE)
        sheet = Image.new("RGB", (WIDTH, frame.bottom + BOTTOM), "white")
        sheet.paste(legend, (0, 0))
        self._axes(ImageDraw.Draw(sheet), frame)
        for layer in (self._layer(frame, sheet.size, bands=True), self._layer(frame, sheet.size, bands=False)):
            sheet.paste(layer, (0, 0), layer)
        return sheet

    def colour(self, k: int) -> str:
        """The colour of the k-th curve."""
        if self.curves[k].dash:
            return SOFT
        return self.colours[sum(not c.dash for c in self.curves[:k]) % len(self.colours)]

    def _legend(self) -> Image.Image:
        """What is drawn, and in which colours, in as many lines as it takes; the axis up is named first."""
        sheet = Image.new("RGB", (WIDTH, LINE * (2 + len(self.curves))), "white")
        pen, x, y = ImageDraw.Draw(sheet), 0.0, LINE / 2
        pen.text((0, y), self.up, INK, face(self.up, SIZE), "lm")
        y += LINE
        for k, curve in enumerate(self.curves):
            name = sayable(curve.name)
            font = face(name, SIZE)
            wide = 26 * FINE + font.getlength(name)
            if x and x + wide > WIDTH:
                x, y = 0.0, y + LINE
            _line(pen, [(x, y), (x + 20 * FINE, y)], self.colour(k), curve.dash, 1)
            pen.text((x + 26 * FINE, y), name, self.colour(k), font, "lm")
            x += wide + 18 * FINE
        return sheet.crop((0, 0, WIDTH, round(y + LINE / 2)))

    def _axes(self, pen: ImageDraw.ImageDraw, frame: _Frame) -> None:
        font = ImageFont.load_default(SIZE)
        for value in ticks(frame.low, frame.high, self.logarithmic):
            y = frame.place(frame.first, value)[1]
            pen.line([(LEFT, y), (WIDTH - RIGHT, y)], GRID, FINE)
            pen.text((LEFT - 8 * FINE, y), f"{value:.3g}", SOFT, font, "rm")
        for value in ticks(frame.first, frame.last, False):
            x = frame.along(value)
            pen.line([(x, frame.bottom), (x, frame.bottom + 4 * FINE)], SOFT, FINE)
            pen.text((x, frame.bottom + 8 * FINE), f"{value:.3g}", SOFT, font, "mt")
        pen.line([(LEFT, frame.bottom), (WIDTH - RIGHT, frame.bottom)], SOFT, FINE)
        pen.text((WIDTH - RIGHT, frame.bottom + 24 * FINE), self.across, INK, font, "rt")

    def _layer(self, frame: _Frame, size: tuple[int, int], bands: bool) -> Image.Image:
        """The bands, or the lines, on nothing: drawn twice as large and reduced, so that they are smooth."""
        layer = Image.new("RGBA", (2 * size[0], 2 * size[1]), (255, 255, 255, 0))
        pen = ImageDraw.Draw(layer)
        for k, curve in enumerate(self.curves):
            rgb = tuple(int(self.colour(k)[i : i + 2], 16) for i in (1, 3, 5))
            if bands and curve.band:
                ends = [
                    (x, low, high)
                    for (x, _), (low, high) in zip(curve.points, curve.band)
                    if frame.drawable(low) and frame.drawable(high)
                ]
                outline = [(x, high) for x, _, high in ends] + [(x, low) for x, low, _ in reversed(ends)]
                if len(ends) > 1:
                    one = Image.new("RGBA", layer.size, (0, 0, 0, 0))
                    ImageDraw.Draw(one).polygon([frame.place(*p, 2) for p in outline], (*rgb, 46))
                    layer.alpha_composite(one)
            elif not bands:
                points = [frame.place(x, y, 2) for x, y in curve.points if frame.drawable(y)]
                _line(pen, points, (*rgb, 255), curve.dash, 2)
        return layer.resize(size, Image.Resampling.LANCZOS)


class _Frame:
    """Where numbers lie on the paper."""

    def __init__(self, plot: Plot, top: int):
        self.plot, self.top, self.bottom = plot, top, top + plot.tall * FINE
        self.scale = math.log10 if plot.logarithmic else float
        xs = [x for curve in plot.curves for x, _ in curve.points]
        ys = [y for curve in plot.curves for _, y in curve.points]
        ys += [y for curve in plot.curves for ends in curve.band for y in ends]
        self.first, self.last = min(xs, default=0.0), max(xs, default=1.0)
        if self.last == self.first:
            self.first, self.last = self.first - 0.5, self.last + 0.5
        shown = [self.scale(y) for y in (plot.span or ys) if self.drawable(y)] or [0.0, 1.0]
        room = 0.04 * (max(shown) - min(shown)) or 0.5
        self.low, self.high = min(shown) - room, max(shown) + room
        if not plot.logarithmic and not plot.span and min(shown) >= 0:
            self.low = 0.0

    def drawable(self, y: float) -> bool:
        return math.isfinite(y) and (y > 0 or not self.plot.logarithmic)

    def along(self, x: float) -> float:
        share = (x - self.first) / (self.last - self.first)
        return LEFT + (1 - share if self.plot.falling else share) * (WIDTH - LEFT - RIGHT)

    def place(self, x: float, y: float, times: int = 1) -> tuple[float, float]:
        share = min(1.0, max(0.0, (self.scale(y) - self.low) / (self.high - self.low)))
        return times * self.along(x), times * (self.bottom - share * (self.bottom - self.top))


def _line(
    pen: ImageDraw.ImageDraw, points: list[tuple[float, float]], colour: Any, dash: tuple[int, int], times: int
) -> None:
    """A line through points: whole and wide, or thin and dashed."""
    if len(points) < 2:
        for x, y in points:
            pen.circle((x, y), 2 * FINE * times, colour)
        return
    if not dash:
        pen.line(points, colour, round(2 * FINE * times), "curve")
        return
    (on, off), drawn = (FINE * times * length for length in dash), 0.0
    for (ax, ay), (bx, by) in itertools.pairwise(points):
        length, at = math.hypot(bx - ax, by - ay), 0.0
        while at < length:
            phase = (drawn + at) % (on + off)
            end = min(length, at + (on - phase if phase < on else on + off - phase))
            if phase < on:
                u, v = at / length, end / length
                ends = [(ax + u * (bx - ax), ay + u * (by - ay)), (ax + v * (bx - ax), ay + v * (by - ay))]
                pen.line(ends, colour, round(1.2 * FINE * times))
            at = max(end, at + 1e-6)
        drawn += length
