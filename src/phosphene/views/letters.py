"""Words in pictures: which font, how they are broken into lines."""

from __future__ import annotations

from PIL import Image, ImageDraw, ImageFont

from ..data.sheet import cjk_font

FINE = 2  # pixels of a PNG for one of a screen
INK, SOFT = "#1f2937", "#6b7280"


def face(text: str, size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """The font for a text: Pillow's own, which knows ASCII alone, else the machine's with Chinese."""
    name = None if text.isascii() else cjk_font()
    return ImageFont.truetype(name, size) if name else ImageFont.load_default(size)


def sayable(text: str) -> str:
    """The text, with \\uXXXX for what is not ASCII where the machine has no font for it."""
    return text if cjk_font() else text.encode("ascii", "backslashreplace").decode()


def wrapped(text: str, size: int, width: int) -> list[str]:
    """The text's lines, broken at spaces where they would be wider than `width`."""
    font, lines = face(text, size), []
    for paragraph in text.split("\n"):
        line = ""
        for word in paragraph.split(" "):
            if line and font.getlength(f"{line} {word}") > width:
                lines.append(line)
                line = word
            else:
                line = f"{line} {word}" if line else word
        lines.append(line)
    return lines


def written(text: str, size: int, width: int, colour: str = INK, align: str = "l") -> Image.Image:
    """A text as a picture so wide, on white, in as many lines as it takes; of no height where there is none."""
    text = sayable(text)
    font, lines = face(text, size), wrapped(text, size, width) if text else []
    tall = round(1.32 * size)
    sheet = Image.new("RGB", (width, max(1, tall * len(lines))), "white")
    pen, x = ImageDraw.Draw(sheet), {"l": 0, "m": width // 2}[align]
    for k, line in enumerate(lines):
        pen.text((x, k * tall + tall // 2), line, colour, font, f"{align}m")
    return sheet
