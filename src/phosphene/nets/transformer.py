"""Transformers over tokens: the text towers, CLIP's picture tower, and DiT, the denoiser that is one."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..diffusion.cond import Cond
from ..parts import part
from .attention import Attention, unseen_future, visible
from .layers import TimeEmbedding, activation, zero


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


class DiTBlock(nn.Module):
    """A block whose norms are scaled, shifted and gated by the embedding; tokens of the condition are attended to.

    adaLN-Zero: Peebles & Xie 2023, §3.2. Cross-attention is their third variant, used where there are tokens.
    """

    def __init__(self, dim: int, heads: int, context_dim: int | None):
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, elementwise_affine=False)
        self.attn = Attention(dim, heads, bias=True)
        self.cross = None if context_dim is None else Attention(dim, heads, context_dim)
        self.norm_cross = None if context_dim is None else nn.LayerNorm(dim)
        self.norm2 = nn.LayerNorm(dim, elementwise_affine=False)
        self.mlp = Mlp(dim)
        self.modulation = zero(nn.Linear(dim, 6 * dim))

    def forward(self, x: Tensor, emb: Tensor, cond: Cond) -> Tensor:
        shift1, scale1, gate1, shift2, scale2, gate2 = self.modulation(F.silu(emb))[:, None].chunk(6, dim=-1)
        x = x + gate1 * self.attn(self.norm1(x) * (1 + scale1) + shift1)
        if self.cross is not None:
            x = x + self.cross(self.norm_cross(x), cond.tokens, visible(cond.mask))
        return x + gate2 * self.mlp(self.norm2(x) * (1 + scale2) + shift2)


@part
class DiT(nn.Module):
    """A transformer denoiser: x is cut into patches, the patches are tokens (Peebles & Xie 2023).

    The same `forward` as the U-Net: x (B, C, H, W), time (B,) or 0-d, cond → (B, out_channels, H, W). Any H and W that
    divide by `patch`: positions are fixed sinusoids of the row and the column.
    """

    def __init__(
        self,
        in_channels: int = 3,
        out_channels: int = 3,
        patch: int = 2,
        width: int = 256,
        layers: int = 6,
        heads: int = 4,
        context_dim: int | None = None,
        vector_dim: int | None = None,
    ):
        super().__init__()
        if width % 4:
            raise ValueError(f"width {width} must divide by 4: for the sine and cosine of row and column")
        self.patch, self.out_channels = patch, out_channels
        self.embed = nn.Conv2d(in_channels, width, patch, stride=patch)
        self.time = TimeEmbedding(width, width, vector_dim)
        self.blocks = nn.ModuleList(DiTBlock(width, heads, context_dim) for _ in range(layers))
        self.norm_out = nn.LayerNorm(width, elementwise_affine=False)
        self.modulation = zero(nn.Linear(width, 2 * width))
        self.out = zero(nn.Linear(width, patch * patch * out_channels))

    @property
    def multiple(self) -> int:
        """What height and width must divide by."""
        return self.patch

    def forward(self, x: Tensor, time: Tensor, cond: Cond) -> Tensor:
        if x.shape[-1] % self.patch or x.shape[-2] % self.patch:
            raise ValueError(f"height and width must divide by {self.patch}, and are {x.shape[-2]}×{x.shape[-1]}")
        x = x if cond.image is None else torch.cat([x, cond.image.to(x.dtype)], dim=1)
        x = self.embed(x)  # (B, D, h, w)
        h, w = x.shape[2:]
        x = x.flatten(2).transpose(1, 2) + grid_positions(h, w, x.shape[1], x.device)  # (B, hw, D)
        emb = self.time(time, len(x), cond.vector)
        for block in self.blocks:
            x = block(x, emb, cond)
        shift, scale = self.modulation(F.silu(emb))[:, None].chunk(2, dim=-1)
        x = self.out(self.norm_out(x) * (1 + scale) + shift)  # (B, hw, p·p·C)
        return F.pixel_shuffle(x.transpose(1, 2).unflatten(2, (h, w)), self.patch)


def grid_positions(h: int, w: int, dim: int, device) -> Tensor:
    """Sinusoids of the row in one half, of the column in the other: (h·w, dim)."""
    freqs = torch.exp(-torch.arange(dim // 4, device=device) * (9.21 / (dim // 4)))  # 1 … 1e-4
    rows = torch.arange(h, device=device)[:, None] * freqs  # (h, D/4)
    cols = torch.arange(w, device=device)[:, None] * freqs
    row = torch.cat([rows.sin(), rows.cos()], dim=-1)[:, None].expand(h, w, -1)
    col = torch.cat([cols.sin(), cols.cos()], dim=-1)[None].expand(h, w, -1)
    return torch.cat([row, col], dim=-1).flatten(0, 1)
