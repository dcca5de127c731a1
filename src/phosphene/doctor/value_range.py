"""Pictures in [0, 1] or 0 … 255 where the networks expect [−1, 1].

8-bit pictures betray how they were scaled: in [0, 1] all x·255 are whole numbers, in [−1, 1] all (x + 1)·127.5 are.
Where neither is so, as after a resize in floats, the least and the largest value decide.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .finding import Finding
from .patient import Patient

NAME = "range of the pictures"


def applies(patient: Patient) -> bool:
    return patient.data is not None and not patient.drawn[0].prepared


def check(patient: Patient) -> Finding | None:
    x = torch.cat([batch.image.flatten() for batch in patient.drawn]).float()
    low, high = float(x.min()), float(x.max())
    mean, n = float(x.mean()), sum(len(b.image) for b in patient.drawn)
    numbers = {"least": low, "most": high, "mean": mean, "pictures": n}
    seen = f"{n} pictures hold values from {low:.3g} to {high:.3g}, {mean:.3g} on average."
    if high > 8 and low >= -1:
        return Finding(
            seen,
            "Networks expect −1 (black) to 1 (white); these are levels of 0 to 255, beside which noise of size 1 "
            "is nothing.",
            "Give uint8 pictures as they are (Batches scales them), or x / 127.5 − 1.",
            numbers,
        )
    if low < -1.05 or high > 1.05:
        return Finding(
            seen,
            "Networks expect −1 (black) to 1 (white). Samples are clamped there, so what lies beyond can never be "
            "made.",
            "Give x / 127.5 − 1 of 8-bit levels; do not normalise by a mean and a deviation.",
            numbers,
        )
    if low >= -1e-3 and (_whole(x * 255) > 0.99 > _whole((x + 1) * 127.5) or (_loose(x) and low < 0.05)):
        return Finding(
            seen,
            "The pictures are in [0, 1]. Black is meant to be −1: half of the range is never used, the mean of the "
            "data is "
            "not near 0, and noise drowns the pictures twice as early as the schedule means.",
            "Give 2·x − 1, or uint8 pictures as they are (Batches scales them).",
            numbers,
        )
    return None


def _whole(x: Tensor) -> float:
    """The share that are whole numbers, to the rounding of float32."""
    return float(((x - x.round()).abs() < 1e-3).float().mean())


def _loose(x: Tensor) -> bool:
    """Whether these are no 8-bit levels, however scaled."""
    return _whole(x * 255) < 0.99 and _whole((x + 1) * 127.5) < 0.99
