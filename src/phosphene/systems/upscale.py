"""Upscaling by diffusion: a denoiser that is shown the small picture, enlarged, beside x.

SR3 (Saharia et al. 2021); Nichol & Dhariwal's upsamplers (2021, §5); the second stage of GLIDE and of every cascade.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..diffusion.cond import Cond
from ..diffusion.denoiser import Denoiser
from ..diffusion.noise import path
from ..errors import Problem
from ..parts import part
from .base import Batch, Preview, Prompt
from .ddpm import Ddpm
from .source import Source


@part
class Upscaler(Ddpm):
    """A denoiser of pictures of `size` pixels a side, told of the same picture at `small` pixels a side.

    noised   the time up to which the enlarged picture is noised (Ho et al. 2022, §4: it hides what the enlarging did)
    blurred  in training the small picture is, by up to so many of its pixels: what a cascade makes is not as sharp
    filter   by which it is enlarged: bilinear, or bicubic, of the kind that PIL's is
    corners  enlarged so that the corners' pixels, not the corners, lie on each other (align_corners)
    """

    stage = "upscale"

    def __init__(
        self,
        denoiser: Denoiser,
        encoder: nn.Module | None = None,
        size: int = 256,
        small: int = 64,
        channels: int = 3,
        sampler: str = "ddpm",
        spacing: str | None = None,
        steps: int = 250,
        guidance: float = 1.0,
        options: dict | None = None,
        threshold: Sequence[float] | None = None,
        bound: float | None = 1.0,
        noised: float = 0.0,
        corners: bool = False,
        blurred: float = 0.0,
        filter: str = "bilinear",
    ):
        base = denoiser, encoder, size, channels, sampler, spacing, steps, guidance
        super().__init__(*base, options=options, threshold=threshold, bound=bound)
        self.small, self.noised, self.corners, self.blurred = small, noised, corners, blurred
        self.filter = filter

    def cond(self, batch: Batch) -> Cond:
        """The prompts, and the small picture, which is the mean of the large one's pixels, at times blurred."""
        size, small = batch.image.shape[2:], self.stand_in(batch.image)
        if self.blurred:
            small = blur(small, self.blurred * torch.rand(len(small)))
        return self.encoder(batch.prompts).merged(self.told(small, (size[0], size[1])))

    def stand_in(self, pictures: Tensor) -> Tensor:
        """What of the pictures (B, 3, H, W) is given, for the rest to be made anew: them at `small` pixels a side."""
        return F.interpolate(pictures, size=(self.small, self.small), mode="area")

    def told(
        self, small: Tensor, size: tuple[int, int], z: Tensor | None = None, noised: float | Tensor | None = None
    ) -> Cond:
        """Small pictures (B, 3, h, w) in [−1, 1], enlarged to `size`: what the network is shown beside x.

        z is the unit noise on them, like x, where they are noised; None draws it. noised, one number or (B,): another
        time than the system's.
        """
        how = {"mode": self.filter, "align_corners": self.corners, "antialias": self.filter == "bicubic"}
        large = F.interpolate(self.encode(small), size=size, **how)
        noised = torch.as_tensor(self.noised if noised is None else noised)
        if noised.any():
            large = self.denoiser.schedule.jump(large, noised, torch.randn_like(large) if z is None else z)
        return Cond(image=large)

    @torch.no_grad()
    def generate(  # type: ignore[override]  # what it starts from is not the picture that it makes
        self,
        prompts: Sequence[Prompt],
        *,
        seeds: Sequence[int],
        image: Tensor | None = None,
        picture: Tensor | None = None,
        mask: Tensor | None = None,
        size: tuple[int, int] | None = None,
        noise=None,
        noised: float | None = None,
        **how,
    ) -> Iterator[Preview]:
        """Larger pictures, a Preview a step. image (B or 1, 3, h, w) in [−1, 1]: the small ones, one a prompt or one.

        picture (B or 1, 3, H, W) and mask (B or 1, 1, H, W): what of the large picture stays as it is, where the mask
        is 0. size (height, width) is that of what is made; None is the trained size. noised: another time than the
        system's, up to which the small ones are noised. how: as Ddpm.generate takes it.
        Raises Problem without a picture, and for what Ddpm.generate raises it.
        """
        if image is None:
            raise Problem(f"this model makes a small picture, of {self.small} pixels a side, larger: give it as image")
        if len(seeds) != len(prompts) or not prompts:
            raise Problem(f"{len(prompts)} prompts, {len(seeds)} seeds: as many of one as of the other, at least one")
        if (picture is None) != (mask is None):
            raise Problem("what stays of the large picture wants both, picture and mask")
        source = None if picture is None else Source(picture, mask)
        size = size or (self.size, self.size) if source is None else source.size
        noise = noise or path((self.channels, *self._inside(size)), seeds, self.stage, self.device)
        noised = self.noised if noised is None else noised
        z = noise.start("small").to(self.device) if noised else None
        small = image.to(self.device, torch.float32).expand(len(prompts), -1, -1, -1)
        beside = self.beside(self.told(small, size, z, noised), source)
        yield from self._run(prompts, seeds, self.stage, source, size=size, noise=noise, beside=beside, **how)

    def beside(self, told: Cond, source: Source | None) -> Cond:
        """All that the network is shown: what it is told, and for those that inpaint what stays of the picture."""
        return told


def blur(pictures: Tensor, deviations: Tensor) -> Tensor:
    """Pictures (B, C, H, W), each by a Gaussian of its own deviation in pixels, (B,); 0 leaves it as it is.

    At the edges the mean is over what is there.
    """
    for axis in (2, 3):
        at = torch.arange(pictures.shape[axis]).to(pictures)
        apart = (at[:, None] - at).square() / (2 * deviations.to(pictures).clamp(min=1e-3).square().view(-1, 1, 1))
        weights = (-apart).softmax(-1)  # (B, side, side), of each pixel there for each pixel here
        pictures = torch.einsum("bchw,bxh->bcxw" if axis == 2 else "bchw,bxw->bchx", pictures, weights)
    return pictures
