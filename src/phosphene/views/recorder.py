"""Who looks where: the attention of a network's pixels to the condition's tokens, recorded while pictures are made."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..nets.attention import ROWS, listening, weights


@dataclass
class Attended:
    """What was recorded: by size of the layers' pictures (h, w), sums of weights (tokens, h, w) and how many layers.

    A layer counts once a call: its weights are the mean of its heads, of the batch's first row. Where it attends to
    the picture itself as well (joint attention), the tokens' weights sum to less than 1 at a pixel, else to 1.
    """

    sums: dict[tuple[int, int], Tensor] = field(default_factory=dict)
    counts: dict[tuple[int, int], int] = field(default_factory=dict)

    @property
    def sizes(self) -> list[tuple[int, int]]:
        """Those of the layers, the finest first."""
        return sorted(self.sums, reverse=True)

    def at(self, size: tuple[int, int]) -> Tensor:
        """The mean over heads, layers of this size and calls: (tokens, h, w)."""
        return self.sums[size] / self.counts[size]

    def mean(self, size: tuple[int, int]) -> Tensor:
        """The mean over heads, all layers and calls, brought to `size` bilinearly: (tokens, *size)."""
        grown = [F.interpolate(s[None], size=size, mode="bilinear")[0] for s in self.sums.values()]
        return torch.stack(grown).sum(0) / sum(self.counts.values())

    def add(self, size: tuple[int, int], seen: Tensor) -> None:
        there = self.sums.get(size)
        if there is not None and there.shape != seen.shape:
            raise ValueError(f"{len(there)} tokens were recorded and then {len(seen)}: record one prompt at a time")
        self.sums[size] = seen if there is None else there + seen
        self.counts[size] = self.counts.get(size, 0) + 1


@contextmanager
def recording(net: nn.Module) -> Iterator[Attended]:
    """Within it, what `net`, a denoiser's network, attends to at every call is recorded: `with recording(net) as seen`.

    Of a batch the first row, which in classifier-free guidance is the prompt's. Any network whose attention goes
    through nets/attention.py, packed or not, in any precision; what it returns is the same, bit for bit. Attention
    within the text encoder is not recorded, only what happens inside of `net`.
    """
    seen = Attended()
    within: list[tuple[int, ...]] = []  # the size of the picture that net is called with, while it is

    def listener(q: Tensor, k: Tensor, bias: Tensor | None, told: int) -> None:
        if within:
            size = grid(q.shape[2], within[0])
            seen.add(size, to_tokens(q[0], k[0], None if bias is None else bias[0], told).unflatten(1, size))

    hooks = [
        net.register_forward_pre_hook(lambda _, inputs: within.append(inputs[0].shape[-2:])),
        net.register_forward_hook(lambda *_: within.clear(), always_call=True),
    ]
    try:
        with listening(listener):
            yield seen
    finally:
        for hook in hooks:
            hook.remove()


@torch.no_grad()
def to_tokens(q: Tensor, k: Tensor, bias: Tensor | None, told: int) -> Tensor:
    """The mean over heads of the weights on the first `told` keys: q (H, L, d), k (H, M, d) → (told, L), on the CPU.

    Some rows at a time: at 64×64 pixels all of a head's weights are 17 million.
    """
    heads, length = q.shape[:2]
    bias = None if bias is None else bias.expand(heads, length, k.shape[1])
    parts = []
    for i in range(0, length, ROWS):
        rows = slice(i, i + ROWS)
        each = weights(q[:, rows], k, None if bias is None else bias[:, rows])
        parts.append(each[..., :told].mean(0))
    return torch.cat(parts).T.cpu()


def grid(length: int, size: Sequence[int]) -> tuple[int, int]:
    """(h, w) with h·w = length of which h/w is nearest to the picture's: 64 of a 128×32 picture is 16×4."""
    ratio = math.log(size[0] / size[1])
    shapes = [(h, length // h) for h in range(1, length + 1) if length % h == 0]
    return min(shapes, key=lambda shape: abs(math.log(shape[0] / shape[1]) - ratio))
