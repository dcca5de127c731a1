"""What is on a system, and comes off again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from ..errors import Problem
from ..hashes import sha256


def worn(system: nn.Module) -> list[Worn]:
    """What is on a system, the first that was put on first."""
    return list(system.__dict__.setdefault("worn", []))


class Worn:
    """Something that is on a system until `remove`; in a `with` statement, until its end.

    name      what it is called; nothing else of its kind is, on one system
    strength  how much of it is added: 1 as it was made, 0 nothing
    """

    kind: str
    strength: float = 1.0

    def put(self, system: nn.Module, name: str, path: Path | None) -> None:
        """Puts it on. Raises Problem where something of this kind and name, or of the same file, is on already."""
        self.name, self.path, self.sha256 = name, path, None if path is None else sha256(path)
        for other in worn(system):
            if (other.kind, other.name) == (self.kind, name) or (path is not None and other.sha256 == self.sha256):
                raise Problem(f"{path or name} is on already, as {other.name!r}: set its strength, or remove it first")
        self._on(system)
        self._beside: list[Worn] = system.__dict__["worn"]
        self._beside.append(self)

    def remove(self) -> None:
        """Takes it off; a second time does nothing."""
        if self in self._beside:
            self._off()
            self._beside.remove(self)

    def _on(self, system: nn.Module) -> None:
        raise NotImplementedError

    def _off(self) -> None:
        raise NotImplementedError

    @property
    def record(self) -> dict[str, Any]:
        """What a receipt says of it."""
        return {"kind": self.kind, "name": self.name, "sha256": self.sha256, "strength": self.strength}

    def __enter__(self):
        return self

    def __exit__(self, *_: object) -> None:
        self.remove()
