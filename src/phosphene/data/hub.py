"""A data set from the Hugging Face Hub, or one that `datasets` saved to a folder, through the `datasets` library."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from phosphene.data import columns as cols
from phosphene.data.base import Example, Filter, passes, saved_by_datasets
from phosphene.data.pictures import decode, measured
from phosphene.errors import Problem, unknown


class Hub:
    """The rows of one split of "hub:owner/name", or of a folder written by `save_to_disk`.

    split                  which part
    config                 which of the set's configurations, where it has several
    image, caption, label  the columns; found by type and their usual names. caption may name several: a|b

    Where the set has class names and no captions, the name of a picture's class is its caption.
    Raises Problem where `datasets` is not installed, the set cannot be had, or a split or column is not there.
    """

    def __init__(
        self,
        path: str,
        filters: Sequence[Filter] = (),
        split: str = "train",
        config: str = "",
        image: str = "",
        caption: str = "",
        label: str = "",
    ):
        self.name = path
        data = _loaded(cols.imported("datasets", f"reading {path}"), path.removeprefix("hub:"), split, config)
        features, images = data.features, [n for n, f in data.features.items() if type(f).__name__ == "Image"]
        self.columns = cols.choose(path, list(features), image=image, caption=caption, label=label, images=images)
        named = features[self.columns.label] if self.columns.label else None
        self.classes = list(getattr(named, "names", None) or [])
        self.lacks = {k: v for k, v in self.columns.lacks.items() if not (k == "caption" and self.classes)}
        image = self.columns.image
        self.data = data.cast_column(image, type(features[image])(decode=False)) if image in images else data
        if filters:
            self.data = self.data.select(self._passing(filters, features))

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, i: int) -> Example:
        row = self.data[i]
        picture = decode(self._file(row, i), self._where(i))
        captions, label = self.columns.read(row)
        if not self.columns.captions and self.classes and label is not None and 0 <= label < len(self.classes):
            captions = (self.classes[label].replace("_", " "),)
        meta = {k: v for k, v in row.items() if k != self.columns.image}
        return Example(picture, captions, label, {**meta, "file": self._where(i)})

    def size(self, i: int) -> tuple[int, int]:
        """(width, height), from the picture's header."""
        return measured(self._file(self.data[i], i), self._where(i))

    def _where(self, i: int) -> str:
        return f"{self.name}, row {i}"

    def _file(self, row: dict[str, Any], i: int) -> bytes | str:
        value = row[self.columns.image]
        if isinstance(value, dict):
            value = value.get("bytes") or value.get("path")
        if not value:
            raise Problem(f"{self._where(i)}: no picture in column {self.columns.image}")
        return value

    def _passing(self, filters: Sequence[Filter], features) -> np.ndarray:
        on_columns, on_size = cols.split_filters(self.name, list(features), filters)
        names = sorted({f.column for f in on_columns})
        rows = np.arange(len(self.data))
        if names:
            table = self.data.select_columns(names)
            rows = np.array([i for i in rows if passes(table[int(i)], on_columns)], dtype=np.int64)
        if on_size:
            rows = np.array([i for i in rows if self._fits(int(i), on_size)], dtype=np.int64)
        return rows

    def _fits(self, i: int, filters: list[Filter]) -> bool:
        try:
            width, height = self.size(i)
        except Problem:
            return True  # it will be counted and named when it is met
        return passes({"width": width, "height": height}, filters)


def _loaded(datasets, name: str, split: str, config: str):
    """One split, as a datasets.Dataset."""
    try:
        if saved_by_datasets(name):
            found = datasets.load_from_disk(str(Path(name).expanduser()))
            if isinstance(found, datasets.DatasetDict):
                if split not in found:
                    raise unknown(f"split of {name}:", split, found)
                found = found[split]
            return found
        return datasets.load_dataset(name, config or None, split=split)
    except Problem:
        raise
    except (
        Exception
    ) as error:  # datasets raises dozens of kinds: no network, no such set, no such split, wants a config
        why = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        raise Problem(f"hub:{name} cannot be had, split={split!r}: {why}") from None
