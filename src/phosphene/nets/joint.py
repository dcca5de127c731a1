"""Attention of a picture's pixels to tokens: GLIDE (Nichol et al. 2021), unCLIP, Imagen. Attend classes for the U-Net.

Where `layers.SpatialTransformer` has a whole transformer block, these are one attention with the text's keys and values
in front of the picture's own.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .attention import Attention, visible
from .layers import OURS, Conventions, SelfAttention2d, heads_of, zero


class JointAttention2d(SelfAttention2d):
    """Pixels attend to the condition's tokens and to themselves at once, the tokens in front (GLIDE)."""

    def __init__(
        self,
        channels: int,
        head_dim: int | None = None,
        context_dim: int | None = None,
        layers: int = 1,
        how: Conventions = OURS,
    ):
        super().__init__(channels, head_dim, context_dim, layers, how)
        context_dim = wanted(context_dim, self)
        self.norm_tokens = self.norm_of(context_dim)
        self.to_k, self.to_v = nn.Linear(context_dim, channels), nn.Linear(context_dim, channels)

    def norm_of(self, context_dim: int) -> nn.Module:
        """What the tokens go through before they are attended to."""
        return nn.Identity()

    def forward(self, x: Tensor, cond=None) -> Tensor:
        h = self.norm(x).flatten(2).transpose(1, 2)  # (B, HW, C)
        tokens = normed(self.norm_tokens, cond)  # (B, L, D)
        k = torch.cat([self.to_k(tokens), self.attn.to_k(h)], dim=1)  # (B, L + HW, C)
        v = torch.cat([self.to_v(tokens), self.attn.to_v(h)], dim=1)
        bias = None if cond.mask is None else F.pad(visible(cond.mask), (0, h.shape[1]))
        h = self.attn.mix(self.attn.to_q(h), k, v, bias, told=tokens.shape[1])
        return x + h.transpose(1, 2).unflatten(2, x.shape[2:])


class TokenGroupNorm(nn.GroupNorm):
    """GroupNorm of tokens (B, L, D) over L and groups of D: padding counts, too."""

    def forward(self, tokens: Tensor) -> Tensor:
        return super().forward(tokens.transpose(1, 2)).transpose(1, 2)


class NormedJointAttention2d(JointAttention2d):
    """The same, with a GroupNorm on the tokens, as in DeepFloyd's IF."""

    def norm_of(self, context_dim: int) -> nn.Module:
        return TokenGroupNorm(32, context_dim)


class CrossAttention2d(nn.Module):
    """Pixels attend to the normed tokens alone, GroupNorm again: for levels of many pixels (DeepFloyd's IF)."""

    def __init__(
        self,
        channels: int,
        head_dim: int | None = None,
        context_dim: int | None = None,
        layers: int = 1,
        how: Conventions = OURS,
    ):
        super().__init__()
        context_dim = wanted(context_dim, self)
        self.norm, self.norm_tokens = how.norm(channels), self.norm_of(context_dim)
        self.attn = Attention(channels, heads_of(channels, head_dim), context_dim, bias=True)
        zero(self.attn.to_out)

    def norm_of(self, context_dim: int) -> nn.Module:
        """What the tokens go through before they are attended to."""
        return TokenGroupNorm(32, context_dim)

    def forward(self, x: Tensor, cond) -> Tensor:
        h = self.norm(x).flatten(2).transpose(1, 2)  # (B, HW, C)
        h = self.attn(h, normed(self.norm_tokens, cond), visible(cond.mask))
        return x + h.transpose(1, 2).unflatten(2, x.shape[2:])


class LayerNormed:
    """Every token normed by itself, so that padding says nothing: what Imagen found critical (§2.4 there)."""

    def norm_of(self, context_dim: int) -> nn.Module:
        return nn.LayerNorm(context_dim)


class ImagenJointAttention2d(LayerNormed, JointAttention2d):
    """GLIDE's, with a LayerNorm on the tokens (Saharia et al. 2022, §2.4)."""


class ImagenCrossAttention2d(LayerNormed, CrossAttention2d):
    """Attention to the tokens alone, with a LayerNorm on them (there): its super-resolution models have no other."""


def normed(norm: nn.Module, cond) -> Tensor:
    """The condition's tokens (B, L, D) behind the norm. Raises ValueError where there are none."""
    if cond is None or cond.tokens is None:
        raise ValueError("this network attends to tokens, and the condition has none")
    return norm(cond.tokens)


def wanted(context_dim: int | None, layer: nn.Module) -> int:
    """The width of the tokens that a layer attends to. Raises ValueError where none is given."""
    if context_dim is None:
        raise ValueError(f"{type(layer).__name__} attends to tokens: give context_dim, their width")
    return context_dim
