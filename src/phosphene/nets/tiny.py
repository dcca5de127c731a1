"""The tiny autoencoder: Stable Diffusion's latents ↔ pictures in a hundredth of its autoencoder's work.

TAESD, Bohan 2023: no norms and no attention, blocks of three convolutions of one width.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..parts import part


class TinyBlock(nn.Module):
    """relu(x + three convolutions of x)."""

    def __init__(self, width: int):
        super().__init__()
        convs = [nn.Conv2d(width, width, 3, padding=1) for _ in range(3)]
        self.conv = nn.Sequential(convs[0], nn.ReLU(), convs[1], nn.ReLU(), convs[2])

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x + self.conv(x))


@part
class TinyAutoencoder(nn.Module):
    """Pictures (B, 3, H, W) in [−1, 1] ↔ latents (B, channels, H/f, W/f), f = 2^(levels − 1).

    encoder_blocks, decoder_blocks   how many TinyBlocks at each size, in the order in which they run
    Its latents are those that the denoiser sees: of unit variance already, but for a factor `scale`.
    """

    def __init__(
        self,
        channels: int = 4,
        width: int = 64,
        encoder_blocks: Sequence[int] = (1, 3, 3, 3),
        decoder_blocks: Sequence[int] = (3, 3, 3, 1),
        in_channels: int = 3,
        scale: float = 1.0,
    ):
        super().__init__()
        self.channels, self.f, self.scale = channels, 2 ** (len(encoder_blocks) - 1), scale
        layers: list[nn.Module] = [nn.Conv2d(in_channels, width, 3, padding=1)]
        for i, blocks in enumerate(encoder_blocks):
            if i:
                layers.append(nn.Conv2d(width, width, 3, stride=2, padding=1, bias=False))
            layers += [TinyBlock(width) for _ in range(blocks)]
        self.encoder = nn.Sequential(*layers, nn.Conv2d(width, channels, 3, padding=1))
        layers = [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU()]
        for i, blocks in enumerate(decoder_blocks):
            if i:
                layers += [nn.Upsample(scale_factor=2), nn.Conv2d(width, width, 3, padding=1, bias=False)]
            layers += [TinyBlock(width) for _ in range(blocks)]
        self.decoder = nn.Sequential(*layers, nn.Conv2d(width, in_channels, 3, padding=1))

    @property
    def blocks(self) -> list[nn.Module]:
        return [b for half in (self.encoder, self.decoder) for b in half if isinstance(b, TinyBlock)]

    def encode(self, x: Tensor, draw: bool | Tensor = False) -> Tensor:
        """Pictures → latents. There is no posterior to draw from: `draw` changes nothing. H and W divide by f."""
        if x.shape[-1] % self.f or x.shape[-2] % self.f:
            raise ValueError(f"height and width must divide by {self.f}, and are {x.shape[-2]}×{x.shape[-1]}")
        return self.encoder((x + 1) / 2).float() * self.scale

    def decode(self, z: Tensor) -> Tensor:
        """Latents, softly held within ±3, → pictures in about [−1, 1]."""
        return 2 * self.decoder(3 * torch.tanh(z / self.scale / 3)).float() - 1
