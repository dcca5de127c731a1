"""A schedule that leaves signal at its noisy end, while sampling starts from noise alone (Lin et al. 2023).

Of a picture's mean m over N places the first x holds α·m ± σ/√N. In training that tells the mean of the picture; in
sampling it is noise alone, which the model reads as a mean near the average. With r = α·s·√N/σ, s the spread of m in
the data, the means of made pictures spread as √(1 + 2r²)/(1 + r²) of the data's: 1 where nothing is left.
"""

from __future__ import annotations

import torch

from .finding import Finding
from .patient import Patient

NAME = "nothing but noise at the noisy end"
LEAST = 0.9  # of the spread of brightness


def applies(patient: Patient) -> bool:
    return getattr(patient.system, "denoiser", None) is not None and patient.data is not None


def check(patient: Patient) -> Finding | None:
    system = patient.system
    schedule, x0 = system.denoiser.schedule, torch.cat([b.image for b in patient.prepared]).double()
    if x0.ndim != 4:
        return None
    spacing = getattr(system, "spacing", None) or schedule.spacing
    t = schedule.times(system.steps, spacing, offset=getattr(system, "offset", 0))[0]
    alpha, sigma = map(float, schedule(t))
    spread = float(x0.mean((2, 3)).std(0).max())
    r = alpha * spread * (x0.shape[2] * x0.shape[3]) ** 0.5 / sigma
    reached = (1 + 2 * r**2) ** 0.5 / (1 + r**2)
    numbers = {"alpha": alpha, "snr": (alpha / sigma) ** 2, "spread": spread, "reached": reached, "t": float(t)}
    if reached > LEAST:
        return None
    return Finding(
        f"Sampling starts at t = {float(t):.3g} from noise alone, where training still sees {alpha:.3g} of the picture "
        f"(signal-to-noise {numbers['snr']:.2g}). The data's mean brightness spreads by {spread:.2g}; what is made can "
        f"spread by {reached:.0%} of that.",
        "The model reads the brightness of the whole picture out of the first x, and finds there the brightness of "
        "noise: "
        "all pictures come out middling, none very dark or very bright.",
        "Take a schedule without signal at its end (Cosine(zero_snr=True), Flow), predicting v or flow, and spacing "
        "'trailing', which visits that end.",
        numbers,
    )
