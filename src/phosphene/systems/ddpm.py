"""DDPM: diffusion of pictures, unconditional or told a class (Ho et al. 2020; Ho & Salimans 2022 for the guidance).

Also what latent diffusion stands on: there x is a latent, and a decoder comes after it. Editing is here for both:
starting from a picture (SDEdit), redrawing a part of it, inversion, a second pass at a larger size.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..diffusion.cond import Cond
from ..diffusion.denoiser import Denoise, Denoiser
from ..diffusion.editing import from_picture, inverted, keep
from ..diffusion.guidance import clamp, dynamic_threshold
from ..diffusion.noise import Between, path
from ..diffusion.samplers import ddim, sample, start
from ..errors import Problem
from ..parts import part
from ..text.encoders import NoEncoder
from .base import Batch, Loss, Preview, Prompt, System
from .guides import Guides, steered
from .source import Source
from .words import guided


@part
class Ddpm(System):
    """A denoiser of pictures (channels, size, size), told what `encoder` makes of the prompts (None: nothing).

    sampler, spacing, steps, guidance   what `generate` uses unless it is told otherwise
    offset, end   of the times of that sampler (diffusion/schedule.py), as the schedulers of some files want them
    options       that sampler's own, such as {"variance": "learned"}
    bound         what x0 is clamped to on both sides; None: not clamped
    threshold     (quantile, most) of the dynamic threshold that takes the place of clamping
    """

    stage = "base"
    factor = 1  # pixels a side for one number of x

    def __init__(
        self,
        denoiser: Denoiser,
        encoder: nn.Module | None = None,
        size: int = 32,
        channels: int = 3,
        sampler: str = "ddpm",
        spacing: str | None = None,
        steps: int = 250,
        guidance: float = 1.0,
        offset: int = 0,
        end: float = 0.0,
        options: dict | None = None,
        threshold: Sequence[float] | None = None,
        bound: float | None = 1.0,
    ):
        super().__init__()
        self.denoiser = denoiser
        self.encoder = NoEncoder() if encoder is None else encoder
        self.size, self.channels = size, channels
        self.sampler, self.spacing, self.steps, self.guidance = sampler, spacing, steps, guidance
        self.offset, self.end, self.options = offset, end, options or {}
        self.threshold, self.bound = threshold, bound
        self.guides: list = []  # what is put on to steer every run (adapt/guiding.py): .guide, .strength

    @property
    def multiple(self) -> int:
        """What both sides of a picture, in pixels, must divide by."""
        return self.factor * int(self.denoiser.net.multiple)

    def encode(self, pictures: Tensor, z: Tensor | None = None) -> Tensor:
        """Pictures (B, 3, H, W) in [−1, 1] → x. z is unit noise like x, for those that draw it."""
        return pictures.mean(1, keepdim=True) if self.channels == 1 else pictures

    def decode(self, x: Tensor) -> Tensor:
        """x → pictures (B, 3, H, W) in [−1, 1]; grey ones are given three equal channels."""
        return x.expand(-1, 3, -1, -1).clamp(-1, 1) if x.shape[1] == 1 else x.clamp(-1, 1)

    def cond(self, batch: Batch) -> Cond:
        """What the denoiser is told of the pictures of a prepared batch."""
        return self.encoder(batch.prompts)

    def loss(self, batch: Batch, turn: str = "model") -> Loss:
        """Algorithm 1: the mean of the denoiser's loss over the batch."""
        total = self.denoiser.loss(batch.image, self.cond(batch), where=batch.weight).mean()
        return Loss(total, {"loss": total.detach()})

    @torch.no_grad()
    def generate(
        self,
        prompts: Sequence[Prompt | Between],
        *,
        seeds: Sequence[int | Between],
        image: Tensor | None = None,
        mask: Tensor | None = None,
        strength: float = 1.0,
        invert: Sequence[Prompt] | None = None,
        draw: bool = False,
        hires: float = 1.0,
        hires_strength: float = 0.5,
        **how,
    ) -> Iterator[Preview]:
        """Pictures for the prompts, a Preview a step; a picture depends on its seed, not on the batch it is in.

        prompts, seeds   one of each a picture; Between(a, b, share) is a prompt, or a seed, on the way between two
        image      (B or 1, 3, H, W) in [−1, 1]: the run starts from it, noised as far as `strength`, the share of the
                   steps that are taken, says (SDEdit)
        mask       (B or 1, 1, H, W) in [0, 1], with an image: 1 is redrawn, at strength 1 from noise alone; 0 stays as
                   it is, to the pixel; between, both are mixed
        invert     what the image shows, one prompt a picture: the run starts from the noise that makes it (DDIM
                   inversion; the stage "inversion"), and goes by the sampler ddim unless another is named
        draw       an image's latents are drawn from the autoencoder's posterior; else they are its mean
        hires      above 1: what was made, so many times larger, is the start of a second run, the stage "hires", of
                   strength hires_strength
        how        steps, guidance, sampler, size, …: what `_run` knows, and the sampler's own options, such as eta
        Raises Problem: as many seeds as prompts are wanted; for a size that does not fit; for unknown names.
        """
        if len(seeds) != len(prompts) or not prompts:
            raise Problem(f"{len(prompts)} prompts, {len(seeds)} seeds: as many of one as of the other, at least one")
        if image is None and (mask is not None or invert is not None or strength != 1):
            raise Problem("mask, strength and invert are of a picture: give it as image")
        if hires < 1 or (hires > 1 and mask is not None):
            raise Problem(f"hires={hires}: a factor of at least 1, and none together with a mask")
        source = None if image is None else Source(image, mask, strength, invert, draw)
        preview = None
        for preview in self._run(prompts, seeds, self.stage, source, **how):
            yield preview
        if hires > 1 and preview is not None:
            larger = Source(self._enlarged(preview.picture(), hires), strength=hires_strength, draw=draw)
            again = {k: v for k, v in how.items() if k not in ("size", "times", "noise")}
            yield from self._run(prompts, seeds, "hires", larger, **again)

    def _run(
        self,
        prompts: Sequence[Prompt | Between],
        seeds: Sequence[int | Between],
        stage: str,
        source: Source | None,
        *,
        size: tuple[int, int] | None = None,
        steps: int | None = None,
        sampler: str | None = None,
        spacing: str | None = None,
        times: Sequence[float] | None = None,
        noise=None,
        guidance: float | None = None,
        negative: Sequence[Prompt] | None = None,
        rescale: float = 0.0,
        interval: tuple[float, float] | None = None,
        grammar: str = "webui",
        clip_skip: int | None = None,
        beside: Cond | None = None,
        around: Callable[[Denoise], Denoise] | None = None,
        guides: Guides = (),
        encoder: nn.Module | None = None,
        **options,
    ) -> Iterator[Preview]:
        """One run of a sampler.

        size      (height, width) in pixels; None is the trained size, or the source's
        times     the times to visit, noisiest first, in the place of those that steps and spacing make
        noise     a noise path (diffusion/noise.py) in the place of the seeds'
        negative  prompts to move away from, one a picture, in the place of the null prompt
        rescale, interval   of classifier-free guidance (diffusion/guidance.py)
        grammar, clip_skip  of the prompts (systems/words.py)
        beside    what the network is shown beside x; None: what the source says
        around    put around the guided guess: who looks at it, or changes it (views/ does the first)
        guides    (who judges noisy pictures, how strongly its gradient pulls to the prompts), … (systems/guides.py)
        encoder   who reads the prompts, in the place of the system's own
        """
        n, schedule = len(prompts), self.denoiser.schedule
        sampler = sampler or ("ddim" if source and source.invert is not None else self.sampler)
        times = self._times(steps, sampler, spacing) if times is None else _falling(times)
        size = self._inside(_one_size(size, source))
        noise = noise or path((self.channels, *size), seeds, stage, self.device)
        z = noise.start().to(self.device)
        also = self._beside(source, noise, n, size) if beside is None else beside
        if sampler == self.sampler:
            options = {**self.options, **options}
        words = {"also": also, "grammar": grammar, "clip_skip": clip_skip, "encoder": encoder}
        sees = beside is None and also.image is not None  # an inpainting network, which is shown what stays
        x, known = start(z, times[0], schedule), None
        if source is not None and not (sees and source.anew):
            known = self._encoded(source.picture, n, noise if source.draw else None, "picture")
            noisy, times = from_picture(known, source.strength, times, schedule, z)
            x = x if source.anew else noisy
        if source is not None and source.invert is not None:
            x = yield from self._inversion(known, times, source, **words)
        how = {"rescale": rescale, "interval": interval, "guides": guides, **words}
        denoise = self._guided(prompts, negative, self.guidance if guidance is None else guidance, times, **how)
        denoise = denoise if around is None else around(denoise)
        going = sample(sampler, denoise, x, times, schedule, noise=noise, **options)
        if source is not None and source.mask is not None and not sees:
            going = keep(going, known, 1 - source.inside(self.factor).to(z), schedule, z, times[-1])
        last = len(times) - 2
        for step in going:  # at the end x stands at the clean end itself
            x = step.x if step.index == last else step.x0
            yield Preview(stage, step.index, last + 1, self._picture(x, source))

    def _inversion(self, x0: Tensor, times: Tensor, source: Source, **words) -> Generator[Preview, None, Tensor]:
        """DDIM backwards, without guidance: returns the noise at times[0] from which the run makes x0."""
        denoise = self._guided(source.invert, None, 1.0, times, **words)
        up = inverted(times)
        for step in ddim(denoise, x0, up, self.denoiser.schedule):
            yield Preview("inversion", step.index, len(up) - 1, self._picture(step.x0, source))
        return step.x

    def _guided(
        self,
        prompts: Sequence[Prompt | Between],
        negative,
        guidance: float,
        times: Tensor,
        guides: Guides = (),
        encoder: nn.Module | None = None,
        **how,
    ) -> Denoise:
        denoise = guided(self.denoiser, encoder or self.encoder, prompts, negative, guidance, times, **how)
        guides = [*guides, *((on.guide, on.strength) for on in self.guides)]
        denoise = steered(denoise, guides, prompts, self.denoiser.schedule)
        if self.threshold is not None:
            return dynamic_threshold(denoise, *self.threshold)
        return denoise if self.bound is None else clamp(denoise, self.bound)

    def _beside(self, source: Source | None, noise, n: int, size: tuple[int, int]) -> Cond:
        """What an inpainting network is shown beside x; nothing for a network that takes x alone."""
        extra = getattr(self.denoiser.net, "arguments", {}).get("in_channels", self.channels) - self.channels
        extra -= getattr(self.encoder, "shown", 0)  # by the prompt
        if extra == 0:
            return Cond()
        if extra != 1 + self.channels:
            raise Problem(f"this network wants {extra} channels beside x; inpainting networks want {1 + self.channels}")
        return Cond(image=self.shown(*self._rest(source, noise, n, size)))

    def shown(self, mask: Tensor, rest: Tensor) -> Tensor:
        """Mask, rest of the picture, in this order (Rombach et al. 2022, §4.5): (B, 1 + C, h, w).

        mask (B, 1, h, w) is 1 where x is redrawn, and the rest (B, C, h, w) is grey there.
        """
        return torch.cat([mask, rest], dim=1)

    def _rest(self, source: Source | None, noise, n: int, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Mask and rest of n pictures, of `size`; without a picture all is to be redrawn."""
        empty = torch.zeros(1, 3, *(side * self.factor for side in size))
        hidden = empty if source is None else source.hidden()
        masked = source is not None and source.mask is not None
        mask = source.inside(self.factor) if masked else torch.ones(1, 1, *size)
        rest = self._encoded(hidden, n, noise if source is not None and source.draw else None, "rest")
        return mask.to(rest).expand(n, -1, -1, -1), rest

    def _encoded(self, picture: Tensor, n: int, noise, purpose: str) -> Tensor:
        """A picture, or n of them, as n of x; with a noise path, as a draw by its noise of that name."""
        picture = picture.to(self.device, torch.float32).expand(n, -1, -1, -1)
        return self.encode(picture, None if noise is None else noise.start(purpose).to(self.device))

    def _picture(self, x: Tensor, source: Source | None):
        """x as a picture, once it is called; what the mask keeps is the source's own."""
        paste = source.paste if source is not None else lambda made: made
        return torch.no_grad()(lambda: paste(self.decode(x)))

    def _enlarged(self, picture: Tensor, factor: float) -> Tensor:
        """Bicubic, to the nearest size that the network takes."""
        size = [max(1, round(side * factor / self.multiple)) * self.multiple for side in picture.shape[2:]]
        return F.interpolate(picture, size=size, mode="bicubic").clamp(-1, 1)

    def _times(self, steps: int | None, sampler: str, spacing: str | None) -> Tensor:
        """The schedule's; `end` belongs to the system's own sampler, and only where the last step leads down to it."""
        steps = self.steps if steps is None else steps
        times = self.denoiser.schedule.times(steps, spacing or self.spacing, offset=self.offset)
        if sampler == self.sampler and times[-2] > self.end:
            times[-1] = self.end
        return times

    def _inside(self, size: tuple[int, int] | None) -> tuple[int, int]:
        """The size of x for pictures of `size` pixels."""
        height, width = size or (self.size, self.size)
        multiple = self.multiple
        if height % multiple or width % multiple or min(height, width) < multiple:
            raise Problem(f"size {height}x{width}: both sides must be multiples of {multiple} pixels here")
        if getattr(self.encoder, "shown", 0) and (height, width) != (self.size, self.size):
            raise Problem(f"size {height}x{width}: this model is shown maps, at {self.size}x{self.size} pixels only")
        return height // self.factor, width // self.factor


def _one_size(size: tuple[int, int] | None, source: Source | None) -> tuple[int, int] | None:
    if source is not None and size is not None and tuple(size) != source.size:
        raise Problem(
            f"size {size[0]}x{size[1]}, and the picture is {source.size[0]}x{source.size[1]}: resize it first"
        )
    return size if source is None else source.size


def _falling(times: Sequence[float]) -> Tensor:
    t = torch.as_tensor(times, dtype=torch.float64)
    if t.ndim != 1 or len(t) < 2 or not (t[:-1] >= t[1:]).all() or t[0] > 1 or t[-1] < 0:
        raise Problem(f"times={t.tolist()}: at least two falling numbers from 1, the noisiest, to 0 were expected")
    return t
