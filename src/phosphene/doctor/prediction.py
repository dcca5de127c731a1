"""Weights that predict something else than the system says: eps, v, x0 or flow.

The network is run on noised pictures, and its output compared with what it would have to be under each reading, as a
share of that target's own power. The right reading's error is clearly the smallest.
"""

from __future__ import annotations

import torch

from ..diffusion.cond import Cond
from ..diffusion.denoiser import target
from ..systems.base import evaluating
from .finding import Finding
from .patient import Patient

NAME = "what the weights predict"
READINGS = ("eps", "v", "x0", "flow")
LOGSNR = 0.0  # signal and noise are equal: far from it v is nearly eps or nearly flow


def applies(patient: Patient) -> bool:
    """To trained denoisers; edm scales the network's input too, and is taken at its word."""
    denoiser = getattr(patient.system, "denoiser", None)
    return patient.trained and patient.data is not None and getattr(denoiser, "predicts", "edm") in READINGS


@torch.no_grad()
def check(patient: Patient) -> Finding | None:
    system, errors = patient.system, dict.fromkeys(READINGS, 0.0)
    denoiser, told = system.denoiser, patient.system.denoiser.predicts
    with torch.random.fork_rng(devices=[]), evaluating(system):
        torch.manual_seed(0)
        t = denoiser.schedule.at(LOGSNR)
        for batch in patient.prepared:
            eps = torch.randn_like(batch.image)
            x = denoiser.schedule.jump(batch.image, t, eps)
            out = denoiser.output(x, t, denoiser(x, t, _cond(system, batch)).x0)
            for reading in READINGS:
                wanted = target(reading, denoiser.schedule(t), batch.image, eps)
                errors[reading] += float((out - wanted).square().mean() / wanted.square().mean())
    numbers = {reading: error / len(patient.prepared) for reading, error in errors.items()}
    best = min(numbers, key=numbers.get)
    if best == told or numbers[best] > min(
        0.5, 0.6 * numbers[told]
    ):  # of a network that predicts nothing yet, nothing is said
        return None
    listed = ", ".join(f"{reading} {error:.3g}" for reading, error in sorted(numbers.items(), key=lambda i: i[1]))
    return Finding(
        f"Read as {best}, the network errs by {numbers[best]:.3g} of the target's power; read as {told}, as the system "
        f"says, by {numbers[told]:.3g} ({listed}).",
        "Samplers turn the network's output into a picture by this reading; under the wrong one they make noise.",
        f"Set predicts={best!r} (for a checkpoint: --tell predicts={best}).",
        numbers,
    )


def _cond(system, batch) -> Cond:
    """What the system tells its denoiser in training."""
    told = []

    def listen(x0, cond=None, **how):
        told.append(cond)
        return x0.new_zeros(len(x0))

    system.denoiser.loss = listen
    try:
        system.loss(batch)
    finally:
        del system.denoiser.loss
    return told[0]
