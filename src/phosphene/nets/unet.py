"""The U-Net: encoder left, decoder right, middle block below, skip connections across (Ho et al. 2020, appendix B).

Within a level the channels change, between levels the size. What the levels are made of (residual block, attention,
way down, way up) are classes that one passes in; there are no flags.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from ..diffusion.cond import Cond
from ..parts import part
from .layers import OURS, Conventions, Downsample, ResBlock, SelfAttention2d, TimeEmbedding, Upsample, zero


class Level(nn.Module):
    """A residual block and, where there are attention layers, an attention after it."""

    def __init__(self, block: nn.Module, attend: nn.Module | None):
        super().__init__()
        self.block = block
        self.attend = attend

    def forward(self, x: Tensor, emb: Tensor, cond: Cond) -> Tensor:
        x = self.block(x, emb)
        return x if self.attend is None else self.attend(x, cond)


class HalfUNet(nn.Module):
    """The left half of a U-Net and its middle: what it shares with a classifier of noisy pictures."""

    def build(
        self,
        in_channels: int,
        channels: Sequence[int],
        depth: int | Sequence[int],
        attention: Sequence[int] | None,
        head_dim: int | Sequence[int | None] | None,
        context_dim: int | None,
        vector_dim: int | None,
        emb_dim: int | None,
        dropout: float,
        block: type,
        attend: type | Sequence[type | None],
        down: type,
        time: type,
        how: Conventions,
        time_dim: int | None,
    ) -> tuple[Callable[[int, int, int], Level], list[int]]:
        """Makes time, conv_in, encoder, downs and middle.

        Returns what makes a Level of (channels in, level, attention layers), and the channels of every skip connection,
        in order.
        """
        n = len(channels)
        depth, attention = _each("depth", depth, n), _each("attention", attention or 0, n)
        head_dim = _each("head_dim", head_dim, n)
        several = isinstance(attend, Sequence) and len(attend) == n + 1
        *attend, middle = attend if several else [*(each := _each("attend", attend, n)), each[-1]]
        emb_dim = emb_dim or 4 * channels[0]
        told = emb_dim, dropout, how

        def level(c_in: int, i: int, layers: int, attend_with: type | None = None) -> Level:
            c_out = channels[i]
            kind = attend_with or attend[i]
            attends = kind(c_out, head_dim[i], context_dim, layers, how) if layers else None
            return Level(block(c_in, c_out, *told), attends)

        self.time = time(time_dim or channels[0], emb_dim, vector_dim, how)
        self.conv_in = nn.Conv2d(in_channels, channels[0], 3, padding=1)
        self.encoder, self.downs = nn.ModuleList(), nn.ModuleList()
        skips, c = [channels[0]], channels[0]
        for i in range(n):
            self.encoder.append(nn.ModuleList())
            for _ in range(depth[i]):
                self.encoder[i].append(level(c, i, attention[i]))
                skips.append(c := channels[i])
            if i < n - 1:
                self.downs.append(down(c, *told))
                skips.append(c)
        deepest = max(1, attention[-1]) if middle else 0
        self.middle = nn.ModuleList([level(c, n - 1, deepest, middle), level(c, n - 1, 0)])
        return level, skips

    def descend(self, x: Tensor, time: Tensor, cond: Cond) -> tuple[Tensor, Tensor, list[Tensor]]:
        """x behind the middle, the embedding (B, E), and what the skip connections carry, in order."""
        emb = self.time(time, len(x), cond.vector)
        x = self.conv_in(x if cond.image is None else torch.cat([x, cond.image.to(x.dtype)], dim=1))
        skips = [x]
        for i, blocks in enumerate(self.encoder):
            for block in blocks:
                x = block(x, emb, cond)
                skips.append(x)
            if i < len(self.downs):
                x = self.downs[i](x, emb)
                skips.append(x)
        for block in self.middle:
            x = block(x, emb, cond)
        return x, emb, skips


@part
class UNet(HalfUNet):
    """A U-Net that predicts `out_channels` from x, the time and a condition.

    in_channels   of x and of the condition's image together
    channels      one entry a level, from the full size down
    depth         residual blocks a level (a number, or one a level); the decoder has one more
    attention     attention layers behind each block, one number a level; 0 is none. The middle has max(1, the last)
    head_dim      channels a head, one number or one a level; None is one head
    context_dim   width of the condition's tokens; vector_dim: width of its vector. None: not listened to
    emb_dim       width of the time embedding; None is 4 · channels[0]
    block, attend, down, up, time   the classes to build with; attend may be one a level, and one more for the middle:
                  None, and it does not attend
    how           Conventions: groups and eps of the norms, the activation
    time_dim      how many sinusoids the time is told by; None is channels[0]

    forward(x (B, C, H, W), time (B,) or 0-d, cond) → (B, out_channels, H, W), of any H and W that divide by `multiple`.
    """

    def __init__(
        self,
        in_channels: int = 3,
        out_channels: int = 3,
        channels: Sequence[int] = (64, 128, 256),
        depth: int | Sequence[int] = 2,
        attention: Sequence[int] | None = None,
        head_dim: int | Sequence[int | None] | None = None,
        context_dim: int | None = None,
        vector_dim: int | None = None,
        emb_dim: int | None = None,
        dropout: float = 0.0,
        block: type = ResBlock,
        attend: type | Sequence[type | None] = SelfAttention2d,
        down: type = Downsample,
        up: type = Upsample,
        time: type = TimeEmbedding,
        how: Conventions | None = None,
        time_dim: int | None = None,
    ):
        super().__init__()
        n, how = len(channels), how or OURS
        level, skips = self.build(
            in_channels, channels, depth, attention, head_dim, context_dim, vector_dim, emb_dim, dropout,
            block, attend, down, time, how, time_dim,
        )  # fmt: skip
        depth, attention, c = _each("depth", depth, n), _each("attention", attention or 0, n), channels[-1]
        told = emb_dim or 4 * channels[0], dropout, how
        self.decoder, self.ups = nn.ModuleList(), nn.ModuleList()
        for i in reversed(range(n)):
            self.decoder.append(nn.ModuleList())
            for _ in range(depth[i] + 1):
                self.decoder[-1].append(level(c + skips.pop(), i, attention[i]))
                c = channels[i]
            if i > 0:
                self.ups.append(up(c, *told))
        self.norm_out, self.act = how.norm(c), how.act
        self.conv_out = zero(nn.Conv2d(c, out_channels, 3, padding=1))

    @property
    def blocks(self) -> list[nn.Module]:
        """The repeated blocks: where sharding, recomputation and compilation are put on."""
        return [b for level in (*self.encoder, self.middle, *self.decoder) for b in level]

    @property
    def multiple(self) -> int:
        """What height and width must divide by: nothing, where the ways up are told the size of the skips."""
        return 1 if all(getattr(up, "fits", True) for up in self.ups) else 2 ** len(self.downs)

    def forward(self, x: Tensor, time: Tensor, cond: Cond) -> Tensor:
        if x.shape[-1] % self.multiple or x.shape[-2] % self.multiple:
            raise ValueError(f"height and width must divide by {self.multiple}, and are {x.shape[-2]}×{x.shape[-1]}")
        x, emb, skips = self.descend(x, time, cond)
        for i, blocks in enumerate(self.decoder):
            for block in blocks:
                x = block(torch.cat([x, skips.pop()], dim=1), emb, cond)
            if i < len(self.ups):
                x = self.ups[i](x, emb, skips[-1].shape[-2:])
        return self.conv_out(self.act(self.norm_out(x)))


def _each(name: str, value, n: int) -> list:
    """One value for each of n levels: a sequence as it is, anything else n times."""
    values = list(value) if isinstance(value, Sequence) else [value] * n
    if len(values) != n:
        raise ValueError(f"{n} levels want {n} entries in {name}, not {len(values)}")
    return values
