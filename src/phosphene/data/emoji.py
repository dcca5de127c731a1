"""`emoji`: pictures of emoji in several styles of drawing, named in English and Chinese.

They come from a table (Parquet, the columns of docs/emoji.md), or, with no download, from whatever colour emoji font
the machine has, named by the `emoji` package. Captions say a name, keywords, or a name with its style in several ways.
"""

from __future__ import annotations

import io
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image

from phosphene.data.base import Example
from phosphene.data.columns import imported
from phosphene.data.emoji_font import SIDE, find_font, font_emoji
from phosphene.data.pictures import decode, measured
from phosphene.errors import Problem, unknown


class Style(NamedTuple):
    """The word for a style of drawing in each language."""

    en: str
    zh: str


STYLES = {  # the one table of style words: captions, the shipped model's recipe and its vocabulary read it
    "noto": Style("noto", "谷歌"),
    "fluent-3d": Style("3D", "立体"),
    "fluent-flat": Style("flat", "扁平"),
    "twemoji": Style("twemoji", "推特"),
    "openmoji": Style("openmoji", "描边"),
}
COLUMNS = {  # docs/emoji.md says what stands in them
    "image": "binary", "codepoint": "string", "emoji": "string", "style": "string", "name_en": "string",
    "keywords_en": "list<string>", "name_zh": "string", "keywords_zh": "list<string>", "group": "string",
    "subgroup": "string", "unicode_version": "float", "licence": "string", "split": "string",
}  # fmt: skip
NEEDED = (
    "image",
    "codepoint",
    "style",
    "name_en",
    "name_zh",
)  # the others say more, or are filtered on
SPLITS = ("train", "val")


class Emoji:
    """Emoji as captioned RGBA pictures; what is transparent is for Batches to fill.

    path    a table (Parquet); "" draws them from a font, in one style, to which `styles` then does not apply
    styles, groups   which to keep, "noto|twemoji" or a tuple; none means all
    split   "train", "val" or "" for both
    names   only the first so many emoji of those that pass (the same in every split); 0 means all
    flags   whether flags of countries are among them
    font    the font to draw from; "" looks for one

    Example: image, captions in English and Chinese, meta with the table's other columns. `rows` is the list of these.
    Raises Problem for a file that is no such table, a style, group or split that is not in it, where nothing is left,
    where there is no font, and where pyarrow (tables) or emoji (fonts) are not installed.
    """

    lacks = {"label": "emoji have names, not numbered classes; take prompts=caption"}

    def __init__(
        self,
        path: str = "",
        styles: tuple[str, ...] | str = (),
        split: str = "",
        groups: tuple[str, ...] | str = (),
        names: int = 0,
        flags: bool = False,
        font: str = "",
    ):
        if path and font:
            raise Problem(f"emoji: path={path} and font={font}: one of the two would be right")
        self.font = None if path else font_emoji(font or find_font())
        rows = self.font.rows if self.font else read_table(path)
        self.name = f"emoji of {path or self.font.file}"
        wanted = {"style": _listed(styles) if path else (), "group": _listed(groups)}
        for column, values in wanted.items():
            present = {str(row.get(column)) for row in rows}
            for value in values:
                if value not in present:
                    raise unknown(f"{column} of {self.name}", value, present)
        rows = [r for r in rows if all(r.get(c) in v for c, v in wanted.items() if v)]
        rows = [r for r in rows if flags or r.get("subgroup") != "country-flag"]
        if names:
            first = set(list(dict.fromkeys(r["codepoint"] for r in rows))[:names])
            rows = [r for r in rows if r["codepoint"] in first]
        if split and split not in SPLITS:
            raise unknown("split of emoji", split, SPLITS)
        self.rows = [r for r in rows if not split or r.get("split", "train") == split]
        if not self.rows:
            raise Problem(f"{self.name}: nothing is left with split={split or 'any'}, {wanted}")

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, i: int) -> Example:
        if not 0 <= i < len(self):
            raise IndexError(i)
        row = self.rows[i]
        meta = {k: v for k, v in row.items() if k != "image"}
        return Example(self.picture(i), captions(row), meta=meta)

    def picture(self, i: int) -> Image.Image:
        """RGBA. Raises Problem, naming the emoji, where the table's picture is broken."""
        row = self.rows[i]
        if self.font:
            return self.font.draw(row["emoji"])
        return decode(row["image"] or b"", self._where(row)).convert("RGBA")

    def size(self, i: int) -> tuple[int, int]:
        """(width, height), from the picture's header."""
        row = self.rows[i]
        return (SIDE, SIDE) if self.font else measured(row["image"] or b"", self._where(row))

    def _where(self, row: dict[str, Any]) -> str:
        return f"{self.name}, {row['codepoint']} in {row['style']}"


