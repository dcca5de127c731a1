"""load: a bundle of ours or a checkpoint of somebody else's, recognised by its content.

A family is a module of this room with two functions: `claims(found)` says whether what was found is its, looking at keys
and configurations only, and `read(found, dtype, told)` makes a part of ours of it. What a file does not say is
`told` by the caller, else read from the yaml or json beside it, else a documented default that `found.assume` notes.
"""

from __future__ import annotations

import importlib
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from ..errors import Problem
from . import bundle, files

# In this order: the first that claims what was found reads it.
FAMILIES: list[str] = []


@dataclass
class Found:
    """What lies at a path: a folder with its json files, or a file of tensors.

    config   model_index.json or config.json of a folder, else the json or yaml beside a file, else {}
    tensors  of a file; None for a folder
    assumed  what nothing said, and what was taken: filled by `assume`
    """

    path: Path
    config: dict[str, Any] = field(default_factory=dict)
    tensors: files.Tensors | None = None
    assumed: dict[str, Any] = field(default_factory=dict)

    def has(self, *keys: str) -> bool:
        """Whether the file has all of these tensors."""
        return self.tensors is not None and all(key in self.tensors.shapes for key in keys)

    def assume(self, name: str, value: Any) -> Any:
        """`value`, noted: the user is told what was taken and how to say otherwise."""
        self.assumed[name] = value
        return value


def load(path_or_name: str | Path, dtype: torch.dtype | None = None, **told: Any) -> Any:
    """The system, or part, in a bundle, a file or a folder: ours or one of the FAMILIES; on the CPU, in eval mode.

    dtype  of the denoisers' networks; None is float32
    told   what the file does not say, such as predicts="v"; an option that the family does not know is a Problem
    Raises Problem, one line, for whatever is wrong with the file.
    """
    found = look(path_or_name)
    if found is None:
        return bundle.load(path_or_name, dtype)
    family = family_of(found)
    part = family.read(found, dtype or torch.float32, told)
    for name, value in found.assumed.items():
        warnings.warn(f"{found.path.name} does not say {name}; taken: {value} ({name}=… says otherwise)", stacklevel=2)
    return part


def family_of(found: Found) -> Any:
    """The module that claims what was found. Raises Problem where none does."""
    for name in FAMILIES:
        family = importlib.import_module(f"phosphene.weights.{name}")
        if family.claims(found):
            return family
    raise Problem(f"{found.path} is a checkpoint of no kind that is known here")
