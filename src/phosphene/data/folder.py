"""A folder of pictures: captions beside them in .txt, in metadata.jsonl or metadata.csv, or sub-folders as classes."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from phosphene.data import columns as cols
from phosphene.data.base import Example, Filter, passes
from phosphene.data.pictures import ENDINGS, decode, measured
from phosphene.errors import Problem

TABLES = ("metadata.jsonl", "metadata.csv")
FILE_NAMES = ("file_name", "filename", "file", "path", "image")


class Folder:
    """All pictures below a folder, sorted by path.

    caption  the column(s) of the metadata that hold captions; found by their usual names
    label    the column that holds class numbers

    A picture's captions are those of its row in metadata.jsonl / .csv (by `file_name`, relative to the table), then the
    lines of the .txt file of the same name. Where there are neither, and every picture lies in a sub-folder, the
    first level of sub-folders are the classes, numbered in alphabetical order, and their names are the captions.
    Raises Problem for a folder without pictures, and for a line of metadata that cannot be read.
    """

    def __init__(self, path: str, filters: Sequence[Filter] = (), caption: str = "", label: str = ""):
        self.name, self.root = path, Path(path).expanduser()
        files = sorted(f for f in self.root.rglob("*") if f.suffix.lower() in ENDINGS and not _hidden(f, self.root))
        if not files:
            raise Problem(self._nothing())
        rows = self._metadata()
        names = list(dict.fromkeys(key for row in rows.values() for key in row))
        written = any(f.with_suffix(".txt").is_file() for f in files)
        self.classes: list[str] = []
        if not rows and not written and all(len(f.relative_to(self.root).parts) > 1 for f in files):
            self.classes = sorted({f.relative_to(self.root).parts[0] for f in files})
        self.columns = cols.choose(
            self.name, [*names, *(["class"] if self.classes else [])], caption=caption, label=label
        )
        self.lacks = self._lacks(names, written)
        on_columns, on_size = cols.split_filters(self.name, [*names, *(["class"] if self.classes else [])], filters)
        self.rows = [(f, rows.get(f.relative_to(self.root).as_posix(), {})) for f in files]
        if filters:
            self.rows = [r for r in self.rows if passes(self._row(*r), on_columns) and self._fits(r[0], on_size)]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, i: int) -> Example:
        file, row = self.rows[i]
        image = decode(str(file), str(file))
        if self.classes:
            name = file.relative_to(self.root).parts[0]
            return Example(
                image, (name.replace("_", " "),), self.classes.index(name), {"file": str(file), "class": name}
            )
        captions, label = self.columns.read(row)
        text = file.with_suffix(".txt")
        if text.is_file():
            captions += _lines(text)
        return Example(image, captions, label, {"file": str(file), **row})

    def size(self, i: int) -> tuple[int, int]:
        """(width, height), from the file's header."""
        return measured(str(self.rows[i][0]), str(self.rows[i][0]))

    # -- opening -----------------------------------------------------------------------------------------------------

    def _row(self, file: Path, row: dict[str, Any]) -> dict[str, Any]:
        return {"class": file.relative_to(self.root).parts[0]} if self.classes else row

    def _fits(self, file: Path, filters: list[Filter]) -> bool:
        """Whether the picture's size passes; one that cannot be read stays, to be counted and named when it is met."""
        if not filters:
            return True
        try:
            width, height = measured(str(file), str(file))
        except Problem:
            return True
        return passes({"width": width, "height": height}, filters)

    def _lacks(self, names: list[str], written: bool) -> dict[str, str]:
        if self.classes:
            return {}
        lacks = dict(self.columns.lacks)
        if written:
            lacks.pop("caption", None)
        elif "caption" in lacks and not names:
            lacks["caption"] = (
                f"{self.name} has pictures but no captions: put a .txt beside each, write metadata.jsonl with "
                "file_name and caption, sort the pictures into one sub-folder a class, or train without words "
                "(prompts='none')"
            )
        if not names:
            lacks["label"] = f"{self.name} has no classes: sort the pictures into one sub-folder a class"
        return lacks

    def _nothing(self) -> str:
        if any(self.root.rglob("data_batch*")):
            return (
                f"{self.name} looks like CIFAR-10's Python version; pickles are not read, because a pickle can run "
                "code: take the Parquet version of the set"
            )
        endings = ", ".join(ENDINGS)
        return f"{self.name} holds no picture ({endings}); a folder of pictures, Parquet files or .tar shards is right"

    def _metadata(self) -> dict[str, dict[str, Any]]:
        """{picture's path below the root: its row} of all metadata tables in the folder."""
        found: dict[str, dict[str, Any]] = {}
        for table in sorted(f for name in TABLES for f in self.root.rglob(name)):
            read = _jsonl if table.suffix == ".jsonl" else _csv
            for line, row in read(table):
                key = next((k for k in FILE_NAMES if isinstance(row.get(k), str)), None)
                if key is None:
                    raise Problem(
                        f"{table}, line {line}: no file_name; its fields are {', '.join(map(str, row)) or 'none'}"
                    )
                where = (table.parent / row.pop(key)).relative_to(self.root).as_posix()
                found[where] = row
        return found


def _hidden(file: Path, root: Path) -> bool:
    return any(part.startswith(".") for part in file.relative_to(root).parts)


def _lines(file: Path) -> tuple[str, ...]:
    try:
        text = file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise Problem(f"{file}: not UTF-8; save it as UTF-8") from None
    except OSError as error:
        raise Problem(f"{file}: cannot be read ({error.strerror})") from None
    return tuple(line.strip() for line in text.splitlines() if line.strip())


def _jsonl(file: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    with open(file, "rb") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line.decode("utf-8-sig" if number == 1 else "utf-8"))
            except (UnicodeDecodeError, json.JSONDecodeError) as error:
                raise Problem(f"{file}, line {number}: not JSON ({error}); each line is one object, {{…}}") from None
            if not isinstance(row, dict):
                raise Problem(f"{file}, line {number}: a {type(row).__name__}; each line is one object, {{…}}")
            yield number, row


def _csv(file: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    try:
        with open(file, encoding="utf-8-sig", newline="") as lines:
            reader = csv.DictReader(lines)
            for row in reader:
                if None in row or None in row.values():
                    raise Problem(f"{file}, line {reader.line_num}: not as many fields as the first line names")
                yield reader.line_num, dict(row)
    except (UnicodeDecodeError, csv.Error) as error:
        raise Problem(f"{file}: not a CSV table in UTF-8 ({error})") from None
