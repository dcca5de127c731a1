"""A learning rate that is too high, as after scaling it for the batch or the number of processes, or too low.

Measured: a few steps from the run's own weights at its highest rate; where the loss rises, or the log's never fell, at
quarters of it too until that helps, and at four times it; each judged on the same pictures at the same t and noise. And
what the settings say: AdamW moves a weight by at most the rate a step,
so the sum of all rates is the farthest that a weight can go.
"""

from __future__ import annotations

import math
import statistics

from .finding import Finding
from .patient import Patient
from .probe import Probe, noise, probe

NAME = "learning rate"
RISE = 1.0  # of the loss in a few steps: sound runs rise by up to 0.43 when their highest rate comes back at the end
REACH = 0.25  # of the weights' own size


def applies(patient: Patient) -> bool:
    return patient.system is not None and patient.data is not None and patient.settings is not None


def check(patient: Patient) -> Finding | None:
    settings = patient.settings
    reach, size = _reach(patient), _size(patient)
    batch = getattr(patient.data, "batch", 0) * getattr(patient.data, "slots", 1)
    top = max(settings.lr.values()) if isinstance(settings.lr, dict) else settings.lr
    numbers = {"lr": top, "batch": batch, "reach": reach, "size": size}
    if reach < REACH * size:
        return Finding(
            f"All {settings.steps:,} steps together can move a weight by {reach:.2g} at most (the sum of their "
            "rates; the "
            f"highest is {top:.2g}); the weights are {size:.2g} large.",
            "A network whose weights cannot go a quarter of their own size stays about what it was at first.",
            f"Raise lr to about {min(3e-3, top * 5 * size / reach):.1g}, or train longer. AdamW's rate needs no "
            "division by the "
            "number of processes or slots: the gradient is their mean already.",
            numbers,
        )
    tried = {1.0: probe(patient, 1.0)}
    if not _rises(tried[1.0]) and not _stuck(patient):
        return None
    for factor in (1 / 4, 1 / 16, 1 / 64, 1 / 256):
        tried[factor] = probe(patient, factor)
        if not _rises(tried[factor]) and _better(tried[factor], tried[1.0]):
            break
    else:
        return None  # not the rate's fault
    tried[4.0] = probe(patient, 4.0)
    numbers |= {f"change at {f:g}·lr": p.rise for f, p in sorted(tried.items())} | {"noise": noise(patient)}
    changes = ", ".join(f"{_said(p.rise)} at {f:g}·lr" for f, p in sorted(tried.items()))
    gains = f"; gradients stop gaining from larger ones at about {numbers['noise']:.0f}" if numbers["noise"] > 1 else ""
    return Finding(
        f"In {tried[1.0].steps} steps at lr = {top:.2g} the loss changes by {_said(tried[1.0].rise)} on the same "
        "pictures "
        f"and noise ({changes}); at {min(tried):g}·lr it ends lower.",
        f"The rate is so high that a step leaps over what it should go down to. The batch of a step is {batch}{gains}.",
        f"Set lr to {min(tried) * top:.1g} or below. If it was multiplied by the batch or the number of processes, "
        "do not: "
        "AdamW's rate grows with the square root of the batch at most, and sharing slots among processes changes "
        "nothing.",
        numbers,
    )


def _rises(tried: Probe) -> bool:
    return not math.isfinite(tried.rise) or tried.rise > RISE


def _better(slow: Probe, fast: Probe) -> bool:
    """Whether the slower steps end clearly lower: than faster ones that diverge; where those do not, than before."""
    if _rises(fast):
        return True
    return slow.rise < -0.2 and float(slow.after.mean()) < 0.7 * float(fast.after.mean())


def _stuck(patient: Patient) -> bool:
    """Whether the log's loss has hardly fallen."""
    lost = [line["loss"] for line in patient.lines if "loss" in line]
    k = max(1, len(lost) // 8)
    return len(lost) > 4 and statistics.median(lost[-k:]) > 0.9 * statistics.median(lost[:k])


def _said(rise: float) -> str:
    return f"{rise:+.0%}" if math.isfinite(rise) else "more than can be counted"


def _reach(patient: Patient) -> float:
    settings = patient.settings
    return max(
        sum(settings.rate(step, turn) for step in range(0, settings.steps, every)) * every
        for turn in patient.system.turns
        for every in [max(1, settings.steps // 1000)]
    )


def _size(patient: Patient) -> float:
    """The root mean square of the trained matrices and kernels that are not zero."""
    matrices = [p.detach().float() for p in patient.parameters.values() if p.ndim > 1 and p.any()]
    total = sum(float(p.square().sum()) for p in matrices)
    return math.sqrt(total / max(1, sum(p.numel() for p in matrices)))
