"""The pieces that U-Nets and autoencoders are made of. Pictures are (B, C, H, W); emb is the time embedding (B, E)."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import unknown
from ..parts import part
from .attention import Attention, visible


def quick_gelu(x: Tensor) -> Tensor:
    """x·sigmoid(1.702·x): OpenAI's CLIP."""
    return x * torch.sigmoid(1.702 * x)


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "silu": F.silu,
    "relu": F.relu,
    "gelu": F.gelu,
    "gelu_tanh": functools.partial(F.gelu, approximate="tanh"),
    "quick_gelu": quick_gelu,
}


def activation(name: str) -> Callable[[Tensor], Tensor]:
    """The function of this name. Raises Problem for one that is not in ACTIVATIONS."""
    if name not in ACTIVATIONS:
        raise unknown("activation", name, ACTIVATIONS)
    return ACTIVATIONS[name]


@part
class Conventions:
    """What papers and libraries do differently without saying so; a network hands it to all of its layers.

    groups      of GroupNorm; None is 32, fewer where the channels do not divide (see group_norm)
    eps         of GroupNorm
    act         the activation, one of ACTIVATIONS
    sine_first, freq_shift   of the time's sinusoids, as in DDPM's first code: [sin, cos], and half − 1 in the exponent
    shrink      what the sum at the end of a residual block is divided by: √2 keeps its variance (Saharia et al. 2021)
    """

    def __init__(
        self,
        groups: int | None = None,
        eps: float = 1e-5,
        act: str = "silu",
        sine_first: bool = False,
        freq_shift: float = 0.0,
        shrink: float = 1.0,
    ):
        self.shrink = shrink
        self.groups, self.eps, self.act = groups, eps, activation(act)
        self.sine_first, self.freq_shift = sine_first, freq_shift

    def norm(self, channels: int, eps: float | None = None) -> nn.GroupNorm:
        eps = self.eps if eps is None else eps
        return group_norm(channels, eps) if self.groups is None else nn.GroupNorm(self.groups, channels, eps)


OURS = Conventions()


def sinusoidal(time: Tensor, dim: int, how: Conventions = OURS, longest: float = 1e4) -> Tensor:
    """[cos(t·f), sin(t·f)] with f_k = longest^(−k/half), Vaswani et al. 2017 §3.5. time (B,) → (B, dim)."""
    half = dim // 2
    powers = torch.arange(half, device=time.device, dtype=torch.float32) / (half - how.freq_shift)
    angles = time.float()[:, None] * torch.exp(-math.log(longest) * powers)
    waves = [angles.sin(), angles.cos()] if how.sine_first else [angles.cos(), angles.sin()]
    return torch.cat(waves, dim=-1)


class TimeEmbedding(nn.Module):
    """Sinusoids of the time through two linear layers; a condition's vector (B, vector_dim) is projected and added."""

    def __init__(self, channels: int, dim: int, vector_dim: int | None = None, how: Conventions = OURS):
        super().__init__()
        self.channels, self.how = channels, how
        self.mlp = nn.Sequential(nn.Linear(channels, dim), nn.Identity(), nn.Linear(dim, dim))
        self.vector = self.listen(vector_dim, dim)

    def listen(self, vector_dim: int | None, dim: int) -> nn.Module | None:
        """What brings a vector to the embedding's width; None where none is heard."""
        return None if vector_dim is None else nn.Linear(vector_dim, dim)

    def forward(self, time: Tensor, batch: int, vector: Tensor | None) -> Tensor:
        waves = sinusoidal(time.reshape(-1), self.channels, self.how).to(self.mlp[0].weight.dtype)
        emb = self.mlp[2](self.how.act(self.mlp[0](waves))).expand(batch, -1)  # (B, E)
        if self.vector is None:
            return emb
        if vector is None:
            raise ValueError("this network wants a condition with a vector, and the condition has none")
        return emb + self.vector(vector.to(emb.dtype))


