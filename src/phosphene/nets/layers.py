"""The pieces that U-Nets and autoencoders are made of. Pictures are (B, C, H, W); emb is the time embedding (B, E)."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import unknown
from .attention import Attention, visible


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "silu": F.silu,
    "relu": F.relu,
    "gelu": F.gelu,
    "gelu_tanh": functools.partial(F.gelu, approximate="tanh"),
    "quick_gelu": lambda x: x * torch.sigmoid(1.702 * x),  # OpenAI's CLIP
}


def activation(name: str) -> Callable[[Tensor], Tensor]:
    """The function of this name. Raises Problem for one that is not in ACTIVATIONS."""
    if name not in ACTIVATIONS:
        raise unknown("activation", name, ACTIVATIONS)
    return ACTIVATIONS[name]


def sinusoidal(time: Tensor, dim: int, longest: float = 1e4) -> Tensor:
    """[cos(t·f), sin(t·f)] with f_k = longest^(−k/half), Vaswani et al. 2017 §3.5. time (B,) → (B, dim)."""
    half = dim // 2
    freqs = torch.exp(-math.log(longest) * torch.arange(half, device=time.device, dtype=torch.float32) / half)
    angles = time.float()[:, None] * freqs
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


class TimeEmbedding(nn.Module):
    """Sinusoids of the time through two linear layers; a condition's vector (B, vector_dim) is projected and added."""

    def __init__(self, channels: int, dim: int, vector_dim: int | None = None):
        super().__init__()
        self.channels = channels
        self.mlp = nn.Sequential(nn.Linear(channels, dim), nn.SiLU(), nn.Linear(dim, dim))
        self.vector = None if vector_dim is None else nn.Linear(vector_dim, dim)

    def forward(self, time: Tensor, batch: int, vector: Tensor | None) -> Tensor:
        emb = self.mlp(sinusoidal(time.reshape(-1), self.channels).to(self.mlp[0].weight.dtype))
        emb = emb.expand(batch, -1)  # (B, E)
        if self.vector is None:
            return emb
        if vector is None:
            raise ValueError("this network wants a condition with a vector, and the condition has none")
        return emb + self.vector(vector.to(emb.dtype))


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

    def __init__(self, in_channels: int, out_channels: int, emb_dim: int | None = None, dropout: float = 0.0):
        super().__init__()
        self.norm1 = group_norm(in_channels)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.emb = None if emb_dim is None else nn.Linear(emb_dim, self.scales * out_channels)
        self.norm2 = group_norm(out_channels)
        self.dropout = Dropout(dropout)
        self.conv2 = zero(nn.Conv2d(out_channels, out_channels, 3, padding=1))
        same = in_channels == out_channels
        self.shortcut = nn.Identity() if same else nn.Conv2d(in_channels, out_channels, 1)

    def forward(self, x: Tensor, emb: Tensor | None = None) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        h = self.norm2(h) if emb is None else self.told(h, self.emb(F.silu(emb))[..., None, None])
        h = self.conv2(self.dropout(F.silu(h)))
        return self.shortcut(x) + h

    def told(self, h: Tensor, emb: Tensor) -> Tensor:
        return self.norm2(h + emb)


class ScaleShiftResBlock(ResBlock):
    """The time scales and shifts what the second norm gives (Dhariwal & Nichol 2021, §3, adaptive group norm)."""

    scales = 2

    def told(self, h: Tensor, emb: Tensor) -> Tensor:
        scale, shift = emb.chunk(2, dim=1)
        return torch.addcmul(shift, self.norm2(h), 1 + scale)


class Downsample(nn.Module):
    """Half the size by a strided convolution: o = ⌊(i − k + 2p)/s⌋ + 1 with k = 3, p = 1, s = 2."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


class Upsample(nn.Module):
    """Twice the size: the nearest pixel, then a convolution (no checkerboard, Odena et al. 2016)."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.interpolate(x, scale_factor=2, mode="nearest"))


class TransposedUpsample(nn.Module):
    """Twice the size by a transposed convolution: i = (o − 1)·s + k − 2p with k = 4, p = 1, s = 2."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv = nn.ConvTranspose2d(channels, channels, 4, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


class SelfAttention2d(nn.Module):
    """Attention over pixels as tokens, with a residual connection (Ho et al. 2020, at 16×16)."""

    def __init__(self, channels: int, head_dim: int | None = None, context_dim: int | None = None, layers: int = 1):
        super().__init__()
        self.norm = group_norm(channels)
        self.attn = Attention(channels, heads_of(channels, head_dim), bias=True)
        zero(self.attn.to_out)

    def forward(self, x: Tensor, cond) -> Tensor:
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

    def __init__(self, channels: int, head_dim: int | None, context_dim: int | None, layers: int = 1):
        super().__init__()
        if context_dim is None:
            raise ValueError("a SpatialTransformer attends to tokens: give context_dim, their width")
        self.norm = group_norm(channels, eps=1e-6)
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
