"""Tar shards as webdataset and img2dataset write them: 00001.jpg, 00001.txt, 00001.json, next to each other.

A row is what has the same name up to the first dot. Opening reads the headers of all members once; a row is then read
at its offset, so that rows can be had in any order and no file stays open.
"""

from __future__ import annotations

import json
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from phosphene.data import columns as cols
from phosphene.data.base import Example, Filter, matching_files, passes
from phosphene.data.parquet import IN_MEMORY, arrow
from phosphene.data.pictures import ENDINGS, decode, measured
from phosphene.errors import Problem

Member = tuple[int, int]  # offset and length of a file's content
Row = tuple[int, str, dict[str, Member]]  # shard, key, {ending: member}


class Tar:
    """The rows of all .tar files that a path, a folder or a pattern stands for.

    caption  the field(s) of the .json that hold captions; without it: the lines of .txt, else the usual fields
    label    the field of the .json that holds class numbers; without it: .cls

    Filters apply to the columns of the .parquet that img2dataset leaves beside each tar, else to the fields of the
    .json (slower), and to the picture's own width and height where nothing is called so.
    A shard that was cut off gives the rows before the cut; the row at the cut counts as one broken picture.
    Raises Problem for files that are no tar, and for fields that are not there.
    """

    def __init__(self, path: str, filters: Sequence[Filter] = (), caption: str = "", label: str = ""):
        self.name = path
        self.files = matching_files(path, ".tar")
        self.cut: dict[tuple[int, str], str] = {}
        shards = [self._index(shard) for shard in range(len(self.files))]
        self.rows: list[Row] = [row for rows in shards for row in rows]
        self.columns, self.lacks = self._columns(caption, label)
        if filters:
            shards = [self._passing(rows, filters) for rows in shards]
            self.rows = [row for rows in shards for row in rows]
        self.shards = [len(rows) for rows in shards] if sum(f.stat().st_size for f in self.files) > IN_MEMORY else None

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, i: int) -> Example:
        row = self.rows[i]
        where, fields = self._where(row), self._json(row)
        image = decode(self._picture(row), where)
        captions, label = self.columns.read(fields)
        members = row[2]
        if "txt" in members and not self.asked:
            captions = self._lines(row)
        if "cls" in members and label is None:
            label, _ = self._class(row)
        return Example(image, captions, label, {"file": where, **fields})

    def size(self, i: int) -> tuple[int, int]:
        """(width, height), from the picture's header."""
        return measured(self._picture(self.rows[i]), self._where(self.rows[i]))

    # -- reading -----------------------------------------------------------------------------------------------------

    def _where(self, row: Row) -> str:
        return f"{self.files[row[0]]}, {row[1]}"

    def _picture(self, row: Row) -> bytes:
        if (row[0], row[1]) in self.cut:
            raise Problem(self.cut[row[0], row[1]])
        ending = next((e for e in row[2] if f".{e}" in ENDINGS), None)
        if ending is None:
            raise Problem(f"{self._where(row)}: no picture among .{', .'.join(row[2])}")
        return self._bytes(row, ending)

    def _bytes(self, row: Row, ending: str) -> bytes:
        offset, length = row[2][ending]
        try:
            with open(self.files[row[0]], "rb") as file:
                file.seek(offset)
                content = file.read(length)
        except OSError as error:
            raise Problem(f"{self._where(row)}: cannot be read ({error.strerror})") from None
        if len(content) < length:
            raise Problem(f"{self._where(row)}: the file was cut off after it was opened")
        return content

    def _lines(self, row: Row) -> tuple[str, ...]:
        try:
            text = self._bytes(row, "txt").decode("utf-8-sig")
        except UnicodeDecodeError:
            raise Problem(f"{self._where(row)}.txt: not UTF-8") from None
        return tuple(line.strip() for line in text.splitlines() if line.strip())

    def _class(self, row: Row) -> tuple[int, str]:
        text = self._bytes(row, "cls").decode("utf-8", "replace").strip()
        if not text.isdecimal():
            raise Problem(f"{self._where(row)}.cls: {text[:40]!r} is not a class number 0, 1, 2, …")
        return int(text), text

    def _json(self, row: Row) -> dict[str, Any]:
        if "json" not in row[2]:
            return {}
        try:
            fields = json.loads(self._bytes(row, "json"))
        except (UnicodeDecodeError, json.JSONDecodeError) as error:
            raise Problem(f"{self._where(row)}.json: not JSON ({error})") from None
        if not isinstance(fields, dict):
            raise Problem(f"{self._where(row)}.json: a {type(fields).__name__}; an object, {{…}}, is right")
        return fields

    # -- opening -----------------------------------------------------------------------------------------------------

    def _index(self, shard: int) -> list[Row]:
        """The rows of one shard, in the order of the file."""
        file = self.files[shard]
        members: dict[str, dict[str, Member]] = {}
        length = file.stat().st_size
        try:
            with tarfile.open(file, "r:") as tar:
                cut = _collect(tar, length, members)
        except tarfile.ReadError as error:
            raise Problem(f"{file}: not an uncompressed tar file ({error}); decompress .tar.gz first") from None
        if cut:
            self.cut[shard, cut] = f"{file}: cut off at {cut}; what came after it is missing"
        return [
            (shard, key, found) for key, found in members.items() if (shard, key) in self.cut or _has_picture(found)
        ]

    def _columns(self, caption: str, label: str) -> tuple[cols.Columns, dict[str, str]]:
        """Which fields are in use, judged by the first row."""
        self.asked = bool(caption)
        whole = [row for row in self.rows if (row[0], row[1]) not in self.cut]
        fields = list(self._json(whole[0])) if whole else []
        columns = cols.choose(self.name, fields, caption=caption, label=label)
        lacks = dict(columns.lacks)
        for ending, what in (("txt", "caption"), ("cls", "label")):
            if whole and ending in whole[0][2]:
                lacks.pop(what, None)
        return columns, lacks

    def _passing(self, rows: list[Row], filters: Sequence[Filter]) -> list[Row]:
        """The rows of one shard that pass."""
        if not rows:
            return rows
        file = self.files[rows[0][0]]
        beside = file.with_suffix(".parquet")
        names, table = _keyed(beside, filters) if beside.is_file() else (list(self._json(rows[0])), None)
        on_fields, on_size = cols.split_filters(str(file), names, filters)

        def fields(row: Row) -> dict[str, Any]:
            return self._json(row) if table is None else table.get(row[1].rsplit("/", 1)[-1], {})

        return [row for row in rows if (not on_fields or passes(fields(row), on_fields)) and self._fits(row, on_size)]

    def _fits(self, row: Row, filters: list[Filter]) -> bool:
        if not filters:
            return True
        try:
            width, height = measured(self._picture(row), "")
        except Problem:
            return True  # it will be counted and named when it is met
        return passes({"width": width, "height": height}, filters)


