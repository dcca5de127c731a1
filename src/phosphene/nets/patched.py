"""A network that sees patches: fewer, wider places, at a fraction of the cost (Luhman & Luhman 2022)."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor, nn
from torch.nn import functional as F

from ..diffusion.cond import Cond
from ..parts import part


@part
class Patched(nn.Module):
    """A denoiser's network that works on patches of patch × patch pixels; their pixels are its channels.

    net sees (B, C·patch², H/patch, W/patch) for x (B, C, H, W), and what it gives is put back in the same way. Nothing
    is lost by that, and noise stays noise: diffusion is still one of pixels.
    """

    def __init__(self, net: nn.Module, patch: int = 2):
        super().__init__()
        self.net, self.patch = net, patch

    @property
    def blocks(self) -> list[nn.Module]:
        return list(self.net.blocks)  # type: ignore[arg-type]

    @property
    def multiple(self) -> int:
        return self.patch * int(self.net.multiple)  # type: ignore[arg-type]

    def forward(self, x: Tensor, time: Tensor, cond: Cond) -> Tensor:
        if x.shape[-1] % self.multiple or x.shape[-2] % self.multiple:
            raise ValueError(f"height and width must divide by {self.multiple}, and are {x.shape[-2]}×{x.shape[-1]}")
        if cond.image is not None:
            cond = replace(cond, image=F.pixel_unshuffle(cond.image, self.patch))
        return F.pixel_shuffle(self.net(F.pixel_unshuffle(x, self.patch), time, cond), self.patch)
