"""GLIDE (Nichol et al. 2021): what its parts do not already make.

Its base is a Ddpm, its upsampler an Upscaler, each with a GlideEncoder that is trained with it and a U-Net whose pixels
attend to the words and to themselves at once (nets/joint.py); the two are a Cascade. Here is what it is fine-tuned to:
filling in what was erased (§4.3 there), and pictures like another one, by its CLIP embedding in the place of words.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..diffusion.cond import Cond
from ..errors import Problem
from ..nets.unet import UNet
from ..parts import again, part
from ..text.encoders import words
from ..text.prompt import Emphasised
from .base import Batch, Preview, Prompt, frozen
from .clip import ClipSystem
from .ddpm import Ddpm
from .source import Source
from .upscale import Upscaler

WHOLE = 0.2  # of the pictures are erased altogether, so that a fine-tuned base still makes them from words alone


@part
class Inpaint(Ddpm):
    """A base that sees what is left of a picture beside x: its colours, then where it is left, 1 or 0."""

    def shown(self, mask: Tensor, rest: Tensor) -> Tensor:
        """Rest, kept: GLIDE's order, and the other way round than latent diffusion's mask."""
        return torch.cat([rest, 1 - mask], dim=1)

    def cond(self, batch: Batch) -> Cond:
        """The prompts, and what is left once a random part is erased."""
        hole = erased(batch.image)
        return replace(self.encoder(batch.prompts), image=self.shown(hole, batch.image * (1 - hole)))


@part
class InpaintUpscaler(Upscaler):
    """An upsampler that sees what is left of the large picture, and all of the small one: x, rest, kept, enlarged."""

    shown = Inpaint.shown

    def cond(self, batch: Batch) -> Cond:
        told, hole = super().cond(batch), erased(batch.image)
        return replace(told, image=torch.cat([self.shown(hole, batch.image * (1 - hole)), told.image], dim=1))

    def beside(self, told: Cond, source: Source | None) -> Cond:
        n, _, *size = told.image.shape
        left = self.shown(*self._rest(source, None, n, (size[0], size[1])))
        return replace(told, image=torch.cat([left, told.image], dim=1))


def erased(pictures: Tensor) -> Tensor:
    """Where each of the pictures (B, C, H, W) is erased, 1 or 0, (B, 1, H, W): a rectangle anywhere, or all of it.

    Its sides are from a quarter to the whole of the picture's. Torch's generator on the CPU draws it.
    """
    n, _, *size = pictures.shape
    length = torch.where(torch.rand(n, 1) < WHOLE, 1.0, torch.rand(n, 2) * 0.75 + 0.25)
    start = torch.rand(n, 2) * (1 - length)
    inside = []
    for side, first, last in zip(size, start.T[..., None], (start + length).T[..., None]):
        at = (torch.arange(side) + 0.5) / side
        inside.append((at >= first) & (at < last))  # (B, side)
    return (inside[0][:, None, :, None] & inside[1][:, None, None, :]).to(pictures)


def inpainting(stage: Ddpm) -> Inpaint | InpaintUpscaler:
    """The stage, to be fine-tuned: a copy with four channels more beside x, whose weights are zero.

    So it begins by making what the stage makes, whatever it is shown there (§4.3). Raises Problem where its network is
    no U-Net.
    """
    stage = copy.deepcopy(stage)
    net, c = stage.denoiser.net, stage.channels
    if type(net) is not UNet:
        raise Problem(f"{type(net).__name__} cannot be widened: a UNet was expected")
    wide = again(net, in_channels=net.arguments["in_channels"] + c + 1)
    weights = net.state_dict()
    first = weights["conv_in.weight"]  # the new channels come behind x, before what an upsampler sees
    new = first.new_zeros(len(first), c + 1, *first.shape[2:])
    wide.load_state_dict({**weights, "conv_in.weight": torch.cat([first[:, :c], new, first[:, c:]], dim=1)})
    kind = InpaintUpscaler if isinstance(stage, Upscaler) else Inpaint
    return again(stage, kind, denoiser=again(stage.denoiser, net=wide))


@part
class ClipEncoder(nn.Module):
    """A CLIP embedding in the place of words: vector (B, emb_dim), and `tokens` tokens (B, tokens, width).

    A prompt is a picture (3, H, W) in [−1, 1], an image_emb (dim,) already made, words, by their text_emb, or None.
    clip is frozen; dim is the width of its embeddings, which are brought from length 1 to √dim.
    """

    def __init__(self, clip: ClipSystem, dim: int, emb_dim: int, width: int, tokens: int = 4):
        super().__init__()
        self.clip, self.scale = frozen(clip), dim**0.5
        self.nothing = nn.Parameter(torch.zeros(dim))
        self.vector, self.tokens = nn.Linear(dim, emb_dim), nn.Linear(dim, tokens * width)
        self.width = width

    def forward(self, prompts: Sequence[Tensor | str | Emphasised | None]) -> Cond:
        told = torch.stack([self._embedding(prompt) for prompt in prompts])  # (B, dim)
        return Cond(vector=self.vector(told), tokens=self.tokens(told).unflatten(1, (-1, self.width)))

    def _embedding(self, prompt: Tensor | str | Emphasised | None) -> Tensor:
        if isinstance(prompt, Tensor):
            return self.scale * (prompt if prompt.ndim == 1 else self.clip.embed_image(prompt[None])[0]).to(
                self.nothing
            )
        said = words(prompt)
        return self.scale * self.clip.embed_text([said])[0] if said else self.nothing


@part
class Likeness(Ddpm):
    """A base that is told a picture by its CLIP embedding: others with the same salient content, not the same picture.

    Its encoder is a ClipEncoder. Of pictures of any size, which CLIP sees as they are, it learns to make small ones.
    Words reach it by CLIP's text embedding, which it was never told in training (docs/lineage/glide.md).
    """

    likens = True  # the image that `generate` is given is what is told, and not what is changed

    @torch.no_grad()
    def prepare(self, batch: Batch) -> Batch:
        """The pictures at `size`, and in the place of their captions, where these were not dropped, what CLIP sees."""
        seen = self.encoder.clip.embed_image(batch.image)
        prompts = [None if prompt is None else row for prompt, row in zip(batch.prompts, seen)]
        small = F.interpolate(batch.image, size=(self.size, self.size), mode="area")
        return replace(batch, image=small, prompts=prompts, prepared=True)

    def generate(  # type: ignore[override]  # what it is given is not what it starts from
        self, prompts: Sequence[Prompt], *, seeds: Sequence[int], image: Tensor | None = None, **how
    ) -> Iterator[Preview]:
        """Pictures like `image` (B or 1, 3, H, W), one a seed; without one, of the prompts. how: as Ddpm.generate's."""
        if image is not None:
            seen = Source(image).picture.to(self.device)
            prompts = list(seen) if len(seen) == len(prompts) else [seen[0]] * len(prompts)
        yield from super().generate(prompts, seeds=seeds, **how)
