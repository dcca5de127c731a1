"""A diffusion model as the decoder: pictures from an autoencoder's latents, which a denoiser sees beside x.

An autoencoder's own decoder gives one picture, the mean of those that have this latent; this one draws one of them.
What differs from systems/upscale.py is the stand-in: E(x), each number of it repeated over its f × f pixels, in the
place of the small picture.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..diffusion.cond import Cond
from ..diffusion.denoiser import Denoiser
from ..errors import Problem
from ..nets.autoencoder import Autoencoder
from ..nets.quantize import VqAutoencoder
from ..parts import part
from .base import Preview, Prompt, frozen
from .upscale import Upscaler


@part
class DiffusionDecoder(Upscaler):
    """A denoiser of pictures of `size` pixels a side, told their latents by a frozen autoencoder. It takes no words."""

    stage = "decode"

    def __init__(
        self,
        denoiser: Denoiser,
        autoencoder: Autoencoder | VqAutoencoder,
        size: int = 32,
        sampler: str = "ddim",
        steps: int = 10,
        options: dict | None = None,
    ):
        super().__init__(denoiser, None, size, size, sampler=sampler, steps=steps, options=options)
        self.autoencoder = frozen(autoencoder)

    @torch.no_grad()
    def stand_in(self, pictures: Tensor) -> Tensor:
        """Their latents (B, c, H/f, W/f)."""
        return self.autoencoder.encode(pictures)

    def told(
        self, small: Tensor, size: tuple[int, int], z: Tensor | None = None, noised: float | Tensor | None = None
    ) -> Cond:
        """Latents (B, c, h, w), each number repeated to `size`: what the network is shown beside x."""
        return Cond(image=F.interpolate(small, size=size, mode="nearest"))

    @torch.no_grad()
    def generate(  # type: ignore[override]  # one thing more to start from
        self,
        prompts: Sequence[Prompt],
        *,
        seeds: Sequence[int],
        image: Tensor | None = None,
        latents: Tensor | None = None,
        size: tuple[int, int] | None = None,
        **how,
    ) -> Iterator[Preview]:
        """Pictures of `latents` (B or 1, c, h, w), or copies of the pictures `image` (B or 1, 3, H, W) by theirs.

        Their size is that of what is given; how: as Ddpm.generate takes it. Raises Problem without either, with both,
        and for what Ddpm.generate raises it.
        """
        if (image is None) == (latents is None):
            raise Problem("this model decodes: give it latents, or, to be copied, a picture as image")
        latents = self.stand_in(image.to(self.device, torch.float32)) if latents is None else latents
        made = (latents.shape[2] * self.autoencoder.f, latents.shape[3] * self.autoencoder.f)
        if size not in (None, made):
            raise Problem(f"size {size[0]}x{size[1]}: what is given is of {made[0]}x{made[1]} pixels")
        yield from super().generate(prompts, seeds=seeds, image=latents, size=made, **how)


@part
class ByDiffusion(nn.Module):
    """An autoencoder whose decoder is a diffusion model, for a Latent system: `decode` runs `decoder`'s sampler.

    A latent has one picture: its noise is that of the seed `seed`, whatever else is in the batch.
    """

    def __init__(self, decoder: DiffusionDecoder, seed: int = 0):
        super().__init__()
        self.decoder, self.seed = decoder, seed
        self.f, self.channels = decoder.autoencoder.f, decoder.autoencoder.channels

    def encode(self, x: Tensor, draw: bool | Tensor = False) -> Tensor:
        """Pictures → latents, by the autoencoder."""
        return self.decoder.autoencoder.encode(x, draw)

    def decode(self, z: Tensor) -> Tensor:
        """Latents → pictures, by the diffusion model."""
        *_, last = self.decoder.generate([None] * len(z), seeds=[self.seed] * len(z), latents=z)
        return last.picture()
