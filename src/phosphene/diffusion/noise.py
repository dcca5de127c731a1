"""Each picture's own Brownian path: the noise of a picture depends on its seed and on the stage's name only.

A path is called with two times: `noise(t, s)` is the unit-variance increment between them, (B, …). All draw on the CPU
in float32, so that every device makes the same picture.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor

from ..errors import Problem


class Plain:
    """Increments drawn in order, each row by its own generator.

    shape   of one picture, (C, H, W)
    seeds   one a picture
    stage   a name: two stages of one system have independent noise
    """

    def __init__(self, shape: Sequence[int], seeds: Sequence[int], stage: str = "", device: object = "cpu"):
        self.shape, self.device = tuple(shape), device
        self.first = [_generator(seed, stage, "start") for seed in seeds]
        self.path = [_generator(seed, stage, "path") for seed in seeds]

    def start(self) -> Tensor:
        """The unit noise a run starts from (B, …); independent of all increments."""
        return self._draw(self.first)

    def __call__(self, t: Tensor, s: Tensor) -> Tensor:
        return self._draw(self.path)

    def _draw(self, generators: list[torch.Generator]) -> Tensor:
        return torch.stack([torch.randn(self.shape, generator=g) for g in generators]).to(self.device)


class Tree(Plain):
    """The same path at any number of steps: W(t) on [0, 1] by halving, each half's middle from (seed, its place).

    Times are taken to the nearest 2^−depth. The middles of the last descent are kept: neighbouring times are cheap.
    """

    def __init__(
        self, shape: Sequence[int], seeds: Sequence[int], stage: str = "", device: object = "cpu", depth: int = 20
    ):
        super().__init__(shape, seeds, stage, device)
        self.seeds, self.stage, self.depth = list(seeds), stage, depth
        self.middles: dict[int, Tensor] = {}

    def __call__(self, t: Tensor, s: Tensor) -> Tensor:
        a, b = (round(float(u) * 2**self.depth) for u in (t, s))
        if a == b:
            raise Problem(f"t={float(t)} and s={float(s)} are closer than a tree of depth {self.depth} tells apart")
        gap = abs(a - b) / 2**self.depth
        return ((self._at(a) - self._at(b)) / gap**0.5).to(self.device)

    def _at(self, place: int) -> Tensor:
        """W at place / 2^depth: down the binary tree, where W(middle) = mean of the ends + √(length)/2 · z."""
        low, high = 0, 2**self.depth
        w_low, w_high = torch.zeros(()), self._middle(0)
        visited = {0: w_high}
        while place not in (low, high):
            middle = (low + high) // 2
            z = visited[middle] = self._middle(middle)
            w = (w_low + w_high) / 2 + ((high - low) / 2**self.depth) ** 0.5 / 2 * z
            low, high, w_low, w_high = (low, middle, w_low, w) if place <= middle else (middle, high, w, w_high)
        self.middles = visited
        return (w_low if place == low else w_high).expand(len(self.seeds), *self.shape)

    def _middle(self, place: int) -> Tensor:
        if place in self.middles:
            return self.middles[place]
        return super()._draw([_generator(seed, self.stage, f"tree {self.depth} {place}") for seed in self.seeds]).cpu()


class Recorded:
    """Increments written down before: arrays (B, …) given out in order. Raises Problem when they run out."""

    def __init__(self, arrays: Sequence[Tensor], first: Tensor | None = None):
        self.arrays, self.first, self.used = [torch.as_tensor(a) for a in arrays], first, 0

    def start(self) -> Tensor:
        if self.first is None:
            raise Problem("this recording has no first noise; give it as `first`")
        return torch.as_tensor(self.first)

    def __call__(self, t: Tensor, s: Tensor) -> Tensor:
        if self.used == len(self.arrays):
            raise Problem(f"the recording has {self.used} increments, and the sampler wants another")
        self.used += 1
        return self.arrays[self.used - 1]


def _generator(seed: int, stage: str, purpose: str) -> torch.Generator:
    digest = hashlib.blake2b(f"{int(seed)}\0{stage}\0{purpose}".encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest) >> 1)