class AddedTimeEmbedding(TimeEmbedding):
    """The condition's vector is of the embedding's width and added as it is: its encoder made it so (ADM, unCLIP)."""

    def listen(self, vector_dim: int | None, dim: int) -> nn.Module | None:
        if vector_dim not in (None, dim):
            raise ValueError(f"a vector of {vector_dim} cannot be added to an embedding of {dim}")
        return None if vector_dim is None else nn.Identity()


def group_norm(channels: int, eps: float = 1e-5) -> nn.GroupNorm:
    """32 groups, Wu & He 2018; fewer where the channels do not divide, and never of one channel alone.

    Such a group would take out what the time adds to its channel, and the network would not know the time.
    """
    groups = math.gcd(32, channels)
    return nn.GroupNorm(groups // 2 if groups == channels > 1 else groups, channels, eps=eps)


def zero(module: nn.Module) -> nn.Module:
    """A layer that starts as nothing, so that the residual branch it ends starts as the identity."""
    for p in module.parameters():
        nn.init.zeros_(p)
    return module


class Dropout(nn.Dropout):
    """Dropout (Srivastava et al. 2014); on the CPU a draw of 64 random bits decides over four numbers, 16 bits each.

    torch draws one a number there, which is 5 % of a training step of DDPM's U-Net. The rate is met to 2⁻¹⁷.
    """

    def forward(self, x: Tensor) -> Tensor:
        dropped = round(self.p * 2**16)  # of 2^16 values that 16 bits have
        if not self.training or x.device.type != "cpu" or not 0 < dropped < 2**16:
            return super().forward(x)
        bits = torch.empty(-(-x.numel() // 4), dtype=torch.int64).random_(-(2**63), None).view(torch.int16)
        kept = bits[: x.numel()].view(x.shape) >= dropped - 2**15
        return x * (kept.to(x.dtype) * (2**16 / (2**16 - dropped)))


class ResBlock(nn.Module):
    """Two convolutions with a residual connection; the time is added between them (Ho et al. 2020, appendix B)."""

    scales = 1  # how many numbers a channel gets from the time embedding

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        emb_dim: int | None = None,
        dropout: float = 0.0,
        how: Conventions = OURS,
    ):
        super().__init__()
        self.act, self.shrink = how.act, how.shrink
        self.norm1 = how.norm(in_channels)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.emb = None if emb_dim is None else nn.Linear(emb_dim, self.scales * out_channels)
        self.norm2 = how.norm(out_channels)
        self.dropout = Dropout(dropout)
        self.conv2 = zero(nn.Conv2d(out_channels, out_channels, 3, padding=1))
        same = in_channels == out_channels
        self.shortcut = nn.Identity() if same else nn.Conv2d(in_channels, out_channels, 1)

    def forward(self, x: Tensor, emb: Tensor | None = None, size: Sequence[int] | None = None) -> Tensor:
        h = self.conv1(self.resized(self.act(self.norm1(x)), size))
        h = self.norm2(h) if emb is None else self.told(h, self.emb(self.act(emb))[..., None, None])
        h = self.conv2(self.dropout(self.act(h)))
        x = self.shortcut(self.resized(x, size)) + h
        return x if self.shrink == 1 else x / self.shrink

    def told(self, h: Tensor, emb: Tensor) -> Tensor:
        return self.norm2(h + emb)

    def resized(self, x: Tensor, size: Sequence[int] | None) -> Tensor:
        return x


class ScaleShiftResBlock(ResBlock):
    """The time scales and shifts what the second norm gives (Dhariwal & Nichol 2021, §3, adaptive group norm)."""

    scales = 2

    def told(self, h: Tensor, emb: Tensor) -> Tensor:
        scale, shift = emb.chunk(2, dim=1)
        return torch.addcmul(shift, self.norm2(h), 1 + scale)


# Ways down and up: made with (channels, emb_dim, dropout, how), called with (x, emb) and (x, emb, size of the skip).


class Downsample(nn.Module):
    """Half the size by a strided convolution: o = ⌊(i − k + 2p)/s⌋ + 1 with k = 3, p = 1, s = 2."""

    def __init__(self, channels: int, emb_dim: int | None = None, dropout: float = 0.0, how: Conventions = OURS):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2, padding=1)

    def forward(self, x: Tensor, emb: Tensor | None = None) -> Tensor:
        return self.conv(x)


class CornerDownsample(Downsample):
    """The same, padded on the right and below only, where TensorFlow's "same" puts it (DDPM, and the autoencoders)."""

    def __init__(self, channels: int, emb_dim: int | None = None, dropout: float = 0.0, how: Conventions = OURS):
        super().__init__(channels)
        self.conv.padding = (0, 0)

    def forward(self, x: Tensor, emb: Tensor | None = None) -> Tensor:
        return self.conv(F.pad(x, (0, 1, 0, 1)))


class Upsample(nn.Module):
    """Twice the size: the nearest pixel, then a convolution (no checkerboard, Odena et al. 2016)."""

    def __init__(self, channels: int, emb_dim: int | None = None, dropout: float = 0.0, how: Conventions = OURS):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor, emb: Tensor | None = None, size: Sequence[int] | None = None) -> Tensor:
        return self.conv(nearest(x, size))


