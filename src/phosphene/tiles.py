"""Large pictures and seamless ones: put on from outside, as speed is.

Tiles: an autoencoder takes a picture in overlapping squares, so that its memory does not grow with the picture.
Seamless: what leaves a network on one side comes in on the other, so that the picture tiles a plane.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .errors import Problem
from .nets.layers import CornerDownsample


def make_tiled(autoencoder: nn.Module, tile: int | None, wrap: bool = False) -> None:
    """From now on `encode` and `decode` work on squares of `tile` pixels a side, a quarter of it shared with the next.

    Where squares overlap they are blended, linearly from the one to the other. `wrap` continues the picture on its far
    side. A picture that is no larger than a square is taken whole. None takes the tiles off again.
    Raises Problem for a tile that is too small.
    """
    for name in ("encode", "decode"):
        autoencoder.__dict__.pop(name, None)
    if tile is None:
        return
    f = autoencoder.f
    side = tile // f  # of a square, in latents
    if side < 8:
        raise Problem(f"tile={tile}: a tile of this autoencoder has at least {8 * f} pixels a side")
    encode, decode = autoencoder.encode, autoencoder.decode

    def encoded(x: Tensor, draw: bool | Tensor = False) -> Tensor:
        if x.shape[-2] % f or x.shape[-1] % f:
            return encode(x, draw)  # which says what is wrong with that
        given = isinstance(draw, Tensor)
        height, width = x.shape[-2] // f, x.shape[-1] // f
        part = lambda at: encode(_cut(x, at, f), _cut(draw, at, 1) if given else draw)  # noqa: E731
        return blended(part, height, width, side, 1, wrap)

    def decoded(z: Tensor) -> Tensor:
        return blended(lambda at: decode(_cut(z, at, 1)), z.shape[-2], z.shape[-1], side, f, wrap)

    autoencoder.encode, autoencoder.decode = encoded, decoded


Square = tuple[int, int, int, int]  # top, left, height, width, in latents


def _cut(x: Tensor, at: Square, scale: int) -> Tensor:
    """A square of x; what lies beyond the edges is taken from the far side."""
    top, left, height, width = (scale * n for n in at)
    rows = torch.arange(top, top + height, device=x.device) % x.shape[-2]
    columns = torch.arange(left, left + width, device=x.device) % x.shape[-1]
    return x[..., rows[:, None], columns]


def blended(part: Callable[[Square], Tensor], height: int, width: int, side: int, scale: int, wrap: bool) -> Tensor:
    """The whole of what `part` makes of squares of `side` latents; `scale` is what it makes of one latent a side."""
    overlap = side // 4
    rows, columns = _starts(height, side, overlap, wrap), _starts(width, side, overlap, wrap)
    total = weights = None
    for top, h in rows:
        for left, w in columns:
            made = part((top, left, h, w))
            weight = _ramp(h, overlap, len(rows), scale)[:, None] * _ramp(w, overlap, len(columns), scale)
            if total is None:
                total = made.new_zeros(*made.shape[:-2], scale * height, scale * width)
                weights = made.new_zeros(scale * height, scale * width)
            y = (torch.arange(scale * top, scale * (top + h)) % (scale * height))[:, None].to(made.device)
            x = (torch.arange(scale * left, scale * (left + w)) % (scale * width)).to(made.device)
            weight = weight.to(made)
            total[..., y, x] += made * weight
            weights[y, x] += weight
    return total / weights


def _starts(length: int, side: int, overlap: int, wrap: bool) -> list[tuple[int, int]]:
    """Where squares begin, and how long they are, so that neighbours share at least `overlap`."""
    if length <= side:
        return [(0, length)]
    n = math.ceil(length / (side - overlap)) if wrap else math.ceil((length - overlap) / (side - overlap))
    last = length - length / n if wrap else length - side
    return [(round(i * last / (n - 1)), side) for i in range(n)]


def _ramp(length: int, overlap: int, n: int, scale: int) -> Tensor:
    """Weights of a square's rows: up over the overlap, 1, and down; all 1 where there is one square only."""
    if n == 1:
        return torch.ones(scale * length)
    i = torch.arange(scale * length) + 0.5
    return (torch.minimum(i, scale * length - i) / (scale * overlap)).clamp(max=1)


# Seamless -----------------------------------------------------------------------------------------------------------


class SeamlessCorner(CornerDownsample):
    """What pads on the right and below by itself, padding with what is on the left and above."""

    def forward(self, x: Tensor, emb: Tensor | None = None) -> Tensor:
        return self.conv(F.pad(x, (0, 1, 0, 1), mode="circular"))


def make_seamless(net: nn.Module, on: bool = True) -> None:
    """Every convolution inside pads with what is on the far side, instead of zeros: a rolled input, a rolled output."""
    for layer in net.modules():
        if isinstance(layer, nn.Conv2d) and any(layer.padding):
            layer.padding_mode = "circular" if on else "zeros"
        if isinstance(layer, CornerDownsample):
            layer.__class__ = SeamlessCorner if on else CornerDownsample
        for hook in layer.__dict__.pop("_seams", ()):
            hook.remove()
        overlaps = isinstance(layer, nn.ConvTranspose2d) and layer.kernel_size > layer.stride
        if on and overlaps:
            layer._seams = (layer.register_forward_pre_hook(_around), layer.register_forward_hook(_inside))


def _around(layer: nn.ConvTranspose2d, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return F.pad(inputs[0], (1, 1, 1, 1), mode="circular"), *inputs[1:]


def _inside(layer: nn.ConvTranspose2d, inputs: tuple[Tensor, ...], y: Tensor) -> Tensor:
    """Without what the padding became: a stride on every side."""
    down, right = layer.stride
    return y[..., down:-down, right:-right]
