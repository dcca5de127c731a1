"""Inception-v3 as TensorFlow had it in 2015, whose 2,048 features FID is defined on (Szegedy et al. 2016).

The names are those of the ported weights' file. It differs from the Inception-v3 of other libraries: 1,008 classes, the
average pools do not count the border, and the last block pools by the maximum.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Layer = tuple[str, int, int | tuple[int, int], int]  # name, channels out, kernel, stride; stride 2 has no border
Fork = tuple[Layer, Layer]  # two layers on the same input, side by side
Branch = Sequence[Layer | Fork]


class Conv(nn.Module):
    """Convolution, batch norm, ReLU."""

    def __init__(self, c_in: int, c_out: int, kernel: int | tuple[int, int], stride: int = 1, border: bool = True):
        super().__init__()
        kernel = (kernel, kernel) if isinstance(kernel, int) else kernel
        padding = tuple(k // 2 for k in kernel) if border and stride == 1 else 0
        self.conv = nn.Conv2d(c_in, c_out, kernel, stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(c_out, eps=1e-3)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(x)))


class Mixed(nn.Module):
    """Branches on the same input, concatenated; the last one pools first. Without `pooled` the pool is all of it."""

    def __init__(self, c_in: int, branches: Sequence[Branch], pool: Callable[[Tensor], Tensor], pooled: int = 0):
        super().__init__()
        self.ways: list[list[tuple[str, ...]]] = []
        self.pool, self.channels = pool, pooled or c_in
        for branch in branches:
            c, way = c_in, []
            for step in branch:
                layers = [step] if isinstance(step[0], str) else list(step)
                for name, c_out, kernel, stride in layers:
                    self.add_module(f"branch{name}", Conv(c, c_out, kernel, stride))
                way.append(tuple(f"branch{layer[0]}" for layer in layers))
                c = sum(layer[1] for layer in layers)
            self.ways.append(way)
            self.channels += c
        self.branch_pool = Conv(c_in, pooled, 1) if pooled else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        outs = []
        for way in self.ways:
            h = x
            for names in way:
                h = torch.cat([getattr(self, name)(h) for name in names], dim=1)
            outs.append(h)
        return torch.cat([*outs, self.branch_pool(self.pool(x))], dim=1)


def average(x: Tensor) -> Tensor:
    """The mean of 3×3 pixels, of those that there are."""
    return F.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False)


def halved(x: Tensor) -> Tensor:
    return F.max_pool2d(x, 3, stride=2)


def brightest(x: Tensor) -> Tensor:
    return F.max_pool2d(x, 3, stride=1, padding=1)


def at_35(c_in: int, pooled: int) -> Mixed:
    twice = [("3x3dbl_1", 64, 1, 1), ("3x3dbl_2", 96, 3, 1), ("3x3dbl_3", 96, 3, 1)]
    return Mixed(c_in, [[("1x1", 64, 1, 1)], [("5x5_1", 48, 1, 1), ("5x5_2", 64, 5, 1)], twice], average, pooled)


def to_17(c_in: int) -> Mixed:
    twice = [("3x3dbl_1", 64, 1, 1), ("3x3dbl_2", 96, 3, 1), ("3x3dbl_3", 96, 3, 2)]
    return Mixed(c_in, [[("3x3", 384, 3, 2)], twice], halved)


def at_17(c_in: int, c: int) -> Mixed:
    wide, tall = (1, 7), (7, 1)
    once = [("7x7_1", c, 1, 1), ("7x7_2", c, wide, 1), ("7x7_3", 192, tall, 1)]
    twice = [(f"7x7dbl_{i + 2}", c, kernel, 1) for i, kernel in enumerate((tall, wide, tall))]
    twice = [("7x7dbl_1", c, 1, 1), *twice, ("7x7dbl_5", 192, wide, 1)]
    return Mixed(c_in, [[("1x1", 192, 1, 1)], once, twice], average, 192)


def to_8(c_in: int) -> Mixed:
    seven = [("7x7x3_1", 192, 1, 1), ("7x7x3_2", 192, (1, 7), 1), ("7x7x3_3", 192, (7, 1), 1), ("7x7x3_4", 192, 3, 2)]
    return Mixed(c_in, [[("3x3_1", 192, 1, 1), ("3x3_2", 320, 3, 2)], seven], halved)


def at_8(c_in: int, pool: Callable[[Tensor], Tensor]) -> Mixed:
    def fork(name: str) -> Fork:
        return (f"{name}a", 384, (1, 3), 1), (f"{name}b", 384, (3, 1), 1)

    once = [("3x3_1", 384, 1, 1), fork("3x3_2")]
    twice = [("3x3dbl_1", 448, 1, 1), ("3x3dbl_2", 384, 3, 1), fork("3x3dbl_3")]
    return Mixed(c_in, [[("1x1", 320, 1, 1)], once, twice], pool, 192)


class Inception(nn.Module):
    """Pictures (B, 3, 299, 299) in [−1, 1] → features (B, 2048) and logits (B, 1008), without the classes' bias."""

    size = 299

    def __init__(self):
        super().__init__()
        self.Conv2d_1a_3x3 = Conv(3, 32, 3, stride=2)
        self.Conv2d_2a_3x3 = Conv(32, 32, 3, border=False)
        self.Conv2d_2b_3x3 = Conv(32, 64, 3)
        self.Conv2d_3b_1x1 = Conv(64, 80, 1)
        self.Conv2d_4a_3x3 = Conv(80, 192, 3, border=False)
        self.Mixed_5b, self.Mixed_5c, self.Mixed_5d = at_35(192, 32), at_35(256, 64), at_35(288, 64)
        self.Mixed_6a = to_17(288)
        self.Mixed_6b, self.Mixed_6c = at_17(768, 128), at_17(768, 160)
        self.Mixed_6d, self.Mixed_6e = at_17(768, 160), at_17(768, 192)
        self.Mixed_7a = to_8(768)
        self.Mixed_7b, self.Mixed_7c = at_8(1280, average), at_8(2048, brightest)
        self.fc = nn.Linear(2048, 1008)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = halved(self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(x))))  # (B, 64, 73, 73)
        x = halved(self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(x)))  # (B, 192, 35, 35)
        for name, block in self.named_children():
            x = block(x) if name.startswith("Mixed") else x
        features = x.mean((2, 3))  # (B, 2048)
        return features, features @ self.fc.weight.T
