"""Weights that do not move from one checkpoint to the next, and so a loss that stays."""

from __future__ import annotations

import statistics

from .finding import Finding
from .no_gradient import _named
from .patient import Patient

NAME = "weights that move"
SHARE = 0.01


def applies(patient: Patient) -> bool:
    return bool(patient.files.get("weights") and patient.before.get("weights"))


def check(patient: Patient) -> Finding | None:
    now, before = patient.files["weights"], patient.before["weights"]
    names = [
        n
        for n, t in now.items()
        if t.is_floating_point() and n in before and (not _known(patient) or n in _known(patient))
    ]
    still = [n for n in names if now[n].equal(before[n])]
    share = sum(now[n].numel() for n in still) / max(1, sum(now[n].numel() for n in names))
    if share < SHARE:
        return None
    steps = [path.name.rpartition("-")[2] for path in patient.checkpoints[1::-1]]
    return Finding(
        f"Between steps {steps[0]} and {steps[1]} {len(still)} of {len(names)} trained tensors, {share:.1%} of the "
        "numbers, "
        f"did not change in a single bit: {_named(still)}.{_loss(patient)}",
        "They are among what is trained, and are not trained.",
        "Look whether they get a gradient (requires_grad, detach, no_grad), are in the optimiser, and have a rate "
        "above 0.",
        {"tensors": len(still), "share": share},
    )


def _known(patient: Patient) -> dict:
    return {} if patient.system is None else patient.parameters


def _loss(patient: Patient) -> str:
    lines = [line["loss"] for line in patient.lines if "loss" in line]
    if len(lines) < 8:
        return ""
    first, last = (statistics.median(part) for part in (lines[: len(lines) // 4], lines[-len(lines) // 4 :]))
    return f" The loss was {first:.4g} in the first quarter of the log and {last:.4g} in the last."
