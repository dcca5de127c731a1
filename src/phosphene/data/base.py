"""Where captioned pictures come from: `Example`, `Source`, and `open_source`, which reads one line of text.

A spec is `WHAT[:TERM,TERM,…]`. WHAT is a built-in set ("scenes", "emoji"), a path (folder, Parquet, tar shards, npz) or
"hub:owner/name". A TERM is an option, `key=value`, or a filter on a column, `column==value|other`, `column!=value`,
`column>0.3`, `column>=256`, `column<9`, `column<=9`. docs/data.md shows one of each kind.
"""

from __future__ import annotations

import glob
import importlib
import inspect
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from phosphene.errors import Problem, unknown

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image
    from torch import Tensor


@dataclass(frozen=True)
class Example:
    """One picture and what is said of it.

    image    a PIL image; uint8 (H, W), (H, W, 3) or (H, W, 4); or a float Tensor (C, H, W), ready for the network
    captions all of them, in all languages; data/batches.py draws one anew each time
    label    a class, or None
    meta     whatever else is known: style, split, name, group, the file it came from, a source's other columns
    """

    image: Image.Image | np.ndarray | Tensor
    captions: tuple[str, ...] = ()
    label: int | None = None
    meta: dict = field(default_factory=dict)


class Source(Protocol):
    """Rows that can be had in any order. `source[i]` is a function of i.

    It raises Problem, naming the file or row, where the picture is broken.

    A source may also have
    * `shards`: how many rows each shard has; rows are numbered shard by shard, and training reads shard by shard;
    * `size(i)`: (width, height) without decoding the picture, used by size buckets and reports;
    * `lacks`: {"caption" or "label": a sentence saying why there is none and what would help};
    * `tells`: {"layout" or "map": what makes that prompt of an Example}, where it does not stand in the Example's meta.
    """

    name: str

    def __len__(self) -> int: ...

    def __getitem__(self, i: int) -> Example: ...


# -- the one registry ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Kind:
    """A kind of source: what its WHAT looks like, and "module:callable" that opens it, imported when first used.

    The callable gets the options as keywords, WHAT as `path` (a built-in set's `path` is an option like any other), and
    `filters` where it has a parameter of this name.
    """

    name: str
    looks: Callable[[str], bool]
    opens: str
    built_in: bool = False


def _ends(*endings: str) -> Callable[[str], bool]:
    return lambda what: what.lower().endswith(endings)


def _is_folder(what: str) -> bool:
    return Path(what).expanduser().is_dir()


def _holds(pattern: str) -> Callable[[str], bool]:
    """A folder that directly holds files of this pattern and is therefore opened as them."""
    return lambda what: _is_folder(what) and any(Path(what).expanduser().glob(pattern))


def saved_by_datasets(what: str) -> bool:
    """Whether this is a folder that `datasets`' save_to_disk wrote."""
    folder = Path(what).expanduser()
    return (folder / "state.json").is_file() or (folder / "dataset_dict.json").is_file()


KINDS = [
    Kind("scenes", "scenes".__eq__, "phosphene.data.scenes:Scenes", built_in=True),
    Kind("emoji", "emoji".__eq__, "phosphene.data.emoji:Emoji", built_in=True),
    Kind("hub:owner/name", lambda what: what.startswith("hub:"), "phosphene.data.hub:Hub"),
    Kind("a folder saved by datasets", saved_by_datasets, "phosphene.data.hub:Hub"),
    Kind("numbers.npz", _ends(".npz"), "phosphene.data.arrays:Arrays"),
    Kind("table.parquet", _ends(".parquet"), "phosphene.data.parquet:Parquet"),
    Kind("shards/*.tar", _ends(".tar"), "phosphene.data.tar:Tar"),
    Kind("a folder of tar shards", _holds("*.tar"), "phosphene.data.tar:Tar"),
    Kind("a folder of Parquet files", _holds("*.parquet"), "phosphene.data.parquet:Parquet"),
    Kind("a folder of pictures", _is_folder, "phosphene.data.folder:Folder"),
]


def open_source(spec: str) -> Source:
    """The source that a spec such as "scenes:size=64" or "pictures/*.parquet:lang==en" describes.

    Raises Problem for a path that is not there, an option that the kind does not have, or a value of the wrong type.
    """
    source, most = _opened(spec), _most.get()
    return source if most is None or len(source) <= most else Some(source, most)


_most: ContextVar[int | None] = ContextVar("most", default=None)


@contextmanager
def at_most(n: int) -> Iterator[None]:
    """Within it, what `open_source` opens has no more than n rows: for a quick look at what is built on much data."""
    token = _most.set(n)
    try:
        yield
    finally:
        _most.reset(token)


class Some:
    """n rows of a source, evenly spread; everything else of it is as it is."""

    shards = None

    def __init__(self, source: Source, n: int):
        self.source, self.n, self.name = source, n, source.name
        if callable(getattr(source, "size", None)):
            self.size = lambda i: source.size(self._row(i))

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, i: int) -> Example:
        return self.source[self._row(i)]

    def __getattr__(self, name: str) -> Any:
        if name in ("source", "size") or name.startswith("__"):
            raise AttributeError(name)
        return getattr(self.source, name)

    def _row(self, i: int) -> int:
        return i * len(self.source) // self.n


