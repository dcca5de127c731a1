"""Autoencoders with a codebook: each place of what the decoder sees is one of a few vectors (van den Oord et al. 2017).

Latent diffusion runs before the codebook: `encode` gives the encoder's own numbers, and `decode` takes each place to
its nearest entry first (Rombach et al. 2022, §3.1: the quantisation is a layer of the decoder).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..parts import part
from .autoencoder import Coded

COMMITMENT = 0.25  # β of the paper


@part
class VqAutoencoder(nn.Module):
    """An encoder to `channels` numbers a place, a codebook of `entries` vectors, a decoder.

    between   channels that the encoder gives and the decoder takes, before and behind 1×1 convolutions; None: the same
    scale     what leaves `encode` is so many times the encoder's numbers
    """

    def __init__(
        self,
        encoder: nn.Module,
        decoder: nn.Module,
        channels: int,
        f: int,
        entries: int,
        between: int | None = None,
        scale: float = 1.0,
    ):
        super().__init__()
        self.encoder, self.decoder = encoder, decoder
        self.channels, self.f, self.scale = channels, f, scale
        between = between or channels
        self.mix, self.unmix = nn.Conv2d(between, channels, 1), nn.Conv2d(channels, between, 1)
        self.codebook = nn.Parameter((2 * torch.rand(entries, channels) - 1) / entries)

    def encode(self, x: Tensor, draw: bool | Tensor = False) -> Tensor:
        """Pictures (B, 3, H, W) → latents (B, channels, H/f, W/f), not yet quantised. There is nothing to `draw`."""
        if x.shape[-1] % self.f or x.shape[-2] % self.f:
            raise ValueError(f"height and width must divide by {self.f}, and are {x.shape[-2]}×{x.shape[-1]}")
        return self.raw(x) * self.scale

    def raw(self, x: Tensor) -> Tensor:
        """Pictures → the encoder's own numbers, (B, channels, H/f, W/f)."""
        return self.mix(self.encoder(x)).float()

    def code(self, x: Tensor) -> Coded:
        """The nearest entries e of what the encoder gives, z; for the gradient they are z itself ("straight through").

        They cost ‖sg[z] − e‖² + ¼·‖z − sg[e]‖² (van den Oord et al. 2017, equation 3): the entries come to what is
        coded by them, and the encoder commits itself to its entries. The log hears of the share of entries in use.
        """
        return self.coded(self.raw(x))

    def coded(self, z: Tensor) -> Coded:
        """`code` of what the encoder gave."""
        which = self.nearest(z)
        e = self.codebook[which].movedim(-1, 1)
        cost = F.mse_loss(e, z.detach()) + COMMITMENT * F.mse_loss(z, e.detach())
        used = which.unique().numel() / len(self.codebook)
        return Coded(z + (e - z).detach(), cost, {"codebook": cost.detach(), "used": z.new_tensor(used)})

    @torch.no_grad()
    def measure(self, pictures: Tensor) -> None:
        """Set the scale, so that what leaves `encode` has unit power, from `pictures`."""
        power = torch.cat([self.raw(part) for part in pictures.split(64)]).square().mean()
        self.scale = self.arguments["scale"] = float(power.clamp(min=1e-12).rsqrt())

    def nearest(self, raw: Tensor) -> Tensor:
        """The nearest entry of each place by Euclidean distance: raw latents (B, C, h, w) → indices (B, h, w)."""
        places = raw.movedim(1, -1)  # (B, h, w, C)
        return torch.cdist(places.flatten(1, 2), self.codebook.to(raw.dtype)).argmin(-1).view(places.shape[:-1])

    def quantised(self, raw: Tensor) -> Tensor:
        """Each place taken to its nearest entry: (B, C, h, w)."""
        return self.codebook[self.nearest(raw)].movedim(-1, 1).to(raw.dtype)

    def reconstruct(self, raw: Tensor) -> Tensor:
        """Raw latents → pictures, without the codebook."""
        return self.decoder(self.unmix(raw)).float()

    def decode(self, z: Tensor) -> Tensor:
        """Latents → their nearest entries → pictures in about [−1, 1]."""
        return self.reconstruct(self.quantised(z / self.scale))
