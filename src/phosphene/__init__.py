"""Phosphene: pictures out of noise. Importing this package imports neither torch nor anything else that is heavy.

picture = phosphene.generate("a smiling cat", seed=7)
fox = phosphene.edit(picture, "a smiling fox", strength=0.6, seed=7)

system = phosphene.load("emoji")                          # or a file
for preview in system.generate(["a smiling cat"], seeds=[7]):
    print(preview.index, preview.total)                   # preview.picture() decodes when called
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from phosphene.data.base import open_source
    from phosphene.errors import Problem
    from phosphene.receipt import read as read_receipt
    from phosphene.receipt import read_parameters
    from phosphene.replaying import replay
    from phosphene.request import edit, generate
    from phosphene.training.loop import train
    from phosphene.weights.bundle import describe, save
    from phosphene.weights.load import load
    from phosphene.weights.save import save_as

_HOMES = {
    "Problem": "errors:Problem",
    "describe": "weights.bundle:describe",
    "edit": "request:edit",
    "generate": "request:generate",
    "load": "weights.load:load",
    "open_source": "data.base:open_source",
    "read_parameters": "receipt:read_parameters",
    "read_receipt": "receipt:read",
    "replay": "replaying:replay",
    "save": "weights.bundle:save",
    "save_as": "weights.save:save_as",
    "train": "training.loop:train",
}

__all__ = [
    "Problem",
    "describe",
    "edit",
    "generate",
    "load",
    "open_source",
    "read_parameters",
    "read_receipt",
    "replay",
    "save",
    "save_as",
    "train",
]


def __getattr__(name: str) -> Any:
    """The names above, imported when they are first used (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"module 'phosphene' has no attribute {name!r}")
    module, _, attribute = _HOMES[name].partition(":")
    value = getattr(importlib.import_module(f"phosphene.{module}"), attribute)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