def _listed(names: Sequence[str] | str) -> tuple[str, ...]:
    return tuple(n for n in names.split("|") if n) if isinstance(names, str) else tuple(names)


# ---------------------------------------------------------------- captions


def captions(row: dict[str, Any]) -> tuple[str, ...]:
    """All that may be said of one row: its name, keywords, and the name with its style, in English and in Chinese."""
    style = STYLES.get(row["style"]) or Style(row["style"], row["style"])
    en, zh = spoken(row["name_en"]), spoken(row["name_zh"])
    an, a = with_article(en), with_article(f"{style.en} emoji")
    said = [en, an, f"{style.en} {en}", f"{en}, {style.en}", f"{a} of {an}", f"{an} in {style.en} style"]
    said += [zh, f"{style.zh}{zh}", f"{zh}，{style.zh}", f"{style.zh}风格的{zh}", f"{zh}的{style.zh}表情"]
    rng = random.Random(f"{row['codepoint']} {row['style']}")
    for name, words in ((row["name_en"], row.get("keywords_en")), (row["name_zh"], row.get("keywords_zh"))):
        more = [w for w in words or [] if w != name]
        if len(more) >= 2:
            said.append(", ".join(rng.sample(more, min(3, len(more)))))
    return tuple(dict.fromkeys(said))


def spoken(name: str) -> str:
    """A table's name as one says it: "flag: Japan" → "flag of Japan", "旗: 日本" → "日本国旗", "按键: 1" → "按键1"."""
    kind, colon, rest = name.partition(": ")
    if not colon:
        return name
    if kind == "flag":
        return f"flag of {rest}"
    return f"{rest}国旗" if kind == "旗" else kind + (" " if kind.isascii() else "") + rest


PLURAL = ("s", "people", "women", "men", "children")


def with_article(name: str) -> str:
    """ "fox" → "a fox", "hourglass" → "an hourglass"; plurals and proper names stay as they are."""
    first, last = name[0], name.split(" ")[-1]
    if (first.isalpha() and first.isupper() and not name.startswith("3D")) or (
        last.endswith(PLURAL) and last[-2:] != "ss"
    ):
        return name
    vowel = first in "aeiouAEIOU" and not name.startswith(("uni", "use", "euro", "one"))
    return f"{'an' if vowel or name.startswith('hour') else 'a'} {name}"


# ---------------------------------------------------------------- tables


def read_table(path: str) -> list[dict[str, Any]]:
    """The rows of a table as {column: value}. Raises Problem where it is no Parquet or lacks a needed column."""
    parquet, arrow = imported("pyarrow.parquet", "reading Parquet"), imported("pyarrow", "reading Parquet")
    file = Path(path).expanduser()
    if not file.is_file():
        raise Problem(f"emoji: path={path}: there is no such file; a table as in docs/emoji.md would be right")
    try:
        there = parquet.read_schema(file).names
        missing = [c for c in NEEDED if c not in there]
        if missing:
            raise Problem(f"{path}: has no column {', '.join(missing)}; it has {', '.join(there)}")
        return parquet.read_table(file, columns=[c for c in COLUMNS if c in there], use_threads=False).to_pylist()
    except (arrow.ArrowException, OSError) as error:
        raise Problem(f"{path}: not a whole Parquet file ({str(error).splitlines()[0][:120]})") from None


def write_table(source: Emoji, path: str | Path) -> None:
    """Writes a source's pictures (PNG) and rows as such a table. Raises Problem where pyarrow is not installed."""
    arrow, parquet = imported("pyarrow", "writing Parquet"), imported("pyarrow.parquet", "writing Parquet")
    types = {"binary": arrow.binary(), "string": arrow.string(), "float": arrow.float32()}
    types["list<string>"] = arrow.list_(arrow.string())
    schema = arrow.schema([(name, types[kind]) for name, kind in COLUMNS.items()])
    rows = [{**row, "image": _png(source.picture(i))} for i, row in enumerate(source.rows)]
    parquet.write_table(arrow.Table.from_pylist(rows, schema), path)


def _png(picture: Image.Image) -> bytes:
    file = io.BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()
