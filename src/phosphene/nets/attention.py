"""Attention: the library's one call site, and the layer that uses it.

softmax(QKᵀ/√d)·V, Vaswani et al. 2017, equation 1.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

ROWS = 512  # of scores at a time, so that they stay in the cache
Listener = Callable[[Tensor, Tensor, Tensor | None, int], None]
_listener: ContextVar[Listener | None] = ContextVar("listener", default=None)


def attention(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None, told: int = 0) -> Tensor:
    """softmax(q·kᵀ/√d + bias)·v.

    q (B, H, L, d), k and v (B, H, M, d); bias broadcasts to (B, H, L, M), −∞ where a token must not be seen. `told`
    says that the first so many keys are a condition's tokens: calculated alike, and shown to who is `listening`.
    By torch's fused kernel; but on the CPU, where a gradient is wanted, by two matrix products: there the backward of
    the fused kernel is the slower one in bf16 (benchmarks/train.py measures it). And where half precision has no matrix
    unit that the fused kernel uses, by products of a few rows at a time: twice as fast (benchmarks/sampling.py).
    """
    if told and (listener := _listener.get()) is not None:
        listener(q, k, bias, told)
    if q.device.type == "cpu":
        if torch.is_grad_enabled() and any(t.requires_grad for t in (q, k, v)):
            return _by_products(q, k, v, bias)
        if q.dtype != torch.float32 and k.shape[2] >= ROWS // 2 and not _fused_is_fast():
            return _by_rows(q, k, v, bias)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=None if bias is None else bias.to(q.dtype))


@contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Within it, and in this thread, listener(q, k, bias, told) sees every attention to a condition's tokens.

    What is calculated is the same, bit for bit: the listener gets what goes in and makes its own weights of it.
    """
    token = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(token)


def weights(q: Tensor, k: Tensor, bias: Tensor | None = None) -> Tensor:
    """softmax(q·kᵀ/√d + bias) in float32, (…, L, M): rows sum to 1. q (…, L, d), k (…, M, d); for looking at."""
    scores = q.float() @ k.float().transpose(-1, -2) / math.sqrt(q.shape[-1])
    return torch.softmax(scores if bias is None else scores + bias.float(), dim=-1)


def _by_products(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> Tensor:
    scores = (q * (1 / math.sqrt(q.shape[-1]))) @ k.transpose(-1, -2)  # (B, H, L, M)
    if bias is not None:
        scores = scores + bias.to(scores.dtype)
    return torch.softmax(scores, dim=-1, dtype=scores.dtype) @ v


def _by_rows(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> Tensor:
    """The same, head by head, ROWS rows of scores at a time in one piece of memory."""
    (*heads, length, d), keys = q.shape, k.shape[-2]
    q = q * (1 / math.sqrt(d))
    bias = None if bias is None else bias.to(q.dtype).expand(*heads, length, keys)
    scores, out = q.new_empty(min(ROWS, length), keys), torch.empty_like(q)
    for head in itertools.product(*map(range, heads)):
        for i in range(0, length, ROWS):
            rows = (*head, slice(i, i + ROWS))
            part = scores[: len(q[rows])]
            torch.mm(q[rows], k[head].T, out=part)
            if bias is not None:
                part += bias[rows]
            torch.softmax(part, dim=-1, out=part)
            torch.mm(part, v[head], out=out[rows])
    return out


@functools.cache
def _fused_is_fast() -> bool:
    """Whether the CPU has AMX, which torch's fused kernel uses in half precision (a private test: absent is no)."""
    return getattr(torch.cpu, "_is_amx_tile_supported", bool)()


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
        told = 0 if context is None else context.shape[1]
        context = x if context is None else context
        return self.mix(self.to_q(x), self.to_k(context), self.to_v(context), bias, told)

    def mix(self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None, told: int = 0) -> Tensor:
        """Queries (B, L, dim), keys and values (B, M, dim), projected already → (B, L, dim); `told` as in attention."""
        out = attention(self._split(q), self._split(k), self._split(v), bias, told)  # (B, H, L, d)
        return self.to_out(out.transpose(1, 2).flatten(2))

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)  # (B, H, L, d)
