"""survey: what a foreign checkpoint is and becomes, from its keys, shapes and configurations; no weights are read.

outline: of one that cannot be loaded as it lies there, at least what is there, and what is not.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..errors import Problem
from . import bundle, files
from .load import Found, check_told, family_of, look, remarks
from .stored import shapes_only


@dataclass(frozen=True)
class Survey:
    """What was found.

    what     the kind of checkpoint, and the part of ours that it becomes
    files    those that hold the weights
    dtypes   {dtype: how many numbers are stored in it}, the most first
    parts    (name, kind, how many numbers, arguments) of what it becomes, what it is made of first
    remarks  what nothing in it says and was assumed, a line each
    options  {name: meaning} of what may be told
    """

    path: Path
    what: str
    files: list[Path]
    dtypes: dict[str, int]
    parts: list[tuple[str, str, int, dict[str, Any]]]
    remarks: list[str]
    options: dict[str, str]


def survey(path: str | Path, told: Mapping[str, Any] | None = None) -> Survey:
    """Looks at a checkpoint of somebody else's. Raises Problem for what `load` raises it for, but damaged numbers."""
    found = look(path)
    if found is None:
        raise Problem(f"{path} is a bundle of ours, which describes itself")
    family = family_of(found)
    found.told = check_told(told or {}, family)
    with shapes_only():
        try:
            part = family.read(found, torch.float32, found.told)
        except (NotImplementedError, RuntimeError):  # it wants to see a number
            part = None
    if part is None:
        part = family.read(found, torch.float32, found.told)
    weights = _weights(found)
    name = family.__name__.rpartition(".")[2]
    what = f"{found.kind or 'a file'} of the family {name!r}, read as {type(part).__name__}"
    return Survey(found.path, what, weights, _dtypes(weights), _parts(part), remarks(found), dict(family.OPTIONS))


@dataclass(frozen=True)
class Outline:
    """What there is of a checkpoint.

    what     its kind, as its configuration has it
    files    (file, kind of what it is in, {dtype: how many numbers}) of those that hold weights
    missing  what its own list of contents names and is not there, a line each
    """

    path: Path
    what: str
    files: list[tuple[Path, str, dict[str, int]]]
    missing: list[str]


def outline(path: str | Path) -> Outline:
    """What lies at a path, whether or not it makes a whole. Raises Problem where nothing of it can be read."""
    found = look(path)
    if found is None:
        raise Problem(f"{path} is a bundle of ours, which describes itself")
    missing, parts = [], {found.path: found.kind}
    for name, named in found.config.items() if found.path.is_dir() else ():
        if not isinstance(named, list) or len(named) != 2 or not all(isinstance(n, str) for n in named):
            continue  # no part of a pipeline: [library, class]
        parts[found.path / name] = named[1]
        if not (found.path / name).is_dir():
            missing.append(f"{name}, a {named[1]}: there is no folder {found.path / name}")
    there = [(file, parts.get(file.parent, found.kind)) for file in _weights(found)]
    return Outline(found.path, found.kind or "a file", [(file, kind, _dtypes([file])) for file, kind in there], missing)


def _weights(found: Found) -> list[Path]:
    """The files of weights: of the folder and its components, the shards of an index as one."""
    if not found.path.is_dir():
        return [found.path]
    folders = [found.path, *(found.path / name for name in found.config if (found.path / name).is_dir())]
    made = []
    for folder in folders:
        try:
            made.append(files.weight_file(folder))
        except Problem:
            continue  # a tokenizer's, a scheduler's
    return made


def _dtypes(paths: list[Path]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for path in paths:
        for stored in files.open_tensors(path).stored.values():
            counts[stored.dtype] = counts.get(stored.dtype, 0) + stored.count
    return dict(sorted(counts.items(), key=lambda item: -item[1]))


def _parts(whole: Any) -> list[tuple[str, str, int, dict[str, Any]]]:
    made, counted = [], set()
    for name, part in bundle.parts_of(whole).items():
        count = 0
        for tensor in part.state_dict(keep_vars=True).values() if isinstance(part, nn.Module) else ():
            count += 0 if id(tensor) in counted else tensor.numel()
            counted.add(id(tensor))
        plain = {key: _plain(value) for key, value in part.arguments.items() if key != "table"}
        made.append((name, type(part).__name__, count, plain))
    return made


def _plain(value: Any) -> Any:
    """An argument as `inspect` prints it: parts and classes by their names."""
    if hasattr(value, "arguments"):
        return {"part": type(value).__name__}
    if isinstance(value, type):
        return {"class": value.__name__}
    return [_plain(v) for v in value] if isinstance(value, (list, tuple)) else value
