"""Upscaling by diffusion: a denoiser that is shown the small picture, enlarged, beside x.

SR3 (Saharia et al. 2021); Nichol & Dhariwal's upsamplers (2021, §5); the second stage of GLIDE and of every cascade.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..diffusion.cond import Cond
from ..diffusion.denoiser import Denoiser
from ..errors import Problem
from ..parts import part
from .base import Batch, Loss, Preview, Prompt
from .ddpm import Ddpm


@part
class Upscaler(Ddpm):
    """A denoiser of pictures of `size` pixels a side, told of the same picture at `small` pixels a side."""

    stage = "upscale"

    def __init__(
        self,
        denoiser: Denoiser,
        encoder: nn.Module | None = None,
        size: int = 256,
        small: int = 64,
        channels: int = 3,
        sampler: str = "ddpm",
        spacing: str | None = None,
        steps: int = 250,
        guidance: float = 1.0,
        options: dict | None = None,
    ):
        super().__init__(denoiser, encoder, size, channels, sampler, spacing, steps, guidance, options=options)
        self.small = small

    def loss(self, batch: Batch, turn: str = "model") -> Loss:
        """Algorithm 1, the small picture being the mean of the large one's pixels."""
        small = F.interpolate(batch.image, size=(self.small, self.small), mode="area")
        cond = self.encoder(batch.prompts).merged(self.told(small, tuple(batch.image.shape[2:])))
        total = self.denoiser.loss(batch.image, cond, where=batch.weight).mean()
        return Loss(total, {"loss": total.detach()})

    def told(self, small: Tensor, size: tuple[int, int]) -> Cond:
        """Small pictures (B, 3, h, w) in [−1, 1], bilinearly enlarged to `size`: what the network is shown beside x."""
        return Cond(image=F.interpolate(self.encode(small), size=size, mode="bilinear"))

    @torch.no_grad()
    def generate(
        self,
        prompts: Sequence[Prompt],
        *,
        seeds: Sequence[int],
        image: Tensor | None = None,
        size: tuple[int, int] | None = None,
        **how,
    ) -> Iterator[Preview]:
        """Larger pictures, a Preview a step. image (B or 1, 3, h, w) in [−1, 1]: the small ones, one a prompt or one.

        size (height, width) is that of what is made; None is the trained size. how: as Ddpm.generate takes it.
        Raises Problem without a picture, and for what Ddpm.generate raises it.
        """
        if image is None:
            raise Problem(f"this model makes a small picture, of {self.small} pixels a side, larger: give it as image")
        if len(seeds) != len(prompts) or not prompts:
            raise Problem(f"{len(prompts)} prompts, {len(seeds)} seeds: as many of one as of the other, at least one")
        size = size or (self.size, self.size)
        self._inside(size)
        beside = self.told(image.to(self.device, torch.float32), size).expand(len(prompts))
        yield from self._run(prompts, seeds, self.stage, None, size=size, beside=beside, **how)
