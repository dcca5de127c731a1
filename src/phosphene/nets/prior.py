"""The prior of unCLIP: from CLIP's text to CLIP's picture embedding, by diffusion (Ramesh et al. 2022, §2.2)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..diffusion.cond import Cond
from ..parts import part
from .attention import unseen_future, visible
from .layers import TimeEmbedding
from .transformer import Block


@part
class Prior(nn.Module):
    """A denoiser whose x is a vector (B, dim): a causal transformer over what is said, the time, x and a last token.

    The sequence is the text's states, the text's embedding, the time, the noisy embedding, and a learned token whose
    output is the guess. x is of unit variance: `embedding` brings it back to CLIP's numbers.

    dim    of CLIP's embeddings and of its text states
    length of the text; mask: which of its tokens are real

    forward(x (B, dim), time (B,) or 0-d, cond) → (B, dim); cond.vector (B, dim) and cond.tokens (B, length, dim).
    """

    def __init__(self, dim: int = 768, width: int = 2048, layers: int = 20, heads: int = 32, length: int = 77):
        super().__init__()
        self.dim, self.length = dim, length
        self.time = TimeEmbedding(width, width)
        self.states, self.text, self.image = (nn.Linear(dim, width) for _ in range(3))
        self.last = nn.Parameter(0.01 * torch.randn(width))
        self.position = nn.Parameter(0.01 * torch.randn(length + 4, width))
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(layers))
        self.norm, self.out = nn.LayerNorm(width), nn.Linear(width, dim)
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("std", torch.ones(dim))

    def forward(self, x: Tensor, time: Tensor, cond: Cond) -> Tensor:
        if cond.vector is None or cond.tokens is None:
            raise ValueError("a prior wants the text's embedding as vector and its states as tokens")
        if cond.tokens.shape[1] != self.length:
            raise ValueError(f"{self.length} tokens were expected, padded, not {cond.tokens.shape[1]}")
        b = len(x)
        said = [self.text(cond.vector), self.time(time, b, None), self.image(x), self.last.expand(b, -1)]
        h = torch.cat([self.states(cond.tokens), torch.stack(said, dim=1)], dim=1) + self.position  # (B, L + 4, W)
        bias = unseen_future(h.shape[1], h.device)
        if cond.mask is not None:
            bias = bias + visible(nn.functional.pad(cond.mask, (0, 4), value=True))
        for block in self.blocks:
            h = block(h, bias)
        return self.out(self.norm(h[:, -1]))

    def embedding(self, x: Tensor) -> Tensor:
        """x, once clean, as an embedding of CLIP's: x · std + mean."""
        return x * self.std + self.mean

    def normal(self, embedding: Tensor) -> Tensor:
        """The inverse: what the prior is trained on."""
        return (embedding - self.mean) / self.std
