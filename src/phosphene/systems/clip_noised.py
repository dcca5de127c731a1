"""CLIP of noisy pictures, whose gradient guides towards words (GLIDE: Nichol et al. 2021, §2.4)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from ..diffusion.guidance import LogProb
from ..diffusion.schedule import Schedule
from ..errors import Problem
from ..nets.classifier import NoisyClassifier
from ..parts import part
from ..text.encoders import TextEncoder
from ..text.prompt import bare
from .base import Batch, Prompt
from .clip import ClipSystem
from .guides import looking, noised, seen

if TYPE_CHECKING:
    from .clip import Pictures


@part
class NoisedClip(ClipSystem):
    """CLIP whose picture tower is told x_t and t: f(x_t) and g(c), both of the text encoder's width.

    image     half a U-Net that gives as many numbers as the text encoder has
    schedule  noises the pictures; a picture without noise is shown at its cleanest time
    Guided is what GLIDE writes, μ + s·Σ·∇(f(x_t)·g(c)), times the learned temperature.
    Raises Problem where the two towers are not of one width.
    """

    def __init__(self, text: TextEncoder, image: NoisyClassifier, schedule: Schedule):
        if text.width != image.classes:
            raise Problem(f"the text encoder has {text.width} numbers and the picture tower {image.classes}: as many")
        super().__init__(text, image, None, size=image.size)
        self.schedule = schedule

    def gather(self, batch: Batch, turn: str = "model") -> tuple[Tensor, ...]:
        """(image_emb, text_emb) of pictures noised up to times that the schedule draws: the loss is CLIP's."""
        return self.embed_noised(*noised(self.schedule, batch.image)), self.embed_text(batch.prompts)

    def embed_noised(self, x: Tensor, t: Tensor) -> Tensor:
        """f(x_t) of x (B, 3, size, size) at time t, 0-d or (B,): (B, width), of length 1."""
        return F.normalize(seen(self.image, self.schedule, x, t), dim=-1)

    def image_features(self, pictures: Pictures) -> Tensor:
        """Of pictures without noise, at the cleanest time there is."""
        shown = self.look(pictures).to(self.device)
        return seen(self.image, self.schedule, shown, torch.tensor(self.schedule.last, dtype=torch.float64))

    def log_prob(self, prompts: Sequence[Prompt], schedule: Schedule) -> LogProb:
        """(x, t) → exp(log_scale)·f(x_t)·g(c), (B,), of x on the sampler's schedule. Raises Problem: another size."""
        with torch.no_grad():
            towards = self.scale * self.embed_text([bare(p) if isinstance(p, str) else p for p in prompts])
        judge = lambda features: (F.normalize(features, dim=-1) * towards).sum(1)  # noqa: E731
        return looking(self.image, self.schedule, schedule, judge)

    @torch.no_grad()
    def scores(self, x: Tensor, t: Tensor, prompts: Sequence[str]) -> Tensor:
        """exp(log_scale)·f(x_t)·g(c) of each x (B, 3, size, size) at time t and each prompt: (B, prompts)."""
        return self.scale * self.embed_noised(x, t) @ self.embed_text(prompts).T
