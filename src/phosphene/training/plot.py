"""loss.png: the losses of a run, drawn with Pillow alone."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from PIL import Image, ImageDraw, ImageFont

WIDTH, HEIGHT, LEFT, TOP, BOTTOM, RIGHT = 900, 520, 78, 44, 46, 24
COLOURS = ("#2563eb", "#dc2626", "#059669", "#d97706", "#7c3aed", "#0891b2")
GRID, TEXT, BAND = "#e5e7eb", "#374151", "#d1d5db"

Edges = Sequence[tuple[float, float, float]]  # (step, low, high) at rising steps


def losses(rows: list[dict], bands: Mapping[str, Edges] | None = None) -> Image.Image | None:
    """The losses of metrics.jsonl's rows against the step, as logged (pale) and smoothed; None below two rows.

    bands   of some of them, drawn behind in grey

    The upright axis is logarithmic where every loss is above 0.
    """
    names = sorted({name for row in rows for name in row if name.startswith("loss/")})
    curves = {n: [(row["step"], row[n]) for row in rows if math.isfinite(row.get(n, math.nan))] for n in names}
    curves = {n: points for n, points in curves.items() if len(points) > 1}
    if not curves:
        return None
    values = [y for points in curves.values() for _, y in points]
    scale = math.log10 if min(values) > 0 else float
    top_step = max(points[-1][0] for points in curves.values())
    low, high = scale(_share(values, 0.002)), scale(_share(values, 0.998))
    if high - low < 1e-9:
        low, high = low - 0.5, high + 0.5
    low, high = low - 0.04 * (high - low), high + 0.04 * (high - low)

    def place(step: float, y: float) -> tuple[float, float]:
        down = (high - scale(y)) / (high - low)
        across = step / top_step * (WIDTH - LEFT - RIGHT)
        return LEFT + across, TOP + min(1.0, max(0.0, down)) * (HEIGHT - TOP - BOTTOM)

    sheet = Image.new("RGB", (WIDTH, HEIGHT), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(14)
    for edges in [bands[name] for name in curves if name in (bands or {})]:
        least = 10**low if scale is math.log10 else low
        around = [(s, max(y, least)) for s, y, _ in edges] + [(s, max(y, least)) for s, _, y in reversed(edges)]
        draw.polygon([place(*p) for p in around], BAND)
    for y in ticks(low, high, scale is math.log10):
        height = place(0, y)[1]
        draw.line([(LEFT, height), (WIDTH - RIGHT, height)], GRID)
        draw.text((LEFT - 8, height), f"{y:.3g}", TEXT, font, "rm")
    for step in ticks(0, top_step, False):
        draw.text((place(step, values[0])[0], HEIGHT - BOTTOM + 8), f"{step:g}", TEXT, font, "mt")
    x = LEFT
    for (name, points), colour in zip(curves.items(), COLOURS * len(curves), strict=False):
        draw.line([place(*p) for p in points], _pale(colour), 1)
        draw.line([place(*p) for p in _smooth(points)], colour, 3, "curve")
        label = f"{name.removeprefix('loss/')}  {_smooth(points)[-1][1]:.4g}"
        draw.text((x, TOP / 2), label, colour, font, "lm")
        x += draw.textlength(label, font) + 28
    draw.text((WIDTH - RIGHT, HEIGHT - 8), "step", TEXT, font, "rb")
    return sheet


def _share(values: list[float], share: float) -> float:
    """The value below which `share` of them lie: one wild step does not set the scale."""
    return sorted(values)[round(share * (len(values) - 1))]


def _smooth(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """Exponential mean over about a fiftieth of the curve, at its start over an eighth of what there is so far."""
    smooth, mean = [], 0.0
    for k, (x, y) in enumerate(points):
        mean += (y - mean) / (1 + min(len(points) / 50, k / 8))
        smooth.append((x, mean))
    return smooth


def ticks(low: float, high: float, logarithmic: bool) -> list[float]:
    """Round numbers between low and high, about six of them; where logarithmic, low and high are log10 of the ends."""
    if logarithmic:
        decades = range(math.floor(low), math.ceil(high) + 1)
        for steps in ((1,), (1, 3), (1, 2, 5), (1, 1.5, 2, 3, 4, 5, 6, 8)):
            found = [m * 10.0**d for d in decades for m in steps if low <= math.log10(m * 10.0**d) <= high]
            if len(found) >= 4:
                return found
        return ticks(10**low, 10**high, False)
    rough = (high - low) / 6
    size = 10 ** math.floor(math.log10(rough))
    step = next(m * size for m in (1, 2, 5, 10) if m * size >= rough)
    return [k * step for k in range(math.ceil(low / step), math.floor(high / step) + 1)]


def _pale(colour: str) -> str:
    channels = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
    return "#" + "".join(f"{(c + 2 * 255) // 3:02x}" for c in channels)