class TransposedUpsample(nn.Module):
    """Twice the size by a transposed convolution: i = (o − 1)·s + k − 2p with k = 4, p = 1, s = 2."""

    fits = False  # only twice the size, whatever the skip's is

    def __init__(self, channels: int, emb_dim: int | None = None, dropout: float = 0.0, how: Conventions = OURS):
        super().__init__()
        self.conv = nn.ConvTranspose2d(channels, channels, 4, stride=2, padding=1)

    def forward(self, x: Tensor, emb: Tensor | None = None, size: Sequence[int] | None = None) -> Tensor:
        return self.conv(x)


def nearest(x: Tensor, size: Sequence[int] | None = None) -> Tensor:
    """x at twice its size, or at `size` (height, width), by the nearest pixel."""
    return F.interpolate(x, size=tuple(size) if size else (2 * x.shape[-2], 2 * x.shape[-1]), mode="nearest")


class PlainResDownsample(ResBlock):
    """The way down inside a residual block, by the mean of 2×2 pixels (Song et al. 2021, as in BigGAN)."""

    def __init__(self, channels: int, emb_dim: int | None = None, dropout: float = 0.0, how: Conventions = OURS):
        super().__init__(channels, channels, emb_dim, dropout, how)

    def resized(self, x: Tensor, size: Sequence[int] | None) -> Tensor:
        return F.avg_pool2d(x, 2)


class PlainResUpsample(ResBlock):
    """The way up inside a residual block, by the nearest pixel (Song et al. 2021, as in BigGAN)."""

    def __init__(self, channels: int, emb_dim: int | None = None, dropout: float = 0.0, how: Conventions = OURS):
        super().__init__(channels, channels, emb_dim, dropout, how)

    def resized(self, x: Tensor, size: Sequence[int] | None) -> Tensor:
        return nearest(x, size)


class ResDownsample(PlainResDownsample, ScaleShiftResBlock):
    """The same in blocks that the time scales and shifts (Dhariwal & Nichol 2021)."""


class ResUpsample(PlainResUpsample, ScaleShiftResBlock):
    """The same in blocks that the time scales and shifts (Dhariwal & Nichol 2021)."""


