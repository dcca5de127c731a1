"""A view on paper: grids of pictures and plots, with words, as one PNG or as one HTML file that needs no other.

Sizes here are in pixels of the PNG, which is drawn twice as fine as a screen shows it (`FINE`).
"""

from __future__ import annotations

import base64
import html
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw
from PIL.PngImagePlugin import PngInfo

from ..errors import Problem
from ..metrics.report import Page
from .letters import FINE, INK, SOFT, written
from .plot import Plot

KEY = "phosphene.view"  # the text chunk of a PNG that says how it was made
MARGIN, GAP, CELL, SIDE = 24 * FINE, 4 * FINE, 96 * FINE, 104 * FINE  # SIDE: the column of what rows are
EDGE = "#e5e7eb"
TITLE, TEXT, SMALL = 19 * FINE, 12 * FINE, 11 * FINE  # sizes of type
STYLE = """<style>
.view { border-collapse: collapse } .view td, .view th { border: 0; padding: 2px; text-align: center;
  vertical-align: top; font-weight: normal; font-size: 12px; line-height: 1.35; white-space: pre-line }
.view th.row { text-align: left; vertical-align: middle; min-width: 6.5rem; max-width: 9rem; padding-right: .7rem;
  white-space: normal }
.view tr:first-child td { vertical-align: bottom } .view img { display: block; margin: auto; max-width: none }
figure img { image-rendering: auto } code { font-size: 13px }
</style>"""


@dataclass
class Grid:
    """Pictures in rows and columns; None leaves a place free.

    rows     what each row is, beside it; [""] for none
    columns  what stands above each column, lines parted by "\\n"
    under    what stands under each picture, by row; or nothing
    """

    cells: Sequence[Sequence[Image.Image | None]]
    rows: Sequence[str]
    columns: Sequence[str]
    under: Sequence[Sequence[str]] = ()
    title: str = ""


@dataclass
class View:
    """Something to look at: `save` writes it, a notebook shows it, `picture` is it as one PIL image.

    title    what it is of
    parts    grids and plots, from top to bottom
    reading  how it is read, a sentence or a few
    made     how it was made, for whoever wants to make it again: command, model, weights, seed, …
    numbers  what is drawn, as plain numbers
    """

    title: str
    parts: list[Grid | Plot]
    reading: str
    made: dict[str, Any] = field(default_factory=dict)
    numbers: dict[str, Any] = field(default_factory=dict)

    def save(self, path: str | Path) -> Path:
        """Writes x.png or x.html. Raises Problem for another ending, and where it cannot be written."""
        path = check_out(path)
        if path.suffix.lower() == ".html":
            return self._page().write(path)
        info = PngInfo()
        info.add_itxt(KEY, json.dumps({**self.made, "numbers": self.numbers}, ensure_ascii=False, default=str))
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self.picture().save(path, "PNG", pnginfo=info, optimize=True)
        except OSError as error:
            raise Problem(f"{path} cannot be written: {error.strerror or error}") from None
        return path

    def picture(self) -> Image.Image:
        """Title, how it is read, the parts, and how it was made, from top to bottom on white."""
        drawn = [_drawn(part) for part in self.parts]
        width = max(600 * FINE, *(part.width for part in drawn))
        blocks = [
            (written(self.title, TITLE, width), 0),
            (written(self.reading, TEXT, width, SOFT), 6 * FINE),
            *((part, 14 * FINE) for part in drawn),
            (written(self.footer, SMALL, width, SOFT), 12 * FINE),
        ]
        height = sum(block.height + space for block, space in blocks)
        sheet, y = Image.new("RGB", (width + 2 * MARGIN, height + 2 * MARGIN), "white"), MARGIN
        for block, space in blocks:
            sheet.paste(block, (MARGIN, y + space))
            y += space + block.height
        return sheet

    @property
    def footer(self) -> str:
        """How it was made, in words: the command first, where there was one."""
        told = {k: v for k, v in self.made.items() if k != "command" and v not in (None, "", {})}
        rest = ", ".join(f"{k} {' '.join(map(str, v)) if isinstance(v, (list, tuple)) else v}" for k, v in told.items())
        return "\n".join(filter(None, [self.made.get("command", ""), rest]))

    def _page(self) -> Page:
        page = Page(self.title)
        page.parts.append(STYLE)
        page.text(self.reading)
        for part in self.parts:
            if isinstance(part, Plot):
                page.parts.append(f"<figure>{_inline(part.drawn(), part.up)}</figure>")
                continue
            if part.title:
                page.heading(part.title)
            page.parts.append(_table(part))
        command, *rest = self.footer.split("\n") if "command" in self.made else ("", self.footer)
        if command:
            page.parts.append(f"<p><code>{html.escape(command)}</code></p>")
        page.text("\n".join(rest), note=True)
        return page

    def _repr_png_(self) -> bytes:
        """What a notebook shows."""
        return _bytes(self.picture())


