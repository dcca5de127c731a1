"""Latents whose variance is not 1: a schedule's noise is meant for data of about that size."""

from __future__ import annotations

import torch

from .finding import Finding
from .patient import Patient

NAME = "latents of unit variance"


def applies(patient: Patient) -> bool:
    """To latent diffusion; to an autoencoder once it is trained, when its scale has been measured."""
    has = getattr(patient.system, "autoencoder", None) is not None and patient.data is not None
    return has and (patient.trained or hasattr(patient.system, "denoiser"))


@torch.no_grad()
def check(patient: Patient) -> Finding | None:
    autoencoder = patient.system.autoencoder
    z = torch.cat(
        [b.image if b.prepared else autoencoder.encode(b.image.to(patient.system.device)) for b in patient.drawn]
    )
    std, mean = float(z.std()), float(z.mean())
    numbers = {"std": std, "mean": mean, "latents": len(z)}
    if 0.7 < std < 1.4 and abs(mean) < 0.5:
        return None
    return Finding(
        f"The latents of {len(z)} pictures have a standard deviation of {std:.3g} and a mean of {mean:+.2g}.",
        "The schedule's noise is meant for data of standard deviation 1 about 0: larger latents are never wholly "
        "drowned "
        "in noise, smaller ones almost at once, and the steps in between are wasted.",
        f"Multiply the autoencoder's scale by {1 / max(std, 1e-9):.3g}: autoencoder.measure(pictures) sets shift "
        "and scale.",
        numbers,
    )
