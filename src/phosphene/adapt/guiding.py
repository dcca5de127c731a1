"""Guides on a system: classifiers and CLIPs of noisy pictures, which steer what it makes towards its prompts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from ..errors import Problem
from ..systems.base import frozen
from ..systems.classifier import guide_of
from ..systems.guides import Guide
from ..weights import bundle
from ..weights.load import load
from .worn import Worn


class Guiding(Worn):
    """A guide on a system; `strength` is its scale, 0 is none."""

    kind = "guide"

    def __init__(self, guide: Guide, strength: float = 1.0):
        self.guide, self.strength = guide, strength

    def _on(self, system: nn.Module) -> None:
        self.guides = system.guides
        self.guides.append(self)

    def _off(self) -> None:
        self.guides.remove(self)


def guide(system: nn.Module, file: str | Path, strength: float = 1.0, **told: Any) -> Guiding:
    """Puts on the guide in a file or a run's folder: a Classifier, a NoisedClip, or a classifier of ADM's.

    told  what a checkpoint does not say, as `phosphene.load` is told it
    Raises Problem where the file holds none, or where the system is not one that guides steer.
    """
    if not isinstance(getattr(system, "guides", None), list):
        raise Problem(f"guides steer diffusion; a {type(system).__name__} takes none")
    path = bundle.find(file)
    loaded = frozen(guide_of(load(path, **told), system.denoiser.schedule, str(file))).to(system.device)
    on = Guiding(loaded, strength)
    on.put(system, path.parent.name if path.name == "model.safetensors" else path.stem, path)
    return on
