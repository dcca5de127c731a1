"""One setting out of somebody else's configuration, of the type that it must have."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ..errors import Problem

MOST = 100_000  # of a width, a length, a number of steps: more is a mistake, and would take the memory


@contextlib.contextmanager
def read_from(what: str) -> Iterator[None]:
    """Names the file in a Problem that comes from what its settings were given to."""
    try:
        yield
    except Problem as problem:
        raise Problem(f"{what}: {problem}") from None


def whole(config: Mapping[str, Any], key: str, default: int, what: str, least: int = 1) -> int:
    """A whole number of at least `least`. Raises Problem, which names the file and the key, for anything else."""
    value = config.get(key, default)
    if type(value) is not int or not least <= value <= MOST:
        raise Problem(f"{what}: {key} is {value!r}, a whole number from {least} was expected")
    return value


def number(config: Mapping[str, Any], key: str, default: float, what: str, least: float = -math.inf) -> float:
    """A finite number of at least `least`. Raises Problem for anything else."""
    value = config.get(key, default)
    if type(value) not in (int, float) or not math.isfinite(value) or value < least:
        above = "" if least == -math.inf else f" from {least}"
        raise Problem(f"{what}: {key} is {value!r}, a number{above} was expected")
    return float(value)


def text(config: Mapping[str, Any], key: str, default: str, what: str) -> str:
    """Words. Raises Problem for anything else."""
    value = config.get(key, default)
    if not isinstance(value, str):
        raise Problem(f"{what}: {key} is {value!r}, a name was expected")
    return value


def listed(config: Mapping[str, Any], key: str, what: str) -> list[Any]:
    """A list; [] where there is none. Raises Problem for anything else."""
    value = config.get(key)
    if value is not None and not isinstance(value, list):
        raise Problem(f"{what}: {key} is {value!r}, a list was expected")
    return value or []


def place(told: Mapping[str, Any], key: str, default: Path | None = None) -> Path | None:
    """A path that is told. Raises Problem for anything else."""
    value = told.get(key, default)
    if value is not None and not (isinstance(value, (str, Path)) and str(value)):
        raise Problem(f"{key}={value!r}: a path was expected")
    return None if value is None else Path(value)
