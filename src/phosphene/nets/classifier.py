"""Classifiers of noisy pictures: the left half of a U-Net with a head on it (Dhariwal & Nichol 2021, §4.1)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..diffusion.cond import Cond
from ..diffusion.schedule import Schedule
from ..errors import Problem
from ..parts import part
from .layers import Conventions, Downsample, ResBlock, SelfAttention2d, TimeEmbedding, heads_of
from .resnet import AttentionPool
from .unet import HalfUNet

# Heads: made with (the channels of every feature map, the side of the last, head_dim, classes, how), called with the
# feature maps [(B, C, h, w), …], give (B, classes).


class AttentionHead(nn.Module):
    """The mean of the last map looks at it, by attention, as in CLIP's residual network."""

    def __init__(self, channels: Sequence[int], side: int, head_dim: int | None, classes: int, how: Conventions):
        super().__init__()
        self.norm, self.act = how.norm(channels[-1]), how.act
        self.pool = AttentionPool(side, channels[-1], heads_of(channels[-1], head_dim), classes)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        return self.pool(self.act(self.norm(maps[-1])))


class MeanHead(nn.Module):
    """A linear layer on the mean of the last map."""

    def __init__(self, channels: Sequence[int], side: int, head_dim: int | None, classes: int, how: Conventions):
        super().__init__()
        self.norm, self.act = how.norm(channels[-1]), how.act
        self.out = nn.Linear(channels[-1], classes)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        return self.out(self.act(self.norm(maps[-1])).mean((2, 3)))


class SpatialHead(nn.Module):
    """Two linear layers on the means of all maps."""

    def __init__(self, channels: Sequence[int], side: int, head_dim: int | None, classes: int, how: Conventions):
        super().__init__()
        self.hidden, self.out = nn.Linear(sum(channels), 2048), nn.Linear(2048, classes)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        return self.out(self.inside(self.hidden(torch.cat([m.mean((2, 3)) for m in maps], dim=1))))

    def inside(self, h: Tensor) -> Tensor:
        return F.relu(h)


class NormedSpatialHead(SpatialHead):
    """The same, with a norm between the two."""

    def __init__(self, channels: Sequence[int], side: int, head_dim: int | None, classes: int, how: Conventions):
        super().__init__(channels, side, head_dim, classes, how)
        self.norm, self.act = how.norm(2048), how.act

    def inside(self, h: Tensor) -> Tensor:
        return self.act(self.norm(h))


@part
class NoisyClassifier(HalfUNet):
    """p(y | x_t): noisy pictures (B, C, size, size) → logits (B, classes).

    size    a side of the pictures; head: what stands at the end. The rest is as in UNet
    `log_prob` is what `diffusion.guidance.classifier` wants.
    """

    def __init__(
        self,
        in_channels: int = 3,
        classes: int = 10,
        size: int = 64,
        channels: Sequence[int] = (64, 128, 256),
        depth: int | Sequence[int] = 2,
        attention: Sequence[int] | None = None,
        head_dim: int | Sequence[int | None] | None = None,
        emb_dim: int | None = None,
        dropout: float = 0.0,
        block: type = ResBlock,
        attend: type | Sequence[type] = SelfAttention2d,
        down: type = Downsample,
        time: type = TimeEmbedding,
        head: type = AttentionHead,
        how: Conventions | None = None,
        time_dim: int | None = None,
    ):
        super().__init__()
        how = how or Conventions()
        _, skips = self.build(
            in_channels, channels, depth, attention, head_dim, None, None, emb_dim, dropout,
            block, attend, down, time, how, time_dim,
        )  # fmt: skip
        last = head_dim[-1] if isinstance(head_dim, Sequence) else head_dim
        self.size, self.classes = size, classes
        self.head = head([*skips, channels[-1]], size // 2 ** len(self.downs), last, classes, how)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        if tuple(x.shape[2:]) != (self.size, self.size):
            raise ValueError(f"pictures of {self.size}×{self.size} were expected, not {x.shape[-2]}×{x.shape[-1]}")
        x, _, maps = self.descend(x, time, Cond())
        return self.head([*maps, x])  # (B, classes)

    def log_prob(self, classes: Sequence[int], schedule: Schedule) -> Callable[[Tensor, Tensor], Tensor]:
        """(x, t) → log p(classes | x_t), (B,), differentiable in x. Raises Problem for a class that it has not."""
        for c in classes:
            if not 0 <= c < self.classes:
                raise Problem(f"class {c} is not one of 0 … {self.classes - 1}")
        rows = torch.tensor(list(classes))[:, None]

        def of(x: Tensor, t: Tensor) -> Tensor:
            logits = self(x.to(self.conv_in.weight.dtype), schedule.c_noise(t).to(x.device, torch.float32))
            return F.log_softmax(logits.float(), dim=1).gather(1, rows.to(x.device))[:, 0].to(x.dtype)

        return of
