"""VQ-VAE: an autoencoder whose latents are entries of a codebook (van den Oord et al. 2017; Esser et al. 2021, VQGAN).

What differs from systems/autoencoder.py: no posterior and no KL; the codebook is learned with the rest, and entries
that nothing is coded by are taken away from where they are and put where they are wanted.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..nets.autoencoder import Coded, PatchDiscriminator
from ..nets.quantize import VqAutoencoder
from ..parts import part
from .autoencoder import AutoencoderSystem

MEMORY = 0.95  # of the running share of steps in which an entry is used
DEAD = 0.1  # an entry of a smaller share is dead: one that is never used is so after 45 steps


@part
class VqSystem(AutoencoderSystem):
    """Trains a VqAutoencoder; `codebook` weighs what its `code` costs, `adversarial` the discriminator's part."""

    indivisible = "dead entries of the codebook are replaced once a step, from all of its pictures"
    usage: Tensor

    def __init__(
        self,
        autoencoder: VqAutoencoder,
        discriminator: PatchDiscriminator | None = None,
        codebook: float = 1.0,
        adversarial: float = 0.1,
    ):
        super().__init__(autoencoder, discriminator, kl=codebook, adversarial=adversarial)
        self.register_buffer("usage", torch.zeros(len(autoencoder.codebook)))  # all dead: they begin where data is

    def code(self, x: Tensor) -> Coded:
        z = self.autoencoder.raw(x)
        if self.training:
            self._revive(z.detach())
        return self.autoencoder.coded(z)

    @torch.no_grad()
    def _revive(self, z: Tensor) -> None:
        """Counts the entries' use, and puts dead ones on places of z (B, C, h, w) that are far from every entry.

        Places are drawn in proportion to their squared distance from the nearest entry (as k-means++ draws its means).
        """
        book = self.autoencoder.codebook
        dead = (self.usage < DEAD).nonzero()[:, 0]
        if len(dead):
            places = z.movedim(1, -1).flatten(0, -2)  # (B·h·w, C)
            alive = book[self.usage >= DEAD] if len(dead) < len(book) else places.mean(0, keepdim=True)
            far = torch.cdist(places, alive).amin(1).square() + 1e-9
            book[dead] = places[far.multinomial(len(dead), replacement=True)]
            self.usage[dead] = 1.0
        used = self.autoencoder.nearest(z).flatten().bincount(minlength=len(book)) > 0
        self.usage.mul_(MEMORY).add_(used, alpha=1 - MEMORY)
