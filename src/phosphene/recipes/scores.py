"""How good a system is, in a number or two, while it trains: cheap, and the same question each time.

Each function makes a `Plan.score`: system -> {name: number}. None where there is nothing to ask with.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from phosphene.systems.autoencoder import AutoencoderSystem, psnr
from phosphene.systems.base import System
from phosphene.systems.clip import ClipSystem

Score = Callable[[System], dict[str, float]]


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
