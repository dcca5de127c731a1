"""Imagen's super-resolution stages (Saharia et al. 2022, §2.4): Upscalers told how noisy their small picture is.

The rest of Imagen is here already: a frozen text encoder whose states are pooled into the time and attended to
(text/deepfloyd.IfEncoder), the dynamic threshold (diffusion/guidance.py), a base that is a Ddpm, and Cascade.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ..diffusion.cond import Cond
from ..errors import Problem
from ..parts import part
from .base import Batch, Preview, Prompt
from .upscale import Upscaler


@part
class ImagenUpscaler(Upscaler):
    """An Upscaler with noise-conditioning augmentation: it learns every level of noise on the small picture.

    A level is a time t of the schedule. In training it is drawn for each picture, as times are, the enlarged small
    picture becomes α_t·c + σ_t·ε, and the encoder tells the network t. So one may choose at sampling how far the small
    picture is to be believed: at 0 to its pixels, where also its faults are kept; at 1 not at all.

    noised    the level at sampling, unless `generate` is told another
    encoder   an IfEncoder that tells levels
    """

    @property
    def stage(self) -> str:  # type: ignore[override]
        """Of its size, as a cascade has several: each with its own noise."""
        return f"upscale to {self.size}"

    def cond(self, batch: Batch) -> Cond:
        """The prompts, and the small picture, each at a level of its own, and that level."""
        schedule, size = self.denoiser.schedule, batch.image.shape[2:]
        levels = schedule.draw(len(batch.image))
        told = self.told(self.stand_in(batch.image), (size[0], size[1]), noised=levels)
        return self.encoder(batch.prompts, level=schedule.c_noise(levels)).merged(told)

    def generate(  # type: ignore[override]  # as Upscaler's
        self, prompts: Sequence[Prompt], *, seeds: Sequence[int], level: float | None = None, **how
    ) -> Iterator[Preview]:
        """Larger pictures, as Upscaler.generate makes them. level from 0 to 1: of the noise on the small ones."""
        level = self.noised if level is None else level
        if not 0 <= level <= 1:
            raise Problem(f"level={level}: from 0, the small picture as it is, to 1, nothing of it")
        told = self.encoder.at(float(self.denoiser.schedule.c_noise(level)))
        yield from super().generate(prompts, seeds=seeds, noised=level, encoder=told, **how)
