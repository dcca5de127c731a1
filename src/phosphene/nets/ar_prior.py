"""The autoregressive prior's parts: a CLIP embedding as codes, and a transformer that tells the next one of them.

Ramesh et al. 2022, §2.2.
"""

from __future__ import annotations

from collections.abc import Generator

import torch
from torch import Tensor, nn

from ..diffusion.cond import Cond
from ..errors import Problem
from ..parts import part
from .attention import unseen_future, visible
from .components import Components
from .layers import OURS, sinusoidal
from .transformer import Block


@part
class PcaCodes(nn.Module):
    """Vectors (B, dim) ↔ codes (B, components): the first principal components, each in one of `buckets` buckets.

    A component's buckets divide the range that it has in what `fit` was given evenly. Nothing is learned by gradient.
    Raises Problem for more components than dimensions, and for less than one bucket.
    """

    def __init__(self, dim: int = 1024, components: int = 319, buckets: int = 1024):
        super().__init__()
        _possible(dim, components, buckets)
        self.components, self.buckets = components, buckets
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("basis", torch.eye(components, dim))  # a component a row
        self.register_buffer("low", torch.full((components,), -1.0))
        self.register_buffer("width", torch.full((components,), 2 / buckets))  # of a bucket

    @torch.no_grad()
    def fit(self, x: Tensor) -> PcaCodes:
        """Components and ranges of x (N, dim), in the order of their variances. Raises Problem for fewer than two."""
        if len(x) < 2:
            raise Problem(f"principal components want at least 2 vectors, not {len(x)}")
        found = Components.of(x)
        self.mean.copy_(found.mean)
        self.basis.copy_(found.basis[: self.components])
        low, high = self.project(x).aminmax(dim=0)
        self.low.copy_(low)
        self.width.copy_((high - low).clamp(min=1e-6) / self.buckets)
        return self

    def project(self, x: Tensor) -> Tensor:
        """x (B, dim) → its components (B, components), in float64, which autocast leaves alone."""
        return (x.double() - self.mean.double()) @ self.basis.double().T

    def forward(self, x: Tensor) -> Tensor:
        """x (B, dim) → codes (B, components), 0 … buckets − 1; what lies outside of the range is in the last bucket."""
        place = (self.project(x) - self.low.double()) / self.width.double()
        return place.floor().long().clamp(0, self.buckets - 1)

    def decode(self, codes: Tensor) -> Tensor:
        """Codes (B, components) → x (B, dim): the middles of their buckets."""
        values = self.low + (codes + 0.5) * self.width
        return self.mean + values @ self.basis


@part
class CodeTransformer(nn.Module):
    """A causal transformer over what is said and the codes so far; it tells how likely each next code is.

    The sequence is the text's states, its embedding, a token of how near to the text the picture is, and the codes.
    Codes are embedded by one table, which is also the last layer; it begins as sinusoids, so that buckets beside each
    other begin alike.

    dim    of CLIP's embeddings and of its text states
    length of the text
    dots   how many tokens of nearness there are; one more, the last, says nothing of it
    Raises Problem as PcaCodes does.
    """

    def __init__(
        self,
        dim: int = 1024,
        width: int = 2048,
        layers: int = 24,
        heads: int = 32,
        length: int = 77,
        components: int = 319,
        buckets: int = 1024,
        dots: int = 1024,
    ):
        super().__init__()
        _possible(dim, components, buckets)
        self.length, self.components = length, components
        self.states, self.text = nn.Linear(dim, width), nn.Linear(dim, width)
        self.dot = nn.Embedding(dots + 1, width)
        self.code = nn.Parameter(0.1 * sinusoidal(torch.arange(buckets).float(), width, OURS))
        self.position = nn.Parameter(0.01 * torch.randn(length + 1 + components, width))
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        nn.init.normal_(self.dot.weight, std=0.02)

    def forward(self, codes: Tensor, dot: Tensor, cond: Cond) -> Tensor:
        """codes (B, n), n < components, dot (B,), cond → logits (B, n + 1, buckets): the i-th of the codes before it.

        cond.vector (B, dim), cond.tokens (B, length, dim), cond.mask (B, length) or None.
        """
        said = self._said(dot, cond)
        h = self._read(torch.cat([said, self._embedded(codes, 0)], dim=1), cond.mask, [None] * len(self.blocks))
        return self._logits(h[:, said.shape[1] - 1 :])

    def steps(self, dot: Tensor, cond: Cond) -> Generator[Tensor, Tensor, None]:
        """Logits (B, buckets) of one component after the other: the code that was chosen, (B,), is to be sent back.

        The same as `forward`'s, but each step reads its code alone, and remembers the keys and values of all before.
        """
        memory: list[tuple[Tensor, Tensor] | None] = [None] * len(self.blocks)
        h = self._said(dot, cond)
        for i in range(self.components):
            code = yield self._logits(self._read(h, cond.mask, memory)[:, -1])
            if i + 1 < self.components:
                h = self._embedded(code[:, None], i)

    def _said(self, dot: Tensor, cond: Cond) -> Tensor:
        """(B, length + 2, W)."""
        if cond.vector is None or cond.tokens is None:
            raise ValueError("a prior wants the text's embedding as vector and its states as tokens")
        if cond.tokens.shape[1] != self.length:
            raise ValueError(f"{self.length} tokens were expected, padded, not {cond.tokens.shape[1]}")
        said = [self.states(cond.tokens), self.text(cond.vector)[:, None], self.dot(dot)[:, None]]
        return torch.cat(said, dim=1) + self.position[: self.length + 2]

    def _embedded(self, codes: Tensor, first: int) -> Tensor:
        """The codes (B, n) of the components from `first` on: (B, n, W)."""
        start = self.length + 2 + first
        return self.code[codes] + self.position[start : start + codes.shape[1]]

    def _read(self, h: Tensor, mask: Tensor | None, memory: list[tuple[Tensor, Tensor] | None]) -> Tensor:
        """The next of the sequence, (B, n, W), through all blocks. Each block's keys and values are added to memory."""
        n = h.shape[1]
        total = n if memory[0] is None else n + memory[0][0].shape[1]
        bias = unseen_future(total, h.device)[:, :, -n:]
        if mask is not None:
            bias = bias + visible(nn.functional.pad(mask, (0, total - self.length), value=True))
        for i, (block, past) in enumerate(zip(self.blocks, memory)):
            x = block.norm1(h)
            k, v = block.attn.to_k(x), block.attn.to_v(x)
            if past is not None:
                k, v = (torch.cat(pair, dim=1) for pair in zip(past, (k, v)))
            memory[i] = k, v
            h = h + block.attn.mix(block.attn.to_q(x), k, v, bias)
            h = h + block.mlp(block.norm2(h))
        return h

    def _logits(self, h: Tensor) -> Tensor:
        return self.norm(h) @ self.code.T


def _possible(dim: int, components: int, buckets: int) -> None:
    """Problem for components that a vector of `dim` numbers does not have, and for no buckets."""
    if not 1 <= components <= dim:
        raise Problem(f"components={components}: 1 to {dim} of a vector of {dim} numbers were expected")
    if buckets < 1:
        raise Problem(f"buckets={buckets}: at least 1 of each component was expected")