def check_out(path: str | Path) -> Path:
    """The path of a view. Raises Problem unless it ends in .png or .html."""
    path = Path(path)
    if path.suffix.lower() not in (".png", ".html"):
        raise Problem(f"{path}: a view is written as .png or as .html")
    return path


def _drawn(part: Grid | Plot) -> Image.Image:
    return part.drawn() if isinstance(part, Plot) else _sheet(part)


def _sheet(grid: Grid) -> Image.Image:
    """A grid as a picture: strips from top to bottom."""
    cells = [[None if cell is None else _framed(enlarged(cell)) for cell in row] for row in grid.cells]
    wide = max(cell.width for row in cells for cell in row if cell is not None)
    side = SIDE if any(grid.rows) else 0

    def said(texts: Sequence[str], colour: str) -> Image.Image:
        return _strip(None, [written(text, SMALL, wide, colour, "m") for text in texts], side, wide)

    strips = [said(grid.columns, SOFT)] if grid.columns else []
    for i, row in enumerate(cells):
        strips.append(_strip(written(grid.rows[i], SMALL, side - 3 * GAP) if side else None, row, side, wide))
        strips += [said(grid.under[i], INK)] if grid.under else []
    strips = [written(grid.title, TEXT, max(strip.width for strip in strips))] * bool(grid.title) + strips
    sheet = Image.new("RGB", (max(s.width for s in strips), sum(s.height + GAP for s in strips) - GAP), "white")
    y = 0
    for strip in strips:
        sheet.paste(strip, (0, y))
        y += strip.height + GAP
    return sheet


def _strip(name: Image.Image | None, cells: Sequence[Image.Image | None], side: int, wide: int) -> Image.Image:
    """Cells of one width beside each other, on one line below, and a name before them, in the middle."""
    tall = max(cell.height for cell in (*cells, name) if cell is not None)
    strip = Image.new("RGB", (side + len(cells) * (wide + GAP) - GAP, tall), "white")
    if name is not None:
        strip.paste(name, (0, (tall - name.height) // 2))
    for j, cell in enumerate(cells):
        if cell is not None:
            at = side + j * (wide + GAP) + (wide - cell.width) // 2, tall - cell.height
            strip.paste(cell, at)
    return strip


def _framed(picture: Image.Image) -> Image.Image:
    """With a line around it that parts it from the paper: many pictures are white there."""
    framed = picture.convert("RGB")
    ImageDraw.Draw(framed).rectangle((0, 0, framed.width - 1, framed.height - 1), outline=EDGE, width=1)
    return framed


def enlarged(picture: Image.Image, side: int = CELL) -> Image.Image:
    """A picture at about `side` pixels: small ones a whole number of times larger, their pixels staying sharp."""
    longest = max(picture.size)
    if longest > 1.4 * side:
        scale = side / longest
        size = max(1, round(picture.width * scale)), max(1, round(picture.height * scale))
        return picture.resize(size, Image.Resampling.LANCZOS)
    times = max(1, round(side / longest))
    return picture.resize((picture.width * times, picture.height * times), Image.Resampling.NEAREST)


def _table(grid: Grid) -> str:
    """A grid as an HTML table, its pictures inline."""
    named, lines = any(grid.rows), []
    if grid.columns:
        lines.append(("<td></td>" if named else "") + "".join(f"<td>{html.escape(text)}</td>" for text in grid.columns))
    for i, row in enumerate(grid.cells):
        line = f'<th class="row">{html.escape(grid.rows[i])}</th>' if named else ""
        for j, cell in enumerate(row):
            said = grid.under[i][j] if grid.under else ""
            alt = f"{grid.rows[i]} {grid.columns[j] if grid.columns else said}".strip()
            line += f"<td>{'' if cell is None else _inline(enlarged(cell), alt)}{html.escape(said)}</td>"
        lines.append(line)
    return f"<div class=wide><table class=view>{''.join(f'<tr>{line}</tr>' for line in lines)}</table></div>"


def _inline(picture: Image.Image, alt: str) -> str:
    """An <img> that holds its picture, shown at half of its pixels."""
    data = base64.b64encode(_bytes(picture)).decode()
    width = picture.width // FINE
    return f'<img src="data:image/png;base64,{data}" alt="{html.escape(alt, quote=True)}" width="{width}">'


def _bytes(picture: Image.Image) -> bytes:
    data = io.BytesIO()
    picture.save(data, "PNG", optimize=True)
    return data.getvalue()