def _has_picture(members: dict[str, Member]) -> bool:
    return any(f".{ending}" in ENDINGS for ending in members)


def _collect(tar: tarfile.TarFile, length: int, members: dict[str, dict[str, Member]]) -> str:
    """Fills {key: {ending: member}}; the key at which the file is cut off, or "" where it is whole.

    A whole tar file ends with blocks of zeros. Where they are missing, the last row may lack files, and counts as cut.
    """
    key = ""
    try:
        for info in tar:
            folder, _, name = info.name.rpartition("/")
            stem, _, ending = name.partition(".")
            if not info.isfile() or not stem or not ending:
                continue
            key = f"{folder}/{stem}" if folder else stem
            members.setdefault(key, {})[ending.lower()] = (info.offset_data, info.size)
            if info.offset_data + info.size > length:
                return key
            tar.members = []  # type: ignore[attr-defined]  # tarfile would keep them all
    except tarfile.ReadError:
        if not key:
            raise
        return key
    tar.fileobj.seek(tar.offset)  # where the next header would be
    return "" if tar.fileobj.read(512) == bytes(512) else key


def _keyed(file: Path, filters: Sequence[Filter]) -> tuple[list[str], dict[str, dict[str, Any]]]:
    """(columns, {key: {column: value}}) of img2dataset's table beside a tar; values only where filters ask for them."""
    pa, parquet = arrow()
    try:
        there = parquet.read_schema(file).names
        wanted = [c for c in there if c in {f.column for f in filters}]
        rows = parquet.read_table(file, columns=["key", *wanted]).to_pylist()
    except (pa.ArrowException, OSError, KeyError) as error:
        raise Problem(
            f"{file}: not img2dataset's table with a column key ({str(error).splitlines()[0][:120]})"
        ) from None
    return there, {str(row["key"]): row for row in rows}
