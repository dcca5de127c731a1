"""Looking at data: a contact sheet with captions, and a report of what a source holds."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from phosphene.data.base import Example, Source
from phosphene.data.pictures import image_size, opaque
from phosphene.errors import Problem

# Fonts with Chinese characters, as Linux, macOS and Windows name their files; Pillow knows the folders.
CJK_FONTS = (
    "NotoSansCJK-Regular.ttc", "NotoSansCJKsc-Regular.otf", "NotoSansSC-Regular.otf", "NotoSansSC-Regular.ttf",
    "SourceHanSansSC-Regular.otf", "wqy-microhei.ttc", "wqy-zenhei.ttc", "DroidSansFallbackFull.ttf",
    "DroidSansFallback.ttf", "PingFang.ttc", "Hiragino Sans GB.ttc", "STHeiti Medium.ttc", "Arial Unicode.ttf",
    "msyh.ttc", "simhei.ttf", "simsun.ttc",
)  # fmt: skip
CJK = re.compile(r"[\u3400-\u9fff\uf900-\ufaff]")
WHITE, INK = (255, 255, 255), (40, 40, 40)
LINES = 3  # of a caption


def contact_sheet(
    pictures: Iterable[Any], captions: Sequence[str] | None = None, columns: int = 8, cell: int = 0
) -> Image.Image:
    """Pictures in rows of `columns`, each with its caption below.

    pictures  Examples, PIL images, uint8 arrays, or float tensors (C, H, W) in [−1, 1]; or one tensor (B, C, H, W)
    captions  one a picture; for Examples, their own captions by default; none otherwise
    cell      side of a picture on the sheet in pixels; 0: the largest one's own, at least 96 and at most 256

    Where the machine has no font with Chinese characters, they are written as \\uXXXX.
    Raises Problem where there is nothing to show.
    """
    pictures = list(pictures)
    if captions is None and any(isinstance(p, Example) for p in pictures):
        captions = [" · ".join(p.captions) or ("" if p.label is None else str(p.label)) for p in pictures]
    images = [to_image(p) for p in pictures]
    if not images:
        raise Problem("a contact sheet of no pictures: the source is empty, or all that were tried are broken")
    columns = max(1, min(columns, len(images)))
    side = cell or min(256, max(96, *(max(image.size) for image in images)))
    font, gap = _font(12), 6
    texts = [_wrapped(c or "", font, side) for c in captions] if captions else [[] for _ in images]
    line = 15
    tall = side + gap + line * max(len(t) for t in texts)
    rows = -(-len(images) // columns)
    sheet = Image.new("RGB", (gap + columns * (side + gap), gap + rows * (tall + gap)), WHITE)
    pen = ImageDraw.Draw(sheet)
    for i, (image, text) in enumerate(zip(images, texts, strict=True)):
        x, y = gap + i % columns * (side + gap), gap + i // columns * (tall + gap)
        shown = _shown(image, side)
        sheet.paste(shown, (x + (side - shown.width) // 2, y + (side - shown.height) // 2))
        for k, words in enumerate(text):
            pen.text((x, y + side + 2 + k * line), words, fill=INK, font=font)
    return sheet


def to_image(picture: Any) -> Image.Image:
    """An RGB image of an Example, a PIL image, a uint8 array, or a float tensor (C, H, W) in [−1, 1]."""
    if isinstance(picture, Example):
        picture = picture.image
    if isinstance(picture, (Image.Image, np.ndarray)):
        return opaque(picture, WHITE)
    pixels = picture.detach().float().cpu().clamp(-1, 1).add(1).mul(127.5).round().byte()
    return opaque(pixels.permute(1, 2, 0).squeeze(-1).numpy(), WHITE)


def _shown(image: Image.Image, side: int) -> Image.Image:
    """At most `side` on each side: enlarged by a whole number, pixels staying sharp, or reduced."""
    longest = max(image.size)
    if longest <= side:
        return image.resize(
            (image.width * (side // longest), image.height * (side // longest)), Image.Resampling.NEAREST
        )
    size = (max(1, round(image.width * side / longest)), max(1, round(image.height * side / longest)))
    return image.resize(size, Image.Resampling.LANCZOS)


@cache
def cjk_font() -> str | None:
    """The file name of a font with Chinese characters, where Pillow finds one."""
    for name in CJK_FONTS:
        try:
            ImageFont.truetype(name, 12)
            return name
        except OSError:
            continue
    return None


@cache
def _font(size: int):
    name = cjk_font()
    return ImageFont.truetype(name, size) if name else ImageFont.load_default(size)


def _wrapped(text: str, font, width: int) -> list[str]:
    """At most LINES lines that are no wider than `width`; broken at spaces, and between Chinese characters."""
    if cjk_font() is None:
        text = "".join(c if ord(c) < 0x250 or c == "·" else f"\\u{ord(c):04x}" for c in text)
    lines, line = [], ""
    for piece in re.findall(
        r"\\u[0-9a-f]+|[\u3400-\u9fff\uf900-\ufaff]|\s+|[^\s\\\u3400-\u9fff\uf900-\ufaff]+|\\", text
    ):
        if line and font.getlength(line + piece) > width:
            lines.append(line.rstrip())
            line = "" if piece.isspace() else piece
        else:
            line += piece
    lines = [one for one in [*lines, line.strip()] if one]
    return lines if len(lines) <= LINES else [*lines[: LINES - 1], lines[LINES - 1].rstrip(".") + "..."]


# -- report ----------------------------------------------------------------------------------------------------------


@dataclass
class Report:
    """What `report` found. `str` gives it as lines to print.

    rows, looked  how many there are, and how many of them were looked at
    sizes         {(width, height): how many}
    captions      how many captions there are in all; chinese: how many of them have Chinese characters
    wordless      pictures without a caption
    labels        {class: how many}
    broken        what is wrong with each broken picture, its name first
    examples      some of the good ones, for a contact sheet
    """

    name: str
    rows: int
    looked: int = 0
    sizes: Counter = field(default_factory=Counter)
    captions: int = 0
    chinese: int = 0
    wordless: int = 0
    labels: Counter = field(default_factory=Counter)
    broken: list[str] = field(default_factory=list)
    examples: list[Example] = field(default_factory=list, repr=False)

    def __str__(self) -> str:
        good = self.looked - len(self.broken)
        seen = "" if self.looked == self.rows else f" (looked at {self.looked:,})"
        lines = [f"{self.name}: {self.rows:,} pictures{seen}"]
        common = ", ".join(f"{w}x{h} ({n:,})" for (w, h), n in self.sizes.most_common(5))
        more = f" and {len(self.sizes) - 5:,} others" if len(self.sizes) > 5 else ""
        lines.append(f"sizes: {common or 'none'}{more}")
        languages = f", {self.chinese:,} of them with Chinese characters" if self.chinese else ""
        without = f"; {self.wordless:,} pictures have none" if self.wordless else ""
        each = f" ({self.captions / good:.1f} a picture)" if good else ""
        lines.append(f"captions: {self.captions:,}{each}{languages}{without}")
        if self.labels:
            classes = ", ".join(f"{label} ({n:,})" for label, n in sorted(self.labels.items())[:12])
            lines.append(f"classes: {len(self.labels):,}: {classes}{', …' if len(self.labels) > 12 else ''}")
        lines.append(f"broken: {len(self.broken):,}" + "".join(f"\n  {why}" for why in self.broken[:20]))
        return "\n".join(lines)


def report(source: Source, most: int = 2000, examples: int = 32) -> Report:
    """Looks at up to `most` rows, evenly spread over the source: sizes, captions, classes, broken pictures."""
    n = len(source)
    rows = range(n) if n <= most else [i * n // most for i in range(most)]
    found = Report(source.name, n, len(rows))
    shown = {i * len(rows) // examples for i in range(examples)}
    for place, row in enumerate(rows):
        try:
            example = source[row]
        except Problem as problem:
            found.broken.append(str(problem))
            continue
        found.sizes[image_size(example.image)] += 1
        found.captions += len(example.captions)
        found.chinese += sum(bool(CJK.search(c)) for c in example.captions)
        found.wordless += not example.captions
        if example.label is not None:
            found.labels[example.label] += 1
        if place in shown:
            found.examples.append(example)
    return found
