"""Reports as one HTML file that needs no other: tables, pictures inline, curves as SVG. No script, nothing fetched."""

from __future__ import annotations

import base64
import html
import io
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from ..errors import Problem

COLOURS = ("#2563eb", "#dc2626", "#059669", "#d97706", "#7c3aed", "#0891b2")
STYLE = """
:root { color-scheme: light dark } body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 62rem; padding: 0 1rem }
h1 { font-size: 1.5rem } h2 { font-size: 1.15rem; margin-top: 2rem } .wide { overflow-x: auto }
table { border-collapse: collapse; font-variant-numeric: tabular-nums } td, th { padding: .25rem .9rem .25rem 0; text-align: right;
border-bottom: 1px solid #8884; white-space: nowrap } td:first-child, th:first-child { text-align: left }
td.said { white-space: normal; max-width: 22rem } td img { vertical-align: middle }
img { max-width: 100%; image-rendering: pixelated } figure { margin: 1rem 0 } figcaption, .note { color: #888 }
svg { overflow: visible } svg text { font: 12px system-ui, sans-serif; fill: currentColor }
"""  # noqa: E501


class Page:
    """A page that is written piece by piece; every word is escaped."""

    def __init__(self, title: str):
        self.title, self.parts = title, [f"<h1>{html.escape(title)}</h1>"]

    def heading(self, words: str) -> None:
        self.parts.append(f"<h2>{html.escape(words)}</h2>")

    def text(self, words: str, note: bool = False) -> None:
        self.parts.append(f"<p{' class=note' if note else ''}>{html.escape(words)}</p>")

    def notes(self, lines: Iterable[str]) -> None:
        for line in dict.fromkeys(lines):
            self.text(f"Note: {line}.", note=True)

    def table(self, head: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
        lines = ["".join(f"<th>{html.escape(word)}</th>" for word in head)]
        lines += ["".join(f"<td>{html.escape(said(cell))}</td>" for cell in row) for row in rows]
        self.parts.append(f"<div class=wide><table>{''.join(f'<tr>{line}</tr>' for line in lines)}</table></div>")

    def picture(self, image: Image.Image, caption: str = "") -> None:
        under = f"<figcaption>{html.escape(caption)}</figcaption>"
        self.parts.append(f"<figure>{_img(image, caption, image.width)}{under}</figure>")

    def gallery(self, head: Sequence[str], rows: Iterable[tuple[str, Sequence[Image.Image]]]) -> None:
        """A row a caption, a column of `head` a picture, all 128 pixels wide."""
        lines = ["".join(f"<th>{html.escape(word)}</th>" for word in ("", *head))]
        for caption, images in rows:
            cells = "".join(f"<td>{_img(image, caption, 128)}</td>" for image in images)
            lines.append(f"<td class=said>{html.escape(caption)}</td>{cells}")
        self.parts.append(f"<div class=wide><table>{''.join(f'<tr>{line}</tr>' for line in lines)}</table></div>")

    def curves(self, lines: Mapping[str, Sequence[tuple[float, float]]], across: str, up: str, **how: Any) -> None:
        self.parts.append(f"<figure>{curves(lines, across, up, **how)}</figure>")

    def write(self, path: Path) -> Path:
        """Writes it, whole or not at all."""
        head = f'<meta charset="utf-8"><meta name="viewport" content="width=device-width"><style>{STYLE}</style>'
        body = "\n".join(self.parts)
        whole = f"<!doctype html><html lang=en><head>{head}<title>{html.escape(self.title)}</title></head>\n"
        return written(path, f"{whole}<body>\n{body}\n</body></html>\n")


def _img(image: Image.Image, alt: str, width: int) -> str:
    data = io.BytesIO()
    image.save(data, "PNG")
    source = f"data:image/png;base64,{base64.b64encode(data.getvalue()).decode()}"
    return f'<img src="{source}" alt="{html.escape(alt, quote=True)}" width="{width}">'


def written(path: Path, text: str) -> Path:
    """Text in a file, in place at once or not at all. Raises Problem where it cannot be written."""
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(text, encoding="utf-8")
        os.replace(partial, path)
    except OSError as error:
        raise Problem(f"{path} cannot be written: {error.strerror or error}") from None
    return path


def said(value: Any) -> str:
    """A cell: numbers to four digits, intervals as they say themselves, nothing as a dash."""
    if isinstance(value, float):
        return "–" if math.isnan(value) else f"{value:.4g}"
    return "–" if value is None else str(value)


def curves(
    lines: Mapping[str, Sequence[tuple[float, float]]],
    across: str,
    up: str,
    *,
    labels: Sequence[str] = (),
    logarithmic: bool = False,
) -> str:
    """Lines through points as an SVG; `labels` stand beside the points of every line, `logarithmic` is the axis up."""
    clean = {
        name: [(x, y) for x, y in points if math.isfinite(x) and math.isfinite(y) and (y > 0 or not logarithmic)]
        for name, points in lines.items()
    }
    every = [point for points in clean.values() for point in points]
    if not every:
        return ""
    scale = math.log10 if logarithmic else float
    width, height, left, top, right, bottom = 640, 360, 74, 34, 90, 44
    (low_x, high_x), (low, high) = (_ends([x for x, _ in every]), _ends([scale(y) for _, y in every]))

    def place(x: float, y: float) -> tuple[float, float]:
        along = left + (x - low_x) / (high_x - low_x) * (width - left - right)
        return round(along, 1), round(height - bottom - (scale(y) - low) / (high - low) * (height - top - bottom), 1)

    out = [f'<svg viewBox="0 0 {width} {height}" width="{width}" role="img" aria-label="{html.escape(up)}">']
    for i in range(5):
        y = low + (high - low) * i / 4
        at_y = height - bottom - (height - top - bottom) * i / 4
        out.append(f'<path d="M{left} {at_y:.1f}H{width - right}" stroke="#8884"/>')
        out.append(
            f'<text x="{left - 8}" y="{at_y + 4:.1f}" text-anchor="end">{10**y if logarithmic else y:.3g}</text>'
        )
    for x in _round(low_x, high_x):
        at_x = left + (x - low_x) / (high_x - low_x) * (width - left - right)
        out.append(f'<text x="{at_x:.1f}" y="{height - bottom + 16}" text-anchor="middle">{x:,g}</text>')
    out.append(f'<text x="{left}" y="14">{html.escape(up)}</text>')
    out.append(f'<text x="{width - right}" y="{height - 8}" text-anchor="end">{html.escape(across)}</text>')
    for i, (name, points) in enumerate(clean.items()):
        colour, there = COLOURS[i % len(COLOURS)], [place(*p) for p in points]
        path = "L".join(f"{x} {y}" for x, y in there)
        out.append(f'<path d="M{path}" fill="none" stroke="{colour}" stroke-width="1.8"/>')
        if labels:
            out += [f'<circle cx="{x}" cy="{y}" r="3.5" fill="{colour}"/>' for x, y in there]
            out += [f'<text x="{x + 6}" y="{y - 6}">{html.escape(w)}</text>' for (x, y), w in zip(there, labels)]
        if len(clean) > 1 and there:
            out.append(
                f'<text x="{width - right + 6}" y="{top + 16 * i}" style="fill:{colour}">{html.escape(name)}</text>'
            )
    return "".join([*out, "</svg>"])


def _round(low: float, high: float) -> list[float]:
    """Three to seven round numbers within: multiples of 1, 2 or 5 times a power of ten."""
    rough = (high - low) / 6
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(k * power for k in (1, 2, 5, 10) if k * power >= rough)
    return [k * step for k in range(math.ceil(low / step), math.floor(high / step) + 1)]


def _ends(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    room = 0.06 * (high - low) or abs(high) * 0.1 or 1.0
    return low - room, high + room
