"""CLIP's residual network (Radford et al. 2021, §2.3): ResNet-D's stem, blurred strides, pooling by attention."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..parts import part
from .attention import Attention


class Bottleneck(nn.Module):
    """1×1, 3×3, 1×1 convolutions to 4 · channels, with a residual connection (He et al. 2016).

    A stride is a mean over stride × stride pixels, after the 3×3 convolution and before the shortcut's, so that
    nothing is left out of sight (Zhang 2019).
    """

    def __init__(self, in_channels: int, channels: int, stride: int = 1):
        super().__init__()
        out = 4 * channels
        self.conv1, self.norm1 = nn.Conv2d(in_channels, channels, 1, bias=False), nn.BatchNorm2d(channels)
        self.conv2, self.norm2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels)
        self.conv3, self.norm3 = nn.Conv2d(channels, out, 1, bias=False), nn.BatchNorm2d(out)
        self.stride = nn.AvgPool2d(stride) if stride > 1 else nn.Identity()
        same = stride == 1 and in_channels == out
        self.shortcut = None if same else nn.Conv2d(in_channels, out, 1, bias=False)
        self.shortcut_norm = None if same else nn.BatchNorm2d(out)

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(self.norm1(self.conv1(x)))
        h = self.stride(F.relu(self.norm2(self.conv2(h))))
        h = self.norm3(self.conv3(h))
        return F.relu(h + (x if self.shortcut is None else self.shortcut_norm(self.shortcut(self.stride(x)))))


class AttentionPool(nn.Module):
    """A picture of features (B, C, side, side) → (B, out): their mean looks at them and at itself, by attention."""

    def __init__(self, side: int, channels: int, heads: int, out: int):
        super().__init__()
        self.position = nn.Parameter(torch.randn(side * side + 1, channels) / channels**0.5)
        self.attn = Attention(channels, heads, bias=True)
        self.attn.to_out = nn.Linear(channels, out)

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(2).transpose(1, 2)  # (B, L, C)
        x = torch.cat([x.mean(1, keepdim=True), x], dim=1) + self.position
        return self.attn(x[:, :1], x)[:, 0]


@part
class ClipResNet(nn.Module):
    """Pictures (B, 3, size, size) → (B, out), CLIP's embedding: the pooling's last layer is the projection.

    layers are the blocks on each of four levels; the widths are width, 2, 4 and 8 times that, and 4 times more outside.
    """

    projects = True  # to the space of the embeddings by itself

    def __init__(
        self, layers: Sequence[int] = (3, 4, 6, 3), width: int = 64, size: int = 224, heads: int = 32, out: int = 1024
    ):
        super().__init__()
        self.size, self.width = size, out
        half = width // 2
        self.conv1, self.norm1 = nn.Conv2d(3, half, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(half)
        self.conv2, self.norm2 = nn.Conv2d(half, half, 3, padding=1, bias=False), nn.BatchNorm2d(half)
        self.conv3, self.norm3 = nn.Conv2d(half, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)
        blocks, channels = [], width
        for level, count in enumerate(layers):
            for i in range(count):
                blocks.append(Bottleneck(channels, width << level, stride=2 if level and not i else 1))
                channels = 4 * (width << level)
        self.blocks = nn.ModuleList(blocks)
        self.pool = AttentionPool(size // 32, channels, heads, out)

    def forward(self, picture: Tensor) -> Tensor:
        x = picture
        for conv, norm in ((self.conv1, self.norm1), (self.conv2, self.norm2), (self.conv3, self.norm3)):
            x = F.relu(norm(conv(x)))
        x = F.avg_pool2d(x, 2)  # (B, width, size/4, size/4)
        for block in self.blocks:
            x = block(x)
        return self.pool(x)
