"""Each picture's own Brownian path: the noise of a picture depends on its seed and on the stage's name only.

A path is called with two times: `noise(t, s)` is the unit-variance increment between them, (B, …). All draw on the CPU
in float32, so that every device makes the same picture.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..errors import Problem


class Between(NamedTuple):
    """A place on the way from a to b, which are two seeds or two prompts: share 0 is a, 1 is b."""

    a: Any
    b: Any
    share: float = 0.5


def between(a: Tensor, b: Tensor, share: Tensor | float) -> Tensor:
    """Noise between two noises, each row along its great circle: a at 0, b at 1, of unit variance all the way.

    share  a number, or one a row, broadcastable to a
    """
    cos = torch.nn.functional.cosine_similarity(a.flatten(1), b.flatten(1)).clamp(-1, 1)
    angle = cos.acos().view(-1, *[1] * (a.ndim - 1))
    share = torch.as_tensor(share, dtype=a.dtype, device=a.device)
    straight = angle.sin() < 1e-4
    safe = torch.where(straight, 1.0, angle.sin())
    round_ = (((1 - share) * angle).sin() * a + (share * angle).sin() * b) / safe
    on_the_way = torch.where(straight, (1 - share) * a + share * b, round_)
    return torch.where(share == 0, a, torch.where(share == 1, b, on_the_way))


def path(shape: Sequence[int], seeds: Sequence[int | Between], stage: str = "", device: object = "cpu"):
    """The plain paths of these seeds; where a seed is a Between, the path on the way between those of its two."""
    if not any(isinstance(seed, Between) for seed in seeds):
        return Plain(shape, seeds, stage, device)
    places = [seed if isinstance(seed, Between) else Between(seed, seed, 0.0) for seed in seeds]
    first, second = (Plain(shape, [place[end] for place in places], stage, device) for end in (0, 1))
    return Walk(first, second, [place.share for place in places])


class Plain:
    """Increments drawn in order, each row by its own generator.

    shape   of one picture, (C, H, W)
    seeds   one a picture
    stage   a name: two stages of one system have independent noise
    """

    def __init__(self, shape: Sequence[int], seeds: Sequence[int], stage: str = "", device: object = "cpu"):
        self.shape, self.device = tuple(shape), device
        self.seeds, self.stage = list(seeds), stage
        self.path = [_generator(seed, stage, "path") for seed in seeds]

    def start(self, purpose: str = "start") -> Tensor:
        """The unit noise a run starts from (B, …), independent of all increments; by another name another draw."""
        return self._draw([_generator(seed, self.stage, purpose) for seed in self.seeds])

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
        self.depth = depth
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


class Walk:
    """A path between two paths, each row at its own share of the way: of unit variance, as both are."""

    def __init__(self, a: Plain, b: Plain, shares: Sequence[float]):
        for share in shares:
            if not 0 <= share <= 1:
                raise Problem(f"share {share}: a place between two seeds is from 0, the first, to 1, the second")
        self.a, self.b, self.share = a, b, torch.tensor(shares).view(-1, *[1] * len(a.shape))

    def start(self, purpose: str = "start") -> Tensor:
        return between(self.a.start(purpose), self.b.start(purpose), self.share)

    def __call__(self, t: Tensor, s: Tensor) -> Tensor:
        return between(self.a(t, s), self.b(t, s), self.share)


class Begun:
    """A path that starts from a noise (B, …) of one's own, such as an inversion found, and goes on as `path` does."""

    def __init__(self, path: Any, first: Tensor):
        self.path, self.first = path, first

    def start(self, purpose: str = "start") -> Tensor:
        return self.first if purpose == "start" else self.path.start(purpose)

    def __call__(self, t: Tensor, s: Tensor) -> Tensor:
        return self.path(t, s)


class Recorded:
    """Increments written down before: arrays (B, …) given out in order. Raises Problem when they run out.

    first  what `start` gives: an array, or {purpose: array}
    """

    def __init__(self, arrays: Sequence[Tensor], first: Tensor | dict[str, Tensor] | None = None):
        self.arrays, self.used = [torch.as_tensor(a) for a in arrays], 0
        self.first = first if isinstance(first, dict) else {} if first is None else {"start": first}

    def start(self, purpose: str = "start") -> Tensor:
        if purpose not in self.first:
            raise Problem(f"this recording has no noise for {purpose!r}; give it as `first`")
        return torch.as_tensor(self.first[purpose])

    def __call__(self, t: Tensor, s: Tensor) -> Tensor:
        if self.used == len(self.arrays):
            raise Problem(f"the recording has {self.used} increments, and the sampler wants another")
        self.used += 1
        return self.arrays[self.used - 1]


def _generator(seed: int, stage: str, purpose: str) -> torch.Generator:
    digest = hashlib.blake2b(f"{int(seed)}\0{stage}\0{purpose}".encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest) >> 1)
