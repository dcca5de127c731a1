"""A discriminator that says the same of everything, or is so sure that it has nothing left to learn or to teach."""

from __future__ import annotations

import torch

from ..systems.base import evaluating
from .finding import Finding
from .patient import Patient

NAME = "discriminator that learns"
TURN = "discriminator"


def applies(patient: Patient) -> bool:
    return patient.trained and patient.data is not None and TURN in patient.system.turns


def check(patient: Patient) -> Finding | None:
    system = patient.twin(patient.files.get("weights"))
    scores = torch.cat([_scores(system, batch) for batch in patient.prepared])
    gradient, numbers = _gradient(patient, system), {"score": float(scores.mean()), "spread": float(scores.std())}
    numbers |= {"gradient": gradient[0]} | gradient[1]
    said = ", ".join(f"{name} {value:.3g}" for name, value in gradient[1].items())
    if numbers["spread"] < 1e-3 * max(1.0, abs(numbers["score"])):
        return Finding(
            f"Its scores of {len(scores)} real pictures are {numbers['score']:.3g}, all within {numbers['spread']:.1g}"
            + (f" ({said})." if said else "."),
            "It is dead: it says the same of everything, and teaches the generator nothing.",
            "Lower its lr, look for saturated or dead units in it, and give it a norm; begin its turn only once the "
            "generator makes something.",
            numbers,
        )
    if gradient[0] < 1e-6:
        return Finding(
            f"On all pictures looked at its loss has a gradient of {gradient[0]:.1g} in its own weights"
            + (f" ({said})." if said else "."),
            "It is saturated: real and made are told apart so surely that it learns nothing more, and the "
            "generator cannot "
            "see which way is better.",
            "Lower its lr or its weight, give it fewer channels, or show it less (augmentation, a later start).",
            numbers,
        )
    return None


@torch.no_grad()
def _scores(system, batch) -> torch.Tensor:
    """One a picture: (B,)."""
    with evaluating(system):
        return system.discriminator(batch.image).float().flatten(1).mean(1)


def _gradient(patient: Patient, system) -> tuple[float, dict[str, float]]:
    """(the norm of its gradient over all pictures, the parts of its loss)."""
    system.zero_grad(set_to_none=True)
    parts: dict[str, float] = {}
    n = len(patient.prepared)
    with torch.random.fork_rng(devices=[]), evaluating(system):
        torch.manual_seed(0)
        for batch in patient.prepared:
            loss = system.loss(batch, TURN)
            if loss.total.requires_grad:
                (loss.total / n).backward()
            for name, value in loss.parts.items():
                parts[name] = parts.get(name, 0.0) + float(value) / n
    grads = [p.grad for p in system.turns[TURN] if p.grad is not None]
    return (float(torch.cat([g.flatten() for g in grads]).norm()) if grads else 0.0), parts
