"""How good a system is, in a number or two, while it trains: cheap, and the same question each time.

Each function makes a `Plan.score`: system -> {name: number}. None where there is nothing to ask with.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from phosphene.data.batches import Cached
from phosphene.systems.autoencoder import AutoencoderSystem, psnr
from phosphene.systems.base import System
from phosphene.systems.clip import ClipSystem

Score = Callable[[Any], dict[str, float]]


def right_objects(n: int) -> Score | None:
    """Of n prompts of one object (`scenes`), the share whose picture the exact parser reads as just that."""
    from phosphene.data.scenes import evaluate_prompts, score
    from phosphene.recipes.grids import made_of

    prompts = evaluate_prompts("single", n) if n else []
    return (lambda system: {"right": score(prompts, made_of(system, prompts)).rate}) if prompts else None


def copies(pictures: Tensor) -> Score:
    """Peak signal-to-noise ratio, in dB, of an autoencoder's copies of pictures (N, 3, H, W) in [−1, 1]."""

    def score(system: AutoencoderSystem) -> dict[str, float]:
        it = system.autoencoder
        made = torch.cat([it.decode(it.encode(part.to(system.device))).cpu() for part in pictures.split(64)])
        return {"psnr": float(psnr(made, pictures))}

    return score


def named(pictures: Tensor, said: Sequence[str], caption: str = "{}") -> Score:
    """The share of pictures (N, 3, H, W) for which, of all that is said, put into the caption, their own is nearest."""
    classes = sorted(set(said))

    def score(system: ClipSystem) -> dict[str, float]:
        texts = [caption.format(name) for name in classes]
        nearest = system.nearest(pictures.to(system.device), texts)[:, 0].tolist()
        return {"named": sum(classes[k] == own for k, own in zip(nearest, said, strict=True)) / len(said)}

    return score


def like_digits(batches: Cached, n: int = 100, seen: int = 10_000) -> Score | None:
    """Of n pictures made of the classes in turn, in 10 steps without guidance, seen at 8×8 grey pixels, no network:

    asked    the share whose nearest neighbour among the first `seen` training pictures is of the class asked for
    frechet  d² between the Gaussians of them and of those training pictures

    None where the data has no classes, or is too small for that.
    """
    from phosphene.metrics.frechet import Moments, frechet
    from phosphene.recipes.grids import made_of

    rows = [row for row in range(len(batches.table)) if row not in batches.broken][:seen]
    labels = torch.tensor([-1 if batches.labels[row] is None else batches.labels[row] for row in rows])
    if len(rows) < 10 * n or labels.min() < 0:
        return None
    thumbs = thumbnails(batches.table[rows].float() / 127.5 - 1)
    real, classes = Moments.of(thumbs), labels.unique().tolist()
    prompts = torch.tensor([classes[i % len(classes)] for i in range(n)])

    def score(system: System) -> dict[str, float]:
        made = thumbnails(made_of(system, prompts.tolist(), steps=10, guidance=1.0).cpu())
        nearest = labels[torch.cdist(made, thumbs).argmin(1)]
        return {"asked": float((nearest == prompts).double().mean()), "frechet": frechet(Moments.of(made), real)}

    return score


def thumbnails(pictures: Tensor, side: int = 8) -> Tensor:
    """Pictures (N, C, H, W) → grey, side × side pixels: (N, side²)."""
    return F.adaptive_avg_pool2d(pictures.float().clamp(-1, 1).mean(1, keepdim=True), side).flatten(1)
