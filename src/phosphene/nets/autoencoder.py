"""Autoencoders: pictures ↔ latents 2^m times smaller a side (Kingma & Welling 2014; Rombach et al. 2022, §3.1)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..parts import part
from .layers import OURS, Conventions, Downsample, ResBlock, Upsample, group_norm, zero


class Posterior(NamedTuple):
    """q(z|x) = N(mean, exp(logvar)), both (B, C, h, w)."""

    mean: Tensor
    logvar: Tensor

    def draw(self, z: Tensor | None = None) -> Tensor:
        """mean + σ·z; z is unit noise like it, from torch's own generator where none is given."""
        return self.mean + (0.5 * self.logvar).exp() * (torch.randn_like(self.mean) if z is None else z)

    def kl(self) -> Tensor:
        """KL(q ‖ N(0, I)) in nats, the mean over all numbers of the latent: 0-d."""
        return 0.5 * (self.mean.square() + self.logvar.exp() - 1 - self.logvar).mean()


class Coded(NamedTuple):
    """What an autoencoder in training makes of pictures.

    raw    latents as the decoder is given them, (B, C, h, w)
    cost   what they cost beside the error of the copy, 0-d
    parts  numbers for the log
    """

    raw: Tensor
    cost: Tensor
    parts: dict[str, Tensor]


def middle(channels: int, block: type, attend: type, how: Conventions) -> list[nn.Module]:
    """What stands at the smallest size: attention between two residual blocks (Esser et al. 2021)."""
    made = [block(channels, channels, how=how) for _ in range(2)]
    return [made[0], attend(channels, how=how), made[1]]


