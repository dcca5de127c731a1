"""What unCLIP's decoder is told (Ramesh et al. 2022, §2.1): projections of CLIP's embeddings to its U-Net's inputs."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..diffusion.cond import Cond
from ..parts import part


@part
class UnclipHead(nn.Module):
    """CLIP's picture embedding as vector and as `extra` tokens, its text's as vector, its text's states as tokens.

    dim is CLIP's; emb_dim the width of the U-Net's time embedding, context_dim of its tokens.
    """

    def __init__(self, dim: int = 768, emb_dim: int = 1280, context_dim: int = 1536, extra: int = 4):
        super().__init__()
        self.extra = extra
        self.null = nn.Parameter(torch.zeros(dim))  # in the place of a picture embedding that is not told
        self.text, self.image = nn.Linear(dim, emb_dim), nn.Linear(dim, emb_dim)
        self.tokens = nn.Linear(dim, extra * context_dim)
        self.states, self.norm = nn.Linear(dim, context_dim), nn.LayerNorm(context_dim)

    def forward(self, image: Tensor | None, text: Tensor, states: Tensor, mask: Tensor | None = None) -> Cond:
        """image and text (B, dim), states (B, L, dim), mask (B, L) → Cond of extra + L tokens. Image None: the null."""
        image = self.null.expand(len(text), -1) if image is None else image
        extra = self.tokens(image).unflatten(1, (-1, self.extra)).transpose(1, 2)  # (B, extra, D)
        return Cond(
            vector=self.text(text) + self.image(image),
            tokens=torch.cat([extra, self.norm(self.states(states))], dim=1),
            mask=None if mask is None else nn.functional.pad(mask, (self.extra, 0), value=True),
        )