def _opened(spec: str) -> Source:
    what, options, filters = parse_spec(spec)
    kind = next((kind for kind in KINDS if kind.looks(what)), None)
    if kind is None:
        raise Problem(f"no data at {what!r}: {_why_not(what)}. Data is one of: {', '.join(k.name for k in KINDS)}")
    module, name = kind.opens.split(":")
    opener = getattr(importlib.import_module(module), name)
    takes = inspect.signature(opener).parameters
    ours = ("filters",) if kind.built_in else ("filters", "path")
    known = {k: p for k, p in takes.items() if k not in ours}
    given = _converted(kind.name, options, known, "filters" in takes)
    if not kind.built_in:
        given["path"] = what
    if "filters" in takes:
        given["filters"] = filters
    elif filters:
        options_there = ", ".join(known) or "none"
        raise Problem(f"{kind.name} has no columns, so the filter {filters[0]} means nothing; options: {options_there}")
    return opener(**given)


def _why_not(what: str) -> str:
    if not Path(what).expanduser().exists():
        return "there is no such file or folder"
    if "data_batch" in what or what.lower().endswith((".pkl", ".pickle")):
        return (
            "pickles (CIFAR-10's Python version among them) are not read, because a pickle can run code; "
            "take the Parquet version of the set"
        )
    return f"files ending in {Path(what).suffix or 'nothing'} are not known"


def _converted(kind: str, options: dict[str, str], parameters: dict, has_columns: bool) -> dict[str, Any]:
    """Option texts as values of the type that each parameter's default has."""
    given: dict[str, Any] = {}
    for key, text in options.items():
        if key not in parameters:
            problem = unknown(f"option of {kind}", key, parameters)
            hint = f". (A filter on a column is written {key}=={text})" if has_columns else ""
            raise Problem(f"{problem}{hint}")
        try:
            given[key] = _value(text, parameters[key].default)
        except ValueError:
            default = parameters[key].default
            wanted = type(default).__name__
            raise Problem(f"{kind}: {key}={text!r} should be of type {wanted}, like {default!r}") from None
    return given


def _value(text: str, default: Any) -> Any:
    if isinstance(default, bool):
        words = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
        if text.lower() not in words:
            raise ValueError(text)
        return words[text.lower()]
    if isinstance(default, (int, float)):
        return type(default)(text)
    if isinstance(default, (tuple, list)):  # "1-4", "1|4": a pair or a list, of what the default holds
        pieces = re.split(r"[|-]" if default and isinstance(default[0], (int, float)) else r"[|]", text)
        values = [_value(piece, default[0]) if default else piece for piece in pieces]
        return tuple(values * 2 if len(values) == 1 and len(default) == 2 and isinstance(default[0], int) else values)
    return text


# -- the spec and its filters ------------------------------------------------------------------------------------------

_TERM = r"[A-Za-z_][\w.\-]*(?:==|!=|>=|<=|=|>|<)[^,]*"
_SPEC = re.compile(rf"(?P<what>.+?)(?::(?P<terms>{_TERM}(?:,{_TERM})*))?", re.DOTALL)
_PIECES = re.compile(r"([\w.\-]+)(==|!=|>=|<=|=|>|<)(.*)", re.DOTALL)


@dataclass(frozen=True)
class Filter:
    """`column op value`. == and != compare as text and allow alternatives, "en|zh"; the others compare numbers.

    A row whose value is missing passes only !=.
    """

    column: str
    op: str
    value: str

    def __post_init__(self) -> None:
        if self.op not in ("==", "!="):
            try:
                float(self.value)
            except ValueError:
                raise Problem(f"filter {self}: {self.op} wants a number, not {self.value!r}") from None

    def __call__(self, value: object) -> bool:
        if self.op in ("==", "!="):
            same = value is not None and any(_same(value, text) for text in self.value.split("|"))
            return same == (self.op == "==")
        try:
            found, bound = float(value), float(self.value)  # type: ignore[arg-type]
        except (TypeError, ValueError):
            return False
        return {">": found > bound, ">=": found >= bound, "<": found < bound, "<=": found <= bound}[self.op]

    def __str__(self) -> str:
        return f"{self.column}{self.op}{self.value}"


def _same(value: object, text: str) -> bool:
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        try:
            return float(text) == value
        except ValueError:
            return False
    return str(value).lower() == text.lower() if isinstance(value, bool) else str(value) == text


def parse_spec(spec: str) -> tuple[str, dict[str, str], list[Filter]]:
    """ "what:key=value,column>3" → ("what", {"key": "value"}, [column>3]). Raises Problem for an empty spec."""
    match = _SPEC.fullmatch(spec.strip())
    if not match:
        raise Problem("an empty data spec; write a path or the name of a set, for example scenes")
    options: dict[str, str] = {}
    filters: list[Filter] = []
    for term in (match["terms"] or "").split(",") if match["terms"] else []:
        key, op, value = _PIECES.fullmatch(term).groups()  # type: ignore[union-attr]
        if op == "=":
            options[key] = value.strip()
        else:
            filters.append(Filter(key, op, value.strip()))
    return match["what"], options, filters


def passes(columns: dict, filters: list[Filter]) -> bool:
    """Whether one row, {column: value}, passes all filters."""
    return all(f(columns.get(f.column)) for f in filters)


def matching_files(path: str, ending: str) -> list[Path]:
    """The files that a path, a folder or a pattern with * stands for, sorted. Raises Problem if there are none."""
    place = Path(path).expanduser()
    if place.is_dir():
        found = sorted(place.glob(f"*{ending}"))
    elif place.is_file():
        found = [place]
    else:
        found = sorted(Path(p) for p in glob.glob(str(place)))
    if not found:
        raise Problem(
            f"no {ending} file at {path!r}: give a file, a folder that holds some, or a pattern like 'data/*{ending}'"
        )
    return found
