"""Efficient U-Net: Imagen's super-resolution network (Saharia et al. 2022, appendix B).

Three things are other than in nets/unet.py: most residual blocks stand where pictures are small, which costs memory
for weights and little time; what skip connections carry is scaled by 1/√2; and a level begins with its way down and
ends with its way up, so that all of its convolutions see the smaller picture.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..diffusion.cond import Cond
from ..parts import part
from .joint import ImagenJointAttention2d
from .layers import OURS, AddedTimeEmbedding, Conventions, ScaleShiftResBlock, nearest, zero
from .unet import Level

SKIP = 2**-0.5


class Narrow(nn.Module):
    """The way down in front of a level's blocks: a convolution, of stride 2 or 1, to the level's channels."""

    def __init__(self, channels: int, out_channels: int, stride: int):
        super().__init__()
        self.conv = nn.Conv2d(channels, out_channels, 3, stride=stride, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


class Widen(nn.Module):
    """The way up behind a level's blocks: the nearest pixel of the size that it had, then a convolution."""

    def __init__(self, channels: int, out_channels: int):
        super().__init__()
        self.conv = nn.Conv2d(channels, out_channels, 3, padding=1)

    def forward(self, x: Tensor, size: Sequence[int]) -> Tensor:
        return self.conv(x if x.shape[2:] == tuple(size) else nearest(x, size))


@part
class EfficientUNet(nn.Module):
    """A U-Net that predicts `out_channels` from x, the time and a condition, most of it at low resolution.

    in_channels   of x and of the condition's image together
    channels      one entry a level
    depth         residual blocks a level, on the way down and on the way up
    strides       what a level makes the picture smaller by before its blocks, 2 or 1; None is 2 for every level
    attention     whether a level ends with an attention, on both ways, one number a level; None: the last alone
    every         a skip connection from every block, concatenated, as in UNet; else one from each level, added (A.29)
    head_dim      channels a head
    context_dim   width of the condition's tokens; vector_dim: width of its vector. None: not listened to
    emb_dim       width of the time embedding; None is 4 · channels[0]
    block, attend, time   the classes to build with
    how           Conventions: groups and eps of the norms, the activation
    time_dim      how many sinusoids the time is told by; None is channels[0]

    forward(x (B, C, H, W), time (B,) or 0-d, cond) → (B, out_channels, H, W), of any H and W.
    """

    multiple = 1  # the ways up are told the size that they go back to

    def __init__(
        self,
        in_channels: int = 6,
        out_channels: int = 3,
        channels: Sequence[int] = (128, 256, 512, 1024),
        depth: Sequence[int] = (2, 4, 8, 8),
        strides: Sequence[int] | None = None,
        attention: Sequence[int] | None = None,
        every: bool = False,
        head_dim: int = 64,
        context_dim: int | None = None,
        vector_dim: int | None = None,
        emb_dim: int | None = None,
        dropout: float = 0.0,
        block: type = ScaleShiftResBlock,
        attend: type = ImagenJointAttention2d,
        time: type = AddedTimeEmbedding,
        how: Conventions | None = None,
        time_dim: int | None = None,
    ):
        super().__init__()
        n, how, emb_dim = len(channels), how or OURS, emb_dim or 4 * channels[0]
        strides, attention = strides or [2] * n, attention or [0] * (n - 1) + [1]
        if not n == len(depth) == len(strides) == len(attention):
            raise ValueError(f"{n} levels want {n} entries in depth, strides and attention")

        def levels(i: int, c_in: int) -> nn.ModuleList:
            """The residual blocks of level i, for inputs of so many channels; the last is followed by its attention."""
            made = [Level(block(c_in, channels[i], emb_dim, dropout, how), None) for _ in range(depth[i])]
            if attention[i]:
                made[-1].attend = attend(channels[i], head_dim, context_dim, 1, how)
            return nn.ModuleList(made)

        self.every = every
        self.time = time(time_dim or channels[0], emb_dim, vector_dim, how)
        self.conv_in = nn.Conv2d(in_channels, channels[0], 3, padding=1)
        above = [channels[0], *channels[:-1]]  # the channels that a level gets and gives back
        self.downs = nn.ModuleList(Narrow(above[i], channels[i], strides[i]) for i in range(n))
        self.encoder = nn.ModuleList(levels(i, channels[i]) for i in range(n))
        self.decoder = nn.ModuleList(levels(i, (1 + every) * channels[i]) for i in reversed(range(n)))
        self.ups = nn.ModuleList(Widen(channels[i], above[i]) for i in reversed(range(n)))
        self.norm_out, self.act = how.norm(channels[0]), how.act
        self.conv_out = zero(nn.Conv2d(channels[0], out_channels, 3, padding=1))

    @property
    def blocks(self) -> list[nn.Module]:
        """The repeated blocks: where sharding, recomputation and compilation are put on."""
        return [block for level in (*self.encoder, *self.decoder) for block in level]

    def forward(self, x: Tensor, time: Tensor, cond: Cond) -> Tensor:
        emb = self.time(time, len(x), cond.vector)  # (B, E)
        x = self.conv_in(x if cond.image is None else torch.cat([x, cond.image.to(x.dtype)], dim=1))
        sizes, skips = [], []
        for down, blocks in zip(self.downs, self.encoder):
            sizes.append(x.shape[2:])
            x = down(x)
            for block in blocks:
                x = block(x, emb, cond)
                skips.append(SKIP * x)
            if not self.every:
                del skips[-len(blocks) : -1]
        for level, (blocks, up) in enumerate(zip(self.decoder, self.ups)):
            if not self.every:
                skip = skips.pop()
                x = x + skip if level else x  # the lowest level is its own skip
            for block in blocks:
                x = block(torch.cat([x, skips.pop()], dim=1) if self.every else x, emb, cond)
            x = up(x, sizes.pop())
        return self.conv_out(self.act(self.norm_out(x)))
