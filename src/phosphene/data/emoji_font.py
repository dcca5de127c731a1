"""Emoji from whatever colour emoji font the machine has, named in English and Chinese by the `emoji` package."""

from __future__ import annotations

import functools
import io
import random
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont, features

from phosphene.data.columns import imported
from phosphene.data.emoji_groups import group_of
from phosphene.errors import Problem

SIDE = 128
STRIKES = (109, 160, 128, 136, 96, 64)  # sizes that bitmap fonts have: Noto's 109, Apple's 160; an outline font has any
FOLDERS = (
    "/usr/share/fonts", "/usr/local/share/fonts", "~/.fonts", "~/.local/share/fonts",
    "/System/Library/Fonts", "/Library/Fonts", "~/Library/Fonts", "C:/Windows/Fonts",
)  # fmt: skip
FONTS = (  # file, the style it draws, the licence of its drawings
    ("NotoColorEmoji*.ttf", "noto", "OFL-1.1"),
    ("Apple Color Emoji*.ttc", "apple", "proprietary"),
    ("seguiemj*.ttf", "segoe", "proprietary"),
    ("Twemoji*.ttf", "twemoji", "CC-BY-4.0"),
    ("*[Ee]moji*.tt?", "font", "as the font's"),
)
NONE_FOUND = (
    "no colour emoji font on this machine. Install one (Debian, Ubuntu: apt install fonts-noto-color-emoji; Fedora: "
    "dnf install google-noto-emoji-fonts; Arch: pacman -S noto-fonts-emoji), or give emoji:font=FILE.ttf, or a table: "
    "emoji:path=TABLE.parquet"
)
SKIN = range(0x1F3FB, 0x1F400)
FLAG, TAGS = range(0x1F1E6, 0x1F200), range(0xE0020, 0xE0080)  # the letters of countries' and of regions' flags


def find_font(folders: tuple[str, ...] = FOLDERS) -> Path:
    """The first colour emoji font, Noto's before others'. Problem, saying what to install, where there is none."""
    places = [p for p in (Path(f).expanduser() for f in folders) if p.is_dir()]
    for pattern, _, _ in FONTS:
        found = sorted(file for place in places for file in place.rglob(pattern))
        colour = next((file for file in found if _loads(file)), None)
        if colour:
            return colour
    raise Problem(NONE_FOUND)


def _loads(file: Path) -> bool:
    try:
        FontEmoji(file)
    except Problem:
        return False
    return True


@functools.lru_cache(maxsize=4)
def font_emoji(file: str | Path) -> FontEmoji:
    """FontEmoji(file), kept: to find out what a font draws takes a second."""
    return FontEmoji(file)


class FontEmoji:
    """A colour emoji font: which emoji it has, and what they look like.

    Raises Problem where the file is no font, or draws 😀 in no colour (FreeType draws CBDT, sbix and COLR version 0).
    """

    def __init__(self, file: str | Path):
        self.file = Path(file).expanduser()
        self.font = _opened(self.file)
        kinds = [(style, licence) for pattern, style, licence in FONTS if self.file.match(pattern)]
        self.style, self.licence = kinds[0] if kinds else FONTS[-1][1:]
        self.box = self.font.getbbox("😀")
        face = np.asarray(self.draw("😀")).astype(int)
        if not (abs(face[..., 0] - face[..., 2]) * face[..., 3] > 255 * 32).any():
            raise Problem(f"{self.file}: draws 😀 in no colour; a font with bitmaps (CBDT, sbix) or COLR 0 would do")

    def draw(self, emoji: str) -> Image.Image:
        """RGBA, 128×128, the glyph's box in the middle, as large as fits."""
        return self._drawn(emoji).resize((SIDE, SIDE), Image.Resampling.LANCZOS)

    def _drawn(self, emoji: str) -> Image.Image:
        left, top, right, bottom = self.box
        side = int(max(right - left, bottom - top))
        canvas = Image.new("RGBA", (side, side))
        place = ((side - right - left) / 2, (side - bottom - top) / 2)
        ImageDraw.Draw(canvas).text(place, emoji, font=self.font, embedded_color=True)
        return canvas

    @functools.cached_property
    def rows(self) -> list[dict[str, Any]]:
        """One row an emoji that the font draws as one glyph, with the columns of docs/emoji.md but the picture.

        Skin tones are left out. Raises Problem where the `emoji` package is missing.
        """
        named = imported("emoji", "naming the emoji of a font")
        named.config.load_language("zh")
        whole = [e for e, d in named.EMOJI_DATA.items() if d["status"] == named.STATUS["fully_qualified"] and "zh" in d]
        advance = self.font.getlength("😀")
        nothing = {self._drawn(unassigned).tobytes() for unassigned in (" ", "\U0010fffd")}
        drawn = [
            e
            for e in whole
            if not any(ord(c) in SKIN for c in e)
            and (features.check("raqm") or len(e.replace("\ufe0f", "")) == 1)  # sequences need its ligatures
            and self.font.getlength(e) < 1.5 * advance
            and self._drawn(e).tobytes() not in nothing
        ]
        random.Random(0).shuffle(drawn)  # so that the first so many are a fair sample, as in the table
        return [self._row(e, named.EMOJI_DATA[e]) for e in drawn]

    def _row(self, emoji: str, data: dict[str, Any]) -> dict[str, Any]:
        country, region = all(ord(c) in FLAG for c in emoji), any(ord(c) in TAGS for c in emoji)
        english, chinese = (data[language].strip(":").replace("_", " ") for language in ("en", "zh"))
        return {
            "codepoint": "-".join(f"{ord(c):x}" for c in emoji if c != "\ufe0f"),
            "emoji": emoji,
            "style": self.style,
            "name_en": f"flag: {english}" if country or region else english,
            "keywords_en": [a.strip(":").replace("_", " ") for a in data.get("alias", [])] or [english],
            "name_zh": f"旗: {chinese}" if country or region else chinese,
            "keywords_zh": [chinese],
            "group": group_of(emoji),
            "subgroup": "country-flag" if country else "subdivision-flag" if region else "",
            "unicode_version": float(data["E"]),
            "licence": self.licence,
            "split": "train",
        }


def _opened(file: Path) -> ImageFont.FreeTypeFont:
    if not file.is_file():
        raise Problem(f"font {str(file)!r}: there is no such file")
    data = file.read_bytes()
    for size in STRIKES:
        try:
            return ImageFont.truetype(
                io.BytesIO(data), size
            )  # by path, PIL would also take a font of this name elsewhere
        except OSError:  # no bitmaps of this size, or no font at all
            continue
    raise Problem(f"{file}: cannot be opened as a font with emoji (tried the sizes {', '.join(map(str, STRIKES))})")
