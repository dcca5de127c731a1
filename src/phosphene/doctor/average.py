"""Averaged weights that are no average: equal to the raw ones, never moved, or lagging far behind.

Samples are made with the average. One that was never updated is the network's first weights; one that is equal to the
raw weights averages nothing; one whose window is longer than the run still remembers the start.
"""

from __future__ import annotations

from torch import Tensor

from .finding import Finding
from .patient import Patient, losses, surely

NAME = "averaged weights"


def applies(patient: Patient) -> bool:
    return bool(patient.files.get("ema") and patient.files.get("weights"))


def check(patient: Patient) -> Finding | None:
    raw, average = patient.files["weights"], patient.files["ema"]
    older, before = patient.before.get("weights", {}), patient.before.get("ema", {})
    numbers = {"off": _distance(average, raw)}
    if older:
        numbers |= {"raw moved": _distance(raw, older, average), "average moved": _distance(average, before or older)}
    if numbers.get("raw moved", 0) > 1e-5 and before and numbers["average moved"] < 1e-3 * numbers["raw moved"]:
        return Finding(
            f"Between the last two checkpoints the weights moved by {numbers['raw moved']:.2g} of their size and their "
            f"average by {numbers['average moved']:.2g}.",
            "Samples are made with the average, which stays what it was: pictures do not get better however long "
            "it runs.",
            "Update the average after each step of the optimiser; a decay of 1.0 never takes anything in.",
            numbers,
        )
    if numbers["off"] < 1e-7 and numbers.get("raw moved", 1.0) > 1e-5:
        return Finding(
            f"The averaged weights are the raw ones ({numbers['off']:.1g} of their size apart).",
            "Nothing is averaged, so samples jump from step to step with the weights.",
            "Set ema to a decay like 0.999, and hand the average its own copies of the weights.",
            numbers,
        )
    return _lags(patient, numbers)


def _lags(patient: Patient, numbers: dict) -> Finding | None:
    """The average must not be much worse than the weights that it is of."""
    if patient.system is None or patient.data is None:
        return None
    raw = losses(patient.twin(patient.files["weights"]), patient.prepared)
    mean = losses(patient.twin(patient.files["ema"]), patient.prepared)
    numbers |= {"loss raw": float(raw.mean()), "loss average": float(mean.mean())}
    if numbers["loss average"] < 1.3 * numbers["loss raw"] or surely(mean - raw) < 4:
        return None
    return Finding(
        f"With the averaged weights the loss is {numbers['loss average']:.4g}, with the raw ones "
        f"{numbers['loss raw']:.4g} "
        "on the same pictures and noise.",
        "The average remembers weights from long ago: its decay is too near to 1 for so short a run, or it was "
        "never moved.",
        "Lower ema (its window is 1/(1 − ema) steps, which should be a small part of the run), or train longer.",
        numbers,
    )


def _distance(a: dict[str, Tensor], b: dict[str, Tensor], names: dict | None = None) -> float:
    """‖a − b‖ / ‖a‖ over the tensors that both have."""
    both = [n for n in (names or a) if n in a and n in b and a[n].is_floating_point()]
    off = sum(float((a[n].float() - b[n].float()).square().sum()) for n in both)
    return (off / max(1e-30, sum(float(a[n].float().square().sum()) for n in both))) ** 0.5
