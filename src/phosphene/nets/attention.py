"""Attention: the library's one call site, and the layer that uses it.

softmax(QKᵀ/√d)·V, Vaswani et al. 2017, equation 1.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def attention(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> Tensor:
    """softmax(q·kᵀ/√d + bias)·v.

    q (B, H, L, d), k and v (B, H, M, d); bias broadcasts to (B, H, L, M), −∞ where a token must not be seen.
    On the CPU by two matrix products: there the backward of the fused kernel is the slower one in bf16
    (benchmarks/train.py measures it). Elsewhere by torch's fused kernel.
    """
    if q.device.type != "cpu":
        return F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
    scores = (q * (1 / math.sqrt(q.shape[-1]))) @ k.transpose(-1, -2)  # (B, H, L, M)
    if bias is not None:
        scores = scores + bias.to(scores.dtype)
    return torch.softmax(scores, dim=-1, dtype=scores.dtype) @ v


def visible(mask: Tensor | None) -> Tensor | None:
    """The bias that hides padding: mask (B, L) bool → (B, 1, 1, L), 0 where True and −1e4 elsewhere.

    Not −∞: a row without one real token would be NaN.
    """
    return None if mask is None else torch.zeros(mask.shape, device=mask.device).masked_fill(~mask, -1e4)[:, None, None]


def unseen_future(length: int, device=None) -> Tensor:
    """The bias of a causal transformer: (1, 1, L, L), −∞ where a token would see a later one."""
    return torch.full((length, length), -torch.inf, device=device).triu(1)[None, None]


class Attention(nn.Module):
    """Multi-head attention of x (B, L, dim) to itself, or to `context` (B, M, context_dim)."""

    def __init__(self, dim: int, heads: int, context_dim: int | None = None, bias: bool = False):
        super().__init__()
        if dim % heads:
            raise ValueError(f"width {dim} does not divide into {heads} heads")
        self.heads = heads
        context_dim = context_dim or dim
        self.to_q = nn.Linear(dim, dim, bias=bias)
        self.to_k = nn.Linear(context_dim, dim, bias=bias)
        self.to_v = nn.Linear(context_dim, dim, bias=bias)
        self.to_out = nn.Linear(dim, dim)

    def forward(self, x: Tensor, context: Tensor | None = None, bias: Tensor | None = None) -> Tensor:
        context = x if context is None else context
        return self.mix(self.to_q(x), self.to_k(context), self.to_v(context), bias)

    def mix(self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> Tensor:
        """Queries (B, L, dim), keys and values (B, M, dim), projected already → (B, L, dim)."""
        out = attention(self._split(q), self._split(k), self._split(v), bias)  # (B, H, L, d)
        return self.to_out(out.transpose(1, 2).flatten(2))

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)  # (B, H, L, d)
