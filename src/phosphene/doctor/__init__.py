"""The doctor: the usual faults of data, recipes and runs, found by measurement. One file a fault.

A fault is a module with NAME, `applies(patient) -> bool`, and `check(patient) -> Finding | None`. Adding one is adding
a file and its line in FAULTS, which is in reading order: data, captions, latents and schedule, weights, training.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from types import ModuleType

from ..errors import Problem
from . import (
    average,
    captions_empty,
    captions_shuffled,
    collapsed_clip,
    discriminator,
    dropout,
    duplicates,
    latents,
    leak,
    no_gradient,
    not_finite,
    out_of_band,
    prediction,
    rate,
    still,
    terminal,
    value_range,
)
from .finding import Finding
from .patient import Patient, of_data, of_plan, of_run

FAULTS: list[ModuleType] = [
    not_finite, value_range, duplicates, leak, captions_empty, captions_shuffled, dropout,
    latents, terminal, prediction, average, still, no_gradient, rate, discriminator, collapsed_clip,
    out_of_band,
]  # fmt: skip


@dataclass(frozen=True)
class Looked:
    """One fault that was looked for: `finding` where it is there; `unable` says why it could not be looked for."""

    name: str
    finding: Finding | None = None
    unable: str = ""


def examine(patient: Patient, faults: list[ModuleType] | None = None) -> Iterator[Looked]:
    """Looks for every fault that such a patient can have, one after the other: yields Looked."""
    for fault in FAULTS if faults is None else faults:
        try:
            if fault.applies(patient):
                yield Looked(fault.NAME, fault.check(patient))
        except Problem as problem:
            yield Looked(fault.NAME, unable=str(problem))


__all__ = ["FAULTS", "Finding", "Looked", "Patient", "examine", "of_data", "of_plan", "of_run"]
