"""Latent diffusion: DDPM on the latents of an autoencoder, told words by cross-attention (Rombach et al. 2022).

E‖ε − ε_θ(z_t, t, τ_θ(y))‖², z = E(x): equation 3 there, with whatever the denoiser predicts in the place of ε.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..diffusion.denoiser import Denoiser
from ..nets.autoencoder import Autoencoder
from ..parts import part
from ..text.vocabulary import Vocabulary
from .base import Batch, frozen
from .ddpm import Ddpm


@part
class Latent(Ddpm):
    """A text encoder, a denoiser of latents, and a frozen autoencoder. `size` is that of the pictures."""

    def __init__(
        self,
        denoiser: Denoiser,
        autoencoder: Autoencoder,
        encoder: nn.Module,
        size: int = 64,
        sampler: str = "dpmpp_2m",
        spacing: str | None = None,
        steps: int = 25,
        guidance: float = 3.0,
        vocabulary: Vocabulary | None = None,
        offset: int = 0,
        end: float = 0.0,
        options: dict | None = None,
    ):
        channels = autoencoder.channels
        base = denoiser, encoder, size, channels, sampler, spacing, steps, guidance, offset, end
        super().__init__(*base, options=options, bound=None)  # latents have no end
        self.autoencoder, self.vocabulary = frozen(autoencoder), vocabulary
        self.factor = autoencoder.f

    @torch.no_grad()
    def prepare(self, batch: Batch) -> Batch:
        """Pictures → latents: the posterior's mean."""
        latents = self.autoencoder.encode(batch.image)
        return Batch(latents, batch.prompts, batch.index, batch.weight, prepared=True)

    def knows(self, prompt: str) -> tuple[bool, str]:
        """Whether the vocabulary covers a prompt, and the entry nearest to it; (True, "") without a vocabulary."""
        return (True, "") if self.vocabulary is None else self.vocabulary(prompt)

    def encode(self, pictures: Tensor, z: Tensor | None = None) -> Tensor:
        """Pictures → latents: the posterior's mean, or with z its draw mean + σ·z."""
        return self.autoencoder.encode(pictures, draw=False if z is None else z)

    def decode(self, x: Tensor) -> Tensor:
        return self.autoencoder.decode(x).clamp(-1, 1)