class SelfAttention2d(nn.Module):
    """Attention over pixels as tokens, with a residual connection (Ho et al. 2020, at 16×16)."""

    def __init__(
        self,
        channels: int,
        head_dim: int | None = None,
        context_dim: int | None = None,
        layers: int = 1,
        how: Conventions = OURS,
    ):
        super().__init__()
        self.norm = how.norm(channels)
        self.attn = Attention(channels, heads_of(channels, head_dim), bias=True)
        zero(self.attn.to_out)

    def forward(self, x: Tensor, cond=None) -> Tensor:
        h = self.norm(x).flatten(2).transpose(1, 2)  # (B, HW, C)
        return x + self.attn(h).transpose(1, 2).unflatten(2, x.shape[2:])


class GEGLU(nn.Module):
    """Feed-forward with a gate: W₂(value · GELU(gate)), Shazeer 2020."""

    def __init__(self, dim: int, expand: int = 4):
        super().__init__()
        self.proj = nn.Linear(dim, 2 * expand * dim)
        self.out = nn.Linear(expand * dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        value, gate = self.proj(x).chunk(2, dim=-1)
        return self.out(value * F.gelu(gate))


class CrossBlock(nn.Module):
    """Self-attention, cross-attention to the condition's tokens, feed-forward (Rombach et al. 2022, appendix E.2.1)."""

    def __init__(self, dim: int, heads: int, context_dim: int):
        super().__init__()
        self.norm1, self.attn1 = nn.LayerNorm(dim), Attention(dim, heads)
        self.norm2, self.attn2 = nn.LayerNorm(dim), Attention(dim, heads, context_dim)
        self.norm3, self.ff = nn.LayerNorm(dim), GEGLU(dim)

    def forward(self, x: Tensor, tokens: Tensor, bias: Tensor | None) -> Tensor:
        x = x + self.attn1(self.norm1(x))
        x = x + self.attn2(self.norm2(x), tokens, bias)
        return x + self.ff(self.norm3(x))


class SpatialTransformer(nn.Module):
    """`layers` CrossBlocks over pixels as tokens, between two projections, with a residual connection.

    Q = W_Q·φ(z_t), K = W_K·τ(y), V = W_V·τ(y): Rombach et al. 2022, §3.3. `cond.regions` (B, L, h, w) is resized to the
    pixels and added to the scores of the tokens.
    """

    def __init__(
        self,
        channels: int,
        head_dim: int | None,
        context_dim: int | None,
        layers: int = 1,
        how: Conventions = OURS,
    ):
        super().__init__()
        if context_dim is None:
            raise ValueError("a SpatialTransformer attends to tokens: give context_dim, their width")
        self.norm = how.norm(channels, eps=1e-6)
        self.proj_in = nn.Linear(channels, channels)
        heads = heads_of(channels, head_dim)
        self.layers = nn.ModuleList(CrossBlock(channels, heads, context_dim) for _ in range(layers))
        self.proj_out = zero(nn.Linear(channels, channels))

    def forward(self, x: Tensor, cond) -> Tensor:
        if cond.tokens is None:
            raise ValueError("this network attends to tokens, and the condition has none")
        h = self.proj_in(self.norm(x).flatten(2).transpose(1, 2))  # (B, HW, C)
        bias = self._bias(cond, x.shape[2:])
        for layer in self.layers:
            h = layer(h, cond.tokens, bias)
        return x + self.proj_out(h).transpose(1, 2).unflatten(2, x.shape[2:])

    @staticmethod
    def _bias(cond, size) -> Tensor | None:
        bias = visible(cond.mask)  # (B, 1, 1, L)
        if cond.regions is None:
            return bias
        regions = F.interpolate(cond.regions, size=tuple(size), mode="bilinear", antialias=True)
        regions = regions.flatten(2).transpose(1, 2)[:, None]  # (B, 1, HW, L)
        return regions if bias is None else bias + regions


def heads_of(channels: int, head_dim: int | None) -> int:
    """How many heads of `head_dim` channels; None is one head of all channels (DDPM)."""
    if head_dim is None:
        return 1
    if channels % head_dim:
        raise ValueError(f"{channels} channels do not divide into heads of {head_dim}")
    return channels // head_dim
