"""DiT: a denoiser that is a transformer (Peebles & Xie 2023)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..diffusion.cond import Cond
from ..parts import part
from .attention import Attention, visible
from .layers import OURS, Conventions, TimeEmbedding, zero
from .transformer import Mlp

EPS = 1e-6  # of the norms


class DiTBlock(nn.Module):
    """A block whose norms are scaled, shifted and gated by the embedding; tokens of the condition are attended to.

    adaLN-Zero: Peebles & Xie 2023, §3.2. Cross-attention is their third variant, used where there are tokens.
    """

    def __init__(self, dim: int, heads: int, context_dim: int | None, hidden: int | None = None):
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, EPS, elementwise_affine=False)
        self.attn = Attention(dim, heads, bias=True)
        self.cross = None if context_dim is None else Attention(dim, heads, context_dim)
        self.norm_cross = None if context_dim is None else nn.LayerNorm(dim)
        self.norm2 = nn.LayerNorm(dim, EPS, elementwise_affine=False)
        self.mlp = Mlp(dim, hidden, act="gelu_tanh")
        self.modulation = zero(nn.Linear(dim, 6 * dim))

    def forward(self, x: Tensor, emb: Tensor, cond: Cond) -> Tensor:
        shift1, scale1, gate1, shift2, scale2, gate2 = self.modulation(F.silu(emb))[:, None].chunk(6, dim=-1)
        x = x + gate1 * self.attn(self.norm1(x) * (1 + scale1) + shift1)
        if self.cross is not None:
            x = x + self.cross(self.norm_cross(x), cond.tokens, visible(cond.mask))
        return x + gate2 * self.mlp(self.norm2(x) * (1 + scale2) + shift2)


@part
class DiT(nn.Module):
    """A transformer denoiser: x is cut into patches, the patches are tokens.

    The same `forward` as the U-Net: x (B, C, H, W), time (B,) or 0-d, cond → (B, out_channels, H, W). Any H and W that
    divide by `patch`: positions are fixed sinusoids of the column and the row.
    hidden    width of the MLPs, 4 · width unless given
    time_dim  how many sinusoids the time is told by
    time, how as for the U-Net
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
        hidden: int | None = None,
        time_dim: int = 256,
        time: type = TimeEmbedding,
        how: Conventions | None = None,
    ):
        super().__init__()
        if width % 4:
            raise ValueError(f"width {width} must divide by 4: for the sine and cosine of row and column")
        self.patch, self.out_channels = patch, out_channels
        self.embed = nn.Conv2d(in_channels, width, patch, stride=patch)
        self.time = time(time_dim, width, vector_dim, how or OURS)
        self.blocks = nn.ModuleList(DiTBlock(width, heads, context_dim, hidden) for _ in range(layers))
        self.norm_out = nn.LayerNorm(width, EPS, elementwise_affine=False)
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
        x = x.flatten(2).transpose(1, 2) + grid_positions(h, w, x.shape[1], x.device).to(x.dtype)  # (B, hw, D)
        emb = self.time(time, len(x), cond.vector)
        for block in self.blocks:
            x = block(x, emb, cond)
        shift, scale = self.modulation(F.silu(emb))[:, None].chunk(2, dim=-1)
        x = self.out(self.norm_out(x) * (1 + scale) + shift)  # (B, hw, C·p·p)
        return F.pixel_shuffle(x.transpose(1, 2).unflatten(2, (h, w)), self.patch)


def grid_positions(h: int, w: int, dim: int, device=None) -> Tensor:
    """Sinusoids of the column in one half, of the row in the other, [sin, cos] each: (h·w, dim)."""
    freqs = 1e4 ** -(torch.arange(dim // 4, device=device, dtype=torch.float64) / (dim // 4))  # 1 … 1e-4
    rows, cols = (torch.arange(n, device=device, dtype=torch.float64)[:, None] * freqs for n in (h, w))  # (n, D/4)
    row = torch.cat([rows.sin(), rows.cos()], dim=-1)[:, None].expand(h, w, -1)
    col = torch.cat([cols.sin(), cols.cos()], dim=-1)[None].expand(h, w, -1)
    return torch.cat([col, row], dim=-1).flatten(0, 1).float()
