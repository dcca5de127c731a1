"""SHA-256 of files. A large file's is remembered, so that a model of gigabytes is not read at every start for its name.

Remembered under the user's cache, in hashes.json, by the file's path, size and time of change (mtime, in nanoseconds).
A cache that cannot be read or written costs time and nothing else.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from phosphene.errors import Problem

LARGE = 2**25  # bytes: what is smaller is read in no time


def sha256(path: str | Path) -> str:
    """The 64 hexadecimal digits of a file. Raises Problem where it cannot be read."""
    try:
        path = Path(path).resolve()
        there = path.stat()
        if there.st_size < LARGE:
            return _read(path)
        known, told = _remembered(), [there.st_size, there.st_mtime_ns]
        if isinstance(line := known.get(str(path)), list) and line[:2] == told and len(line) == 3:
            return str(line[2])
        digest = _read(path)
    except OSError as error:
        raise Problem(f"{path} cannot be read: {error.strerror or error}") from None
    _remember({**known, str(path): [*told, digest]})
    return digest


def cache() -> Path:
    """The user's cache: $XDG_CACHE_HOME/phosphene or ~/.cache/phosphene."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "phosphene"


def _read(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _remembered() -> dict[str, Any]:
    try:
        known = json.loads((cache() / "hashes.json").read_text("utf-8"))
    except (OSError, ValueError, RuntimeError, RecursionError):  # RuntimeError: nobody's home
        return {}
    return known if isinstance(known, dict) else {}


def _remember(known: dict[str, Any]) -> None:
    try:
        file = cache() / "hashes.json"
        file.parent.mkdir(parents=True, exist_ok=True)
        partial = file.with_name(f".{file.name}.{os.getpid()}")
        partial.write_text(json.dumps(known, indent=0), "utf-8")
        os.replace(partial, file)
    except (OSError, RuntimeError):
        pass
