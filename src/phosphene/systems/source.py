"""The picture that an edit starts from: SDEdit, inpainting, inversion, as far as pixels know of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from ..errors import Problem
from .base import Prompt


@dataclass(frozen=True)
class Source:
    """A picture to start from, and what of it may change.

    picture   (B or 1, 3, H, W) in [−1, 1]
    mask      (B or 1, 1, h, w) in [0, 1]: 1 is redrawn, 0 stays; another size than the picture's is resized to it
    strength  the share of the run's steps that are taken (diffusion/editing.from_picture)
    invert    what the picture shows, one prompt a picture: the run starts from the noise that makes it
    draw      latents are drawn from the autoencoder's posterior; else they are its mean
    Raises Problem for shapes that are none of these, for numbers that are not finite and for an empty mask.
    """

    picture: Tensor
    mask: Tensor | None = None
    strength: float = 1.0
    invert: Sequence[Prompt] | None = None
    draw: bool = False

    def __post_init__(self):
        if self.picture.ndim != 4 or self.picture.shape[1] != 3 or not self.picture.isfinite().all():
            raise Problem(f"image {tuple(self.picture.shape)}: finite numbers (B, 3, H, W) in [−1, 1] were expected")
        if self.mask is None:
            return
        if self.mask.ndim != 4 or self.mask.shape[1] != 1 or not ((self.mask >= 0) & (self.mask <= 1)).all():
            raise Problem(f"mask {tuple(self.mask.shape)}: numbers (B, 1, H, W) from 0, kept, to 1 were expected")
        if not self.mask.any():
            raise Problem("the mask is empty: it is 1, white, where the picture is to be redrawn")
        fitted = F.interpolate(self.mask.to(self.picture), size=self.size, mode="nearest")
        object.__setattr__(self, "mask", fitted)

    @property
    def size(self) -> tuple[int, int]:
        height, width = self.picture.shape[2:]
        return height, width

    @property
    def anew(self) -> bool:
        """Whether what is redrawn starts from noise alone."""
        return self.mask is not None and self.strength == 1 and self.invert is None

    def inside(self, factor: int) -> Tensor:
        """Where x is redrawn, 1 or 0 (·, 1, h, w): where any of the factor × factor pixels of a number of x is."""
        return (F.max_pool2d(self.mask, factor) > 0).to(self.mask)

    def hidden(self) -> Tensor:
        """The picture, grey wherever anything is redrawn: what an inpainting network is shown beside x."""
        return torch.zeros_like(self.picture) if self.mask is None else self.picture * (self.mask == 0)

    def paste(self, made: Tensor) -> Tensor:
        """What was made, with the picture itself where the mask is 0; between the two in proportion."""
        if self.mask is None:
            return made
        picture, mask = self.picture.to(made), self.mask.to(made)
        return torch.where(mask == 0, picture, mask * made + (1 - mask) * picture)
