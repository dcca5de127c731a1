"""Parquet files whose rows hold encoded pictures: ours, Hugging Face's (image: {bytes, path}), img2dataset's."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import numpy as np

from phosphene.data import columns as cols
from phosphene.data.base import Example, Filter, matching_files, passes
from phosphene.data.pictures import decode, measured
from phosphene.errors import Problem

IN_MEMORY = 2 << 30  # bytes on disk up to which all rows are kept in memory and shuffled as one; above, by row groups
KEPT = 3  # row groups in memory, above that


class Parquet:
    """The rows of one file, or of all files that a folder or a pattern stands for.

    image, caption, label  the columns; found by type and their usual names. caption may name several: name_en|name_zh
    Other columns, unless binary, go to each Example's meta. A filter on width or height, where these are no columns,
    reads every picture's header once.
    Raises Problem for files that are no Parquet, for columns that are not there, and where no column holds pictures.
    """

    def __init__(self, path: str, filters: Sequence[Filter] = (), image: str = "", caption: str = "", label: str = ""):
        self.name = path
        self.files = matching_files(path, ".parquet")
        schema = self._open(0).schema_arrow
        self.columns = cols.choose(
            path, schema.names, image=image, caption=caption, label=label, images=_picture_columns(schema)
        )
        self.lacks = self.columns.lacks
        self.read_columns = [c for c in schema.names if c == self.columns.image or not _is_binary(schema.field(c).type)]
        on_columns, on_size = cols.split_filters(path, schema.names, filters)
        self.groups: list[tuple[int, int, np.ndarray]] = []  # (file, row group, the rows in it that pass)
        self.bytes = 0
        self._tables: OrderedDict[int, Any] = OrderedDict()
        for file in range(len(self.files)):
            self._add(file, schema, on_columns, on_size)
        self.ends = np.cumsum([len(rows) for *_, rows in self.groups])
        self.shards = [len(rows) for *_, rows in self.groups] if self.bytes > IN_MEMORY else None

    def __len__(self) -> int:
        return int(self.ends[-1]) if len(self.ends) else 0

    def __getitem__(self, i: int) -> Example:
        row, where = self._row(i)
        image = decode(self._bytes(row, where), where)
        captions, label = self.columns.read(row)
        del row[self.columns.image]
        return Example(image, captions, label, {**row, "file": where})

    def size(self, i: int) -> tuple[int, int]:
        """(width, height), from the picture's header."""
        row, where = self._row(i)
        return measured(self._bytes(row, where), where)

    def _row(self, i: int) -> tuple[dict[str, Any], str]:
        """({column: value}, "file, row n")"""
        if not 0 <= i < len(self):
            raise IndexError(i)
        group = int(np.searchsorted(self.ends, i, side="right"))
        file, number, rows = self.groups[group]
        row = int(rows[i - (int(self.ends[group - 1]) if group else 0)])
        table = self._table(group)
        return table.slice(row, 1).to_pylist()[0], f"{self.files[file]}, row {row} of row group {number}"

    def _bytes(self, row: dict[str, Any], where: str) -> bytes:
        value = row[self.columns.image]
        if isinstance(value, dict):
            value = value.get("bytes")
        if not value:
            raise Problem(f"{where}: no picture in column {self.columns.image}")
        return value

    def _table(self, group: int):
        """One row group, kept in memory."""
        if group not in self._tables:
            if self.shards is not None and len(self._tables) >= KEPT:
                self._tables.popitem(last=False)
            file, number, _ = self.groups[group]
            self._tables[group] = self._read(file, number, self.read_columns)
        self._tables.move_to_end(group)
        return self._tables[group]

    # -- opening -----------------------------------------------------------------------------------------------------

    def _open(self, file: int):
        pa, parquet = arrow()
        try:
            return parquet.ParquetFile(self.files[file])
        except (pa.ArrowException, OSError) as error:
            raise Problem(
                f"{self.files[file]}: not a whole Parquet file ({str(error).splitlines()[0][:120]})"
            ) from None

    def _read(self, file: int, group: int, columns: list[str]):
        pa, _ = arrow()
        try:
            with self._open(file) as opened_file:
                return opened_file.read_row_group(group, columns=columns, use_threads=False)
        except (pa.ArrowException, OSError) as error:
            raise Problem(f"{self.files[file]}: broken Parquet file ({str(error).splitlines()[0][:120]})") from None

    def _add(self, file: int, schema, on_columns: list[Filter], on_size: list[Filter]) -> None:
        """The row groups of one file, and which of their rows pass the filters."""
        with self._open(file) as opened_file:
            metadata, names = opened_file.metadata, opened_file.schema_arrow.names
        for column in (self.columns.image, *self.columns.captions, self.columns.label):
            if column and column not in names:
                raise Problem(
                    f"{self.files[file]} has no column {column}, unlike {self.files[0]}; it has {', '.join(names)}"
                )
        for number in range(metadata.num_row_groups):
            rows = np.arange(metadata.row_group(number).num_rows)
            self.bytes += metadata.row_group(number).total_byte_size
            if on_columns:
                table = self._read(file, number, sorted({f.column for f in on_columns})).to_pylist()
                rows = np.array([r for r in rows if passes(table[r], on_columns)], dtype=np.int64)
            if on_size:
                pictures = self._read(file, number, [self.columns.image]).to_pylist()
                rows = np.array([r for r in rows if self._fits(pictures[r], on_size)], dtype=np.int64)
            self.groups.append((file, number, rows))

    def _fits(self, row: dict[str, Any], filters: list[Filter]) -> bool:
        try:
            width, height = measured(self._bytes(row, ""), "")
        except Problem:
            return True  # it will be counted and named when it is met
        return passes({"width": width, "height": height}, filters)


def arrow():
    """(pyarrow, pyarrow.parquet). Raises Problem where they are not installed."""
    return cols.imported("pyarrow", "reading Parquet"), cols.imported("pyarrow.parquet", "reading Parquet")


def _is_binary(kind) -> bool:
    from pyarrow import types

    return types.is_binary(kind) or types.is_large_binary(kind)


def _picture_columns(schema) -> list[str]:
    """Columns of bytes, or of {bytes, path} as Hugging Face writes pictures."""
    from pyarrow import types

    def holds(kind) -> bool:
        return _is_binary(kind) or (types.is_struct(kind) and kind.get_field_index("bytes") >= 0)

    return [field.name for field in schema if holds(field.type)]
