"""Transformers over tokens: the text towers and CLIP's picture tower."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..parts import part
from .attention import Attention, unseen_future, visible
from .layers import activation


class Mlp(nn.Module):
    """Two linear layers with a GELU, or another of ACTIVATIONS, between them."""

    def __init__(self, dim: int, hidden: int | None = None, act: str = "gelu"):
        super().__init__()
        hidden = hidden or 4 * dim
        self.fc1, self.fc2, self.act = nn.Linear(dim, hidden), nn.Linear(hidden, dim), activation(act)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.act(self.fc1(x)))


class Block(nn.Module):
    """x + attention(norm x), then x + mlp(norm x): the pre-norm block of GPT-2 and CLIP."""

    def __init__(self, dim: int, heads: int, hidden: int | None = None, act: str = "gelu"):
        super().__init__()
        self.norm1, self.attn = nn.LayerNorm(dim), Attention(dim, heads, bias=True)
        self.norm2, self.mlp = nn.LayerNorm(dim), Mlp(dim, hidden, act)

    def forward(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        x = x + self.attn(self.norm1(x), bias=bias)
        return x + self.mlp(self.norm2(x))


@part
class TextTransformer(nn.Module):
    """Token ids → states (B, L, width): every token sees every real token, or with `causal` those up to itself (CLIP).

    hidden is the width of the MLPs, 4 · width unless given; act the name of their activation.
    """

    def __init__(
        self,
        vocabulary: int,
        width: int = 256,
        layers: int = 4,
        heads: int = 4,
        length: int = 64,
        causal: bool = False,
        act: str = "gelu",
        hidden: int | None = None,
    ):
        super().__init__()
        self.width, self.length, self.causal = width, length, causal
        self.token = nn.Embedding(vocabulary, width)
        self.position = nn.Parameter(0.01 * torch.randn(length, width))
        self.blocks = nn.ModuleList(Block(width, heads, hidden, act) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        nn.init.normal_(self.token.weight, std=0.02)

    def forward(self, ids: Tensor, mask: Tensor | None = None, skip: int = 0, words: Tensor | None = None) -> Tensor:
        """ids (B, L), mask (B, L) of the real tokens (None: all) → states (B, L, width), after the last norm.

        skip leaves out the last blocks; words (B, L, width) stand in the place of the tokens' embeddings.
        """
        x = self.token(ids) if words is None else words
        x = x + self.position[: x.shape[1]]  # (B, L, D)
        bias = visible(mask)
        if self.causal:
            past = unseen_future(x.shape[1], x.device)
            bias = past if bias is None else past + bias
        for block in self.blocks[: len(self.blocks) - skip]:
            x = block(x, bias)
        return self.norm(x)


@part
class VisionTransformer(nn.Module):
    """Pictures (B, 3, size, size) → one feature (B, width): patches and a class token (Dosovitskiy et al. 2021).

    pre_norm is CLIP's: a norm before the first block too, and patches without a bias.
    """

    def __init__(
        self,
        size: int = 64,
        patch: int = 8,
        width: int = 256,
        layers: int = 4,
        heads: int = 4,
        pre_norm: bool = False,
        act: str = "gelu",
        hidden: int | None = None,
    ):
        super().__init__()
        if size % patch:
            raise ValueError(f"size {size} does not divide into patches of {patch}")
        self.size, self.width = size, width
        self.patch = nn.Conv2d(3, width, patch, stride=patch, bias=not pre_norm)
        self.first = nn.Parameter(0.02 * torch.randn(1, 1, width))
        self.position = nn.Parameter(0.02 * torch.randn((size // patch) ** 2 + 1, width))
        self.norm_in = nn.LayerNorm(width) if pre_norm else nn.Identity()
        self.blocks = nn.ModuleList(Block(width, heads, hidden, act) for _ in range(layers))
        self.norm = nn.LayerNorm(width)

    def forward(self, picture: Tensor) -> Tensor:
        x = self.patch(picture).flatten(2).transpose(1, 2)  # (B, L, D)
        x = torch.cat([self.first.expand(len(x), -1, -1).to(x.dtype), x], dim=1) + self.position
        x = self.norm_in(x)
        for block in self.blocks:
            x = block(x)
        return self.norm(x[:, 0])
