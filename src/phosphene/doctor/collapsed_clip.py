"""A CLIP whose embeddings are all alike, or which learned nothing while its temperature went to the bound."""

from __future__ import annotations

import torch

from ..systems.base import evaluating
from .finding import Finding
from .patient import Patient

NAME = "embeddings that differ"
ALIKE = 0.98  # mean cosine of two pictures', or two texts', embeddings
BOUND = 99.9  # CLIP's scale is at most 100


def applies(patient: Patient) -> bool:
    embeds = hasattr(patient.system, "embed_image") and hasattr(patient.system, "embed_text")
    return patient.trained and patient.told and embeds


@torch.no_grad()
def check(patient: Patient) -> Finding | None:
    system = patient.system
    with evaluating(system):
        images = torch.cat([system.embed_image(b.image) for b in patient.prepared])
        prompts = [p for b in patient.prepared for p in b.prompts]
        texts = torch.cat([system.embed_text(prompts[i : i + 32]) for i in range(0, len(prompts), 32)])
    distinct = [prompts.index(p) for p in dict.fromkeys(prompts)]
    looks, says = _alike(images), _alike(texts[distinct])
    right, chance = _right(images, texts, prompts)
    scale = float(system.scale)
    numbers = {"images": looks, "texts": says, "right": right, "chance": chance, "scale": scale}
    seen = (
        f"Embeddings of {len(images)} pictures have a mean cosine of {looks:.3f}, of {len(distinct)} captions "
        f"{says:.3f}; "
        f"the nearest caption is the picture's own for {right:.1%} (chance {chance:.1%}); the scale is {scale:.3g}."
    )
    if max(looks, says) > ALIKE:
        return Finding(
            seen,
            "Everything is embedded at nearly the same place: the towers have collapsed and tell nothing apart.",
            "Lower lr or warm up longer, enlarge the batch, keep weight decay off gains and offsets, and look "
            "whether the "
            "captions differ.",
            numbers,
        )
    if scale > BOUND and right < 3 * chance:
        return Finding(
            seen,
            "The temperature went to its bound though the pairs are not told apart: the loss was lowered by "
            "sharpening noise.",
            "Lower lr (of log_scale above all), and look whether captions belong to their pictures.",
            numbers,
        )
    return None


def _alike(rows: torch.Tensor) -> float:
    """The mean cosine of two different rows."""
    n = len(rows)
    return float((rows.detach().sum(0).square().sum() - n) / max(1, n * (n - 1))) if n > 1 else 0.0


def _right(images: torch.Tensor, texts: torch.Tensor, prompts: list) -> tuple[float, float]:
    nearest = (images @ texts.T).argmax(1).tolist()
    n = len(prompts)
    right = sum(prompts[k] == prompts[i] for i, k in enumerate(nearest)) / n
    return right, sum(prompts.count(p) for p in prompts) / n**2
