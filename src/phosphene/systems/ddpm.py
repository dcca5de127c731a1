"""DDPM: diffusion of pictures, unconditional or told a class (Ho et al. 2020; Ho & Salimans 2022 for the guidance).

Also what latent diffusion stands on: there x is a latent, and a decoder comes after it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from ..diffusion.cond import Cond
from ..diffusion.denoiser import Denoise, Denoiser
from ..diffusion.guidance import clamp, classifier_free
from ..diffusion.noise import Plain
from ..diffusion.samplers import Step, sample, start
from ..errors import Problem
from ..parts import part
from ..text.encoders import NoEncoder
from .base import Batch, Loss, Preview, Prompt, System


@part
class Ddpm(System):
    """A denoiser of pictures (channels, size, size), told what `encoder` makes of the prompts (None: nothing).

    sampler, spacing, steps, guidance   what `generate` uses unless it is told otherwise
    """

    stage = "base"
    factor = 1  # pixels a side for one number of x
    bound: float | None = 1.0  # pictures end at ±1

    def __init__(
        self,
        denoiser: Denoiser,
        encoder: nn.Module | None = None,
        size: int = 32,
        channels: int = 3,
        sampler: str = "ddpm",
        spacing: str | None = None,
        steps: int = 250,
        guidance: float = 1.0,
    ):
        super().__init__()
        self.denoiser = denoiser
        self.encoder = NoEncoder() if encoder is None else encoder
        self.size, self.channels = size, channels
        self.sampler, self.spacing, self.steps, self.guidance = sampler, spacing, steps, guidance

    def decode(self, x: Tensor) -> Tensor:
        """x → pictures (B, 3, H, W) in [−1, 1]; grey ones are given three equal channels."""
        return x.expand(-1, 3, -1, -1).clamp(-1, 1) if x.shape[1] == 1 else x.clamp(-1, 1)

    def loss(self, batch: Batch, turn: str = "model") -> Loss:
        """Algorithm 1: the mean of the denoiser's loss over the batch."""
        cond = self.encoder(batch.prompts)
        total = self.denoiser.loss(batch.image, cond, where=batch.weight).mean()
        return Loss(total, {"loss": total.detach()})

    @torch.no_grad()
    def generate(
        self,
        prompts: Sequence[Prompt],
        *,
        seeds: Sequence[int],
        steps: int | None = None,
        guidance: float | None = None,
        sampler: str | None = None,
        size: tuple[int, int] | None = None,
        spacing: str | None = None,
        negative: Sequence[Prompt] | None = None,
        rescale: float = 0.0,
        interval: tuple[float, float] | None = None,
        **options,
    ) -> Iterator[Preview]:
        """Pictures for the prompts, a Preview a step; a picture depends on its seed, not on the batch it is in.

        size      (height, width) in pixels; None is the trained size
        negative  prompts to move away from, one a picture, in the place of the null prompt
        rescale, interval   of classifier-free guidance (diffusion/guidance.py)
        options   the sampler's own, such as eta
        Raises Problem: as many seeds as prompts are wanted; for a size that does not fit; for unknown names.
        """
        if len(seeds) != len(prompts) or not prompts:
            raise Problem(f"{len(prompts)} prompts, {len(seeds)} seeds: as many of one as of the other, at least one")
        steps = self.steps if steps is None else steps
        schedule = self.denoiser.schedule
        times = schedule.times(steps, spacing or self.spacing)
        noise = Plain((self.channels, *self._inside(size)), seeds, self.stage, self.device)
        guidance = self.guidance if guidance is None else guidance
        denoise = self._guided(prompts, negative, guidance, rescale=rescale, interval=interval)
        x = start(noise.start(), times[0], schedule)
        for step in sample(sampler or self.sampler, denoise, x, times, schedule, noise=noise, **options):
            yield Preview(self.stage, step.index, len(times) - 1, self._picture(step, len(times) - 1))

    def _guided(self, prompts: Sequence[Prompt], negative, guidance: float, **how) -> Denoise:
        cond: Cond = self.encoder(list(prompts))
        null = self.encoder(list(negative) if negative is not None else [None] * len(prompts))
        denoise = classifier_free(self.denoiser, [(cond, guidance)], null, **how)
        return denoise if self.bound is None else clamp(denoise, self.bound)

    def _picture(self, step: Step, total: int):
        """The guess of the picture; at the end, where x stands at the clean end, x itself."""
        x = step.x if step.index == total - 1 else step.x0
        return torch.no_grad()(lambda: self.decode(x))

    def _inside(self, size: tuple[int, int] | None) -> tuple[int, int]:
        """The size of x for pictures of `size` pixels."""
        height, width = size or (self.size, self.size)
        multiple = self.factor * self.denoiser.net.multiple
        if height % multiple or width % multiple or min(height, width) < multiple:
            raise Problem(f"size {height}x{width}: both sides must be multiples of {multiple} pixels here")
        return height // self.factor, width // self.factor
