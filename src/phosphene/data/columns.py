"""Which columns hold the picture, the captions and the label: named by the user, else found by their usual names."""

from __future__ import annotations

import importlib
import json
import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from phosphene.data.base import Filter
from phosphene.errors import Problem, unknown

IMAGES = ("image", "img", "picture", "photo", "jpg", "jpeg", "png", "webp", "image_bytes", "bytes")
CAPTIONS = ("caption", "text", "txt", "prompt", "description", "sentence", "alt_text", "alt", "title", "name")
LABELS = ("label", "labels", "class", "class_id", "target", "fine_label", "digit", "cls")


@dataclass(frozen=True)
class Columns:
    """The columns in use, "" where there is none. `read` takes from a row, {column: value}, what an Example wants."""

    name: str
    image: str
    captions: tuple[str, ...]
    label: str
    lacks: dict[str, str]

    def read(self, row: dict[str, Any]) -> tuple[tuple[str, ...], int | None]:
        """(captions, label). Raises Problem for a label that is no whole number."""
        captions = tuple(text for column in self.captions for text in texts(row.get(column)))
        label = row.get(self.label) if self.label else None
        if label is None or (isinstance(label, int) and not isinstance(label, bool)):
            return captions, label
        try:
            return captions, int(label)
        except (TypeError, ValueError):
            raise Problem(f"{self.name}: {self.label}={label!r} is not a class number 0, 1, 2, …") from None


def choose(
    name: str,
    columns: Collection[str],
    *,
    image: str = "",
    caption: str = "",
    label: str = "",
    images: Sequence[str] | None = None,
) -> Columns:
    """The Columns of a source; "" means: find it. `caption` may name several, "name_en|name_zh".

    `images` are the columns that can hold pictures (None: the source's pictures are not in a column).
    Raises Problem for a column that is not there, and where none holds pictures.
    """
    for wanted in [image, *caption.split("|"), label]:
        if wanted and wanted not in columns:
            raise unknown(f"column of {name}:", wanted, columns)
    if images is not None and not image:
        usual = [c for usual in IMAGES for c in images if c.lower() == usual]
        if not images:
            raise Problem(f"{name} has no column of encoded pictures; its columns are {_listed(columns)}")
        image = (usual or list(images))[0]
    captions = tuple(caption.split("|")) if caption else _usual_captions(columns)
    label = label or next((c for usual in LABELS for c in columns if c.lower() == usual), "")
    return Columns(name, image, captions, label, _lacks(name, columns, captions, label))


def _usual_captions(columns: Collection[str]) -> tuple[str, ...]:
    """The first usual name that occurs, in all its languages: caption; or caption_en and caption_zh; …"""
    for usual in CAPTIONS:
        pattern = re.compile(rf"{usual}s?([_-][a-z]{{2}}([_-][a-z]+)?)?", re.IGNORECASE)
        if found := tuple(c for c in columns if pattern.fullmatch(c)):
            return found
    return ()


def _lacks(name: str, columns: Collection[str], captions: Sequence[str], label: str) -> dict[str, str]:
    """What there is none of, and what would help."""
    lacks = {}
    there = f"its columns are {_listed(columns)}"
    if not captions:
        lacks["caption"] = (
            f"{name} has no caption column ({there}); name it with :caption=COLUMN, "
            "or train without words (prompts='none')"
        )
    if not label:
        lacks["label"] = f"{name} has no label column ({there}); name it with :label=COLUMN"
    return lacks


def _listed(columns: Iterable[str]) -> str:
    return ", ".join(columns) or "none"


def texts(value: Any) -> tuple[str, ...]:
    """The captions in a cell: a text, a list of texts, or a list written as JSON; blanks are left out."""
    if value is None:
        return ()
    if isinstance(value, str):
        if value.startswith("[") and value.rstrip().endswith("]"):
            try:
                return texts(json.loads(value))
            except json.JSONDecodeError:
                pass
        return (value.strip(),) if value.strip() else ()
    if isinstance(value, (list, tuple)):
        return tuple(text for item in value for text in texts(item))
    return (str(value),)


SIZES = ("width", "height")


def split_filters(name: str, columns: Collection[str], filters: Sequence[Filter]) -> tuple[list[Filter], list[Filter]]:
    """(those on columns, those on the picture's own width and height). Raises Problem for a column that is missing."""
    for f in filters:
        if f.column not in columns and f.column not in SIZES:
            raise unknown(f"column in the filter {f} of {name}:", f.column, {*columns, *SIZES})
    return [f for f in filters if f.column in columns], [f for f in filters if f.column not in columns]


def imported(module: str, what: str) -> ModuleType:
    """An optional dependency. Raises Problem with the line to type where it is not installed."""
    try:
        return importlib.import_module(module)
    except ImportError:
        package = module.split(".")[0]
        raise Problem(f"{what} needs {package}: pip install 'phosphene[train]' (or pip install {package})") from None
