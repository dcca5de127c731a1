"""Resizing for metrics: the right way by default, other tools' ways by name.

The same pictures scored FID 178 and 146 in two tools; half of such stories is here. A picture made smaller without
antialiasing keeps patterns that are not in it, and rounding to whole grey levels adds noise of its own (Parmar et al.
2022). Pictures come as uint8 (B, H, W, 3) and leave as float32 (B, 3, h, w) from 0 to 255.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from ..errors import Problem, unknown


def antialiased(pictures: Tensor, size: tuple[int, int], way: int = Image.Resampling.BICUBIC) -> Tensor:
    """By Pillow in float32, a colour at a time, antialiased, not rounded: clean-fid's, and ours."""
    return _by_pillow(pictures, size, lambda plane: Image.fromarray(plane.astype(np.float32)), way).clamp(0, 255)


def rounded(pictures: Tensor, size: tuple[int, int], way: int = Image.Resampling.BILINEAR) -> Tensor:
    """By Pillow in whole grey levels, as a picture that is saved in between is."""
    return _by_pillow(pictures, size, Image.fromarray, way)


def torch_bilinear(pictures: Tensor, size: tuple[int, int]) -> Tensor:
    """Between neighbours, without antialiasing: pytorch-fid."""
    return F.interpolate(_planes(pictures), size, mode="bilinear", align_corners=False)


def tensorflow_bilinear(pictures: Tensor, size: tuple[int, int]) -> Tensor:
    """Between neighbours counted from the corner, without antialiasing: TensorFlow 1, torch-fidelity, the first FID."""
    x = _planes(pictures)
    for dim, n in ((2, size[0]), (3, size[1])):
        at = torch.arange(n) * (x.shape[dim] / n)
        low = at.floor().long()
        high = (low + 1).clamp(max=x.shape[dim] - 1)
        share = (at - low).view([-1 if d == dim else 1 for d in range(4)])
        x = x.index_select(dim, low) * (1 - share) + x.index_select(dim, high) * share
    return x


RESIZES: dict[str, Callable[[Tensor, tuple[int, int]], Tensor]] = {
    "antialiased": antialiased,
    "rounded": rounded,
    "torch": torch_bilinear,
    "tensorflow": tensorflow_bilinear,
}


def resize(pictures: Tensor, size: int | tuple[int, int], how: str = "antialiased") -> Tensor:
    """uint8 (B, H, W, 3) → float32 (B, 3, h, w) from 0 to 255; of the right size already they are left as they are.

    Raises Problem for an unknown way, and for pictures that are not uint8 with three colours.
    """
    if how not in RESIZES:
        raise unknown("resize", how, RESIZES)
    if pictures.dtype != torch.uint8 or pictures.ndim != 4 or pictures.shape[3] != 3:
        raise Problem(f"pictures are {list(pictures.shape)} of {pictures.dtype}; uint8 (B, H, W, 3) was expected")
    size = (size, size) if isinstance(size, int) else tuple(size)
    return _planes(pictures) if pictures.shape[1:3] == size else RESIZES[how](pictures, size)


def _planes(pictures: Tensor) -> Tensor:
    return pictures.permute(0, 3, 1, 2).float()


def _by_pillow(pictures: Tensor, size: tuple[int, int], image: Callable[[np.ndarray], Image.Image], way: int) -> Tensor:
    planes = pictures.permute(0, 3, 1, 2).flatten(0, 1).numpy()
    small = [np.asarray(image(plane).resize(size[::-1], way)) for plane in planes]  # Pillow's sizes are (width, height)
    return torch.from_numpy(np.stack(small)).float().unflatten(0, (len(pictures), 3))
