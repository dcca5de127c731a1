"""How near copies come to their originals: PSNR and SSIM, one number a picture.

Pictures are uint8 (B, H, W, 3), or float (B, 3, H, W) in [−1, 1]; both of a pair are of one kind.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor
from torch.nn import functional as F

from ..errors import Problem

RADIUS, WIDTH = 5, 1.5  # of SSIM's window: 11 pixels, σ = 1.5


@torch.no_grad()
def psnr(copies: Tensor, originals: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB, (B,): −10·log10 of the mean squared error of pixels in [0, 1]; at most 100.

    A mean over pictures is a mean of these numbers, as in papers, and not the PSNR of the mean error.
    """
    error = (_unit(copies) - _unit(originals, copies)).square().flatten(1).mean(1)
    return -10 * error.clamp(min=1e-10).log10()


@torch.no_grad()
def ssim(copies: Tensor, originals: Tensor) -> Tensor:
    """Structural similarity, (B,), from −1 to 1 (Wang et al. 2004), the mean of the three colours'.

    Gaussian window of 11 pixels, σ = 1.5, where all of it lies inside the picture; population covariances;
    K = 0.01, 0.03. Raises Problem for pictures smaller than the window.
    """
    x, y = _unit(copies), _unit(originals, copies)
    if min(x.shape[2:]) < 2 * RADIUS + 1:
        raise Problem(f"SSIM looks through a window of 11 pixels; the pictures are {x.shape[3]}x{x.shape[2]}")
    mx, my = _blurred(x), _blurred(y)
    xx, yy, xy = _blurred(x * x) - mx * mx, _blurred(y * y) - my * my, _blurred(x * y) - mx * my
    c1, c2 = 0.01**2, 0.03**2
    same = (2 * mx * my + c1) * (2 * xy + c2) / ((mx**2 + my**2 + c1) * (xx + yy + c2))
    return same.flatten(1).mean(1)


def _unit(pictures: Tensor, like: Tensor | None = None) -> Tensor:
    """float64 (B, 3, H, W) in [0, 1]."""
    if like is not None and (like.shape, like.dtype) != (pictures.shape, pictures.dtype):
        raise Problem(f"copies are {list(like.shape)} of {like.dtype}, originals {list(pictures.shape)}")
    if pictures.dtype == torch.uint8:
        return pictures.permute(0, 3, 1, 2).double() / 255
    return pictures.double().clamp(-1, 1) / 2 + 0.5


@functools.cache
def _window() -> Tensor:
    at = torch.arange(-RADIUS, RADIUS + 1, dtype=torch.float64)
    bell = (-(at**2) / (2 * WIDTH**2)).exp()
    return bell / bell.sum()


def _blurred(x: Tensor) -> Tensor:
    """x (B, C, H, W) under the window, where all of it lies inside."""
    bell, c = _window().to(x), x.shape[1]
    x = F.conv2d(x, bell.view(1, 1, 1, -1).expand(c, 1, 1, -1), groups=c)
    return F.conv2d(x, bell.view(1, 1, -1, 1).expand(c, 1, -1, 1), groups=c)