@part
class ConvEncoder(nn.Module):
    """Pictures (B, in_channels, H, W) → (B, out_channels, H/f, W/f), f = patch · 2^(levels − 1).

    With `attend` there is attention at the smallest size, between two more blocks; and behind every block of the levels
    where `attention` is 1.
    """

    def __init__(
        self,
        out_channels: int,
        channels: Sequence[int] = (48, 96, 128),
        depth: int = 1,
        patch: int = 2,
        in_channels: int = 3,
        block: type = ResBlock,
        down: type = Downsample,
        attend: type | None = None,
        how: Conventions | None = None,
        attention: Sequence[int] | None = None,
    ):
        super().__init__()
        how = how or OURS
        attention = attention or [0] * len(channels)
        self.unshuffle = nn.PixelUnshuffle(patch)
        self.conv_in = nn.Conv2d(in_channels * patch**2, channels[0], 3, padding=1)
        self.blocks, c = nn.ModuleList(), channels[0]
        for i, width in enumerate(channels):
            if i:
                self.blocks.append(down(c, how=how))
            for _ in range(depth):
                self.blocks.append(block(c, c := width, how=how))
                self.blocks.extend([attend(c, how=how)] if attention[i] else [])
        self.blocks.extend(middle(c, block, attend, how) if attend else [])
        self.norm, self.act = how.norm(c), how.act
        self.conv_out = nn.Conv2d(c, out_channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv_in(self.unshuffle(x))
        for block in self.blocks:
            x = block(x)
        return self.conv_out(self.act(self.norm(x)))


@part
class ConvDecoder(nn.Module):
    """Latents (B, in_channels, h, w) → pictures (B, out_channels, h·f, w·f): the encoder's mirror, attention first."""

    def __init__(
        self,
        in_channels: int,
        channels: Sequence[int] = (48, 96, 128),
        depth: int = 2,
        patch: int = 2,
        out_channels: int = 3,
        block: type = ResBlock,
        up: type = Upsample,
        attend: type | None = None,
        how: Conventions | None = None,
        attention: Sequence[int] | None = None,
    ):
        super().__init__()
        c, how = channels[-1], how or OURS
        attention = attention or [0] * len(channels)
        self.conv_in = nn.Conv2d(in_channels, c, 3, padding=1)
        self.blocks = nn.ModuleList(middle(c, block, attend, how) if attend else [])
        for i in reversed(range(len(channels))):
            if i < len(channels) - 1:
                self.blocks.append(up(c, how=how))
            for _ in range(depth):
                self.blocks.append(block(c, c := channels[i], how=how))
                self.blocks.extend([attend(c, how=how)] if attention[i] else [])
        self.norm, self.act = how.norm(c), how.act
        self.conv_out = nn.Conv2d(c, out_channels * patch**2, 3, padding=1)
        self.shuffle = nn.PixelShuffle(patch)

    def forward(self, z: Tensor) -> Tensor:
        z = self.conv_in(z)
        for block in self.blocks:
            z = block(z)
        return self.shuffle(self.conv_out(self.act(self.norm(z))))


@part
class PatchCode(nn.Module):
    """The best linear autoencoder: each f×f patch ↔ its first `channels` principal components.

    A learned autoencoder that starts here and adds to it is at once where convolutions alone arrive after minutes.
    """

    def __init__(self, f: int, channels: int, in_channels: int = 3):
        super().__init__()
        self.f = f
        self.encoder = nn.Conv2d(in_channels, channels, f, stride=f)
        self.decoder = nn.ConvTranspose2d(channels, in_channels, f, stride=f)

    @torch.no_grad()
    def fit(self, pictures: Tensor) -> None:
        """Principal components of the patches of `pictures` (N, C, H, W) about a colour's mean, of unit power each."""
        patches = F.unfold(pictures.float(), self.f, stride=self.f).transpose(1, 2).flatten(0, 1).double()  # (n, C·f·f)
        n = self.f**2
        offset = patches.unflatten(1, (-1, n)).mean((0, 2))  # a colour's own mean: the decoder's bias knows no more
        mean = offset.repeat_interleave(n)
        values, vectors = torch.linalg.eigh((patches - mean).T @ (patches - mean) / len(patches))
        k = self.encoder.out_channels
        basis, std = vectors.flip(1)[:, :k].T, values.flip(0)[:k].clamp(min=1e-8).sqrt()  # (k, C·f·f), (k,)
        shape = self.encoder.weight.shape
        self.encoder.weight.copy_((basis / std[:, None]).reshape(shape))
        self.encoder.bias.copy_(-(basis / std[:, None]) @ mean)
        self.decoder.weight.copy_((basis * std[:, None]).reshape(shape))
        self.decoder.bias.copy_(offset)


@part
class Autoencoder(nn.Module):
    """A KL autoencoder: an encoder to 2·channels numbers a place (mean and logvar) and a decoder.

    With a linear `start`, the two learn what it misses, and begin with nothing to add.
    `shift` and `scale` (channels) make what leaves `encode` unit variance; `measure` sets them. `mixed`: the channels
    go through a 1×1 convolution after the encoder and another before the decoder (Stable Diffusion's autoencoder).
    """

    def __init__(
        self,
        encoder: nn.Module,
        decoder: nn.Module,
        channels: int,
        f: int,
        start: nn.Module | None = None,
        mixed: bool = False,
    ):
        super().__init__()
        self.encoder, self.decoder, self.start = encoder, decoder, start
        self.channels, self.f = channels, f
        self.mix = nn.Conv2d(2 * channels, 2 * channels, 1) if mixed else nn.Identity()
        self.unmix = nn.Conv2d(channels, channels, 1) if mixed else nn.Identity()
        if start is not None:
            zero(encoder.conv_out), zero(decoder.conv_out)
        nn.init.constant_(encoder.conv_out.bias[channels:], -6.0)  # narrow: the decoder sees z, not its noise
        self.register_buffer("shift", torch.zeros(channels))
        self.register_buffer("scale", torch.ones(channels))

    def posterior(self, x: Tensor) -> Posterior:
        """x (B, 3, H, W) in [−1, 1] → the raw posterior, before shift and scale. H and W divide by f."""
        if x.shape[-1] % self.f or x.shape[-2] % self.f:
            raise ValueError(f"height and width must divide by {self.f}, and are {x.shape[-2]}×{x.shape[-1]}")
        mean, logvar = self.mix(self.encoder(x)).chunk(2, dim=1)
        if self.start is not None:
            mean = mean + self.start.encoder(x)
        return Posterior(mean.float(), logvar.float().clamp(-30, 20))

    def code(self, x: Tensor) -> Coded:
        """A draw from the posterior; it costs KL(q ‖ N(0, I))."""
        posterior = self.posterior(x)
        kl = posterior.kl()
        return Coded(posterior.draw(), kl, {"kl": kl.detach()})

    def reconstruct(self, raw: Tensor) -> Tensor:
        """Raw latents → pictures."""
        x = self.decoder(self.unmix(raw))
        return (x if self.start is None else x + self.start.decoder(raw)).float()

    def encode(self, x: Tensor, draw: bool | Tensor = False) -> Tensor:
        """Pictures (B, 3, H, W) → latents (B, channels, H/f, W/f) of unit variance: the mean, or a draw.

        draw  True, or the unit noise, like the latents, to draw with
        """
        posterior, z = self.posterior(x), draw if isinstance(draw, Tensor) else None
        raw = posterior.mean if draw is False else posterior.draw(z)
        return (raw - self._column(self.shift)) * self._column(self.scale)

    def decode(self, z: Tensor) -> Tensor:
        """Latents → pictures in about [−1, 1]."""
        return self.reconstruct(z / self._column(self.scale) + self._column(self.shift))

    @torch.no_grad()
    def measure(self, pictures: Tensor, sensitivity: float = 0.0) -> None:
        """Set shift and scale from `pictures`: each channel to zero mean and unit variance.

        With `sensitivity` γ > 0, a channel is weighed by (its effect on the picture)^γ, at unit variance over all
        channels together, so that what shows most is the last to drown in noise, as in pixels.
        """
        means = torch.cat([self.posterior(p).mean for p in pictures.split(64)])
        std = means.std((0, 2, 3)).clamp(min=1e-6)
        weight = self._effect(means[:32], std) ** sensitivity if sensitivity else torch.ones_like(std)
        self.shift.copy_(means.mean((0, 2, 3)))
        self.scale.copy_(weight / weight.square().mean().sqrt() / std)

    def _effect(self, raw: Tensor, std: Tensor) -> Tensor:
        """RMS change of the picture when a channel moves by one standard deviation: (channels,)."""
        here = self.reconstruct(raw)
        moved = []
        for c in range(self.channels):
            step = torch.zeros_like(raw)
            step[:, c] = std[c] * torch.randn_like(raw[:, c])
            moved.append((self.reconstruct(raw + step) - here).square().mean().sqrt())
        return torch.stack(moved)

    @staticmethod
    def _column(v: Tensor) -> Tensor:
        return v[:, None, None]


@part
class Thumbnail(nn.Module):
    """A small picture in the place of a latent: the encoder is the mean of f × f pixels, and only the decoder learns.

    The decoder learns what bilinear enlarging misses, and begins with nothing to add. A regression: of all pictures
    that have this small one it gives the one between them.
    """

    channels = 3

    def __init__(self, decoder: nn.Module, f: int):
        super().__init__()
        self.decoder, self.f = decoder, f
        zero(decoder.conv_out)

    def code(self, x: Tensor) -> Coded:
        """The small picture, which costs nothing."""
        return Coded(self.encode(x), x.new_zeros(()), {})

    def encode(self, x: Tensor, draw: bool | Tensor = False) -> Tensor:
        """Pictures (B, 3, H, W) → small ones (B, 3, H/f, W/f). There is nothing to `draw`."""
        if x.shape[-1] % self.f or x.shape[-2] % self.f:
            raise ValueError(f"height and width must divide by {self.f}, and are {x.shape[-2]}×{x.shape[-1]}")
        return F.avg_pool2d(x, self.f)

    def reconstruct(self, raw: Tensor) -> Tensor:
        """Small pictures → large ones."""
        return F.interpolate(raw, scale_factor=self.f, mode="bilinear") + self.decoder(raw).float()

    def decode(self, z: Tensor) -> Tensor:
        """Small pictures → large ones in about [−1, 1]."""
        return self.reconstruct(z)


@part
class ConvTower(nn.Module):
    """Pictures (B, 3, H, W) → one feature (B, width): a ConvEncoder, averaged over the picture."""

    def __init__(self, width: int = 256, channels: Sequence[int] = (48, 96, 128, 192), depth: int = 1, patch: int = 2):
        super().__init__()
        self.width = width
        self.net = ConvEncoder(width, channels, depth, patch)

    @property
    def blocks(self) -> nn.ModuleList:
        return self.net.blocks

    def forward(self, picture: Tensor) -> Tensor:
        return self.net(picture).mean((2, 3))


@part
class PatchDiscriminator(nn.Module):
    """Real or made, patch by patch: pictures (B, 3, H, W) → scores (B, 1, h, w) (Isola et al. 2017, PatchGAN)."""

    def __init__(self, channels: Sequence[int] = (32, 64, 128)):
        super().__init__()
        layers, c = [], 3
        for i, width in enumerate(channels):
            layers += [nn.Conv2d(c, width, 4, stride=2, padding=1)]
            layers += [group_norm(width)] if i else []
            layers += [nn.LeakyReLU(0.2)]
            c = width
        self.net = nn.Sequential(*layers, nn.Conv2d(c, 1, 3, padding=1))

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)
