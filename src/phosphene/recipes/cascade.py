"""What recipes of cascades build alike: the stages of GLIDE, and the small pictures that the first one learns from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from PIL import Image

from phosphene.data.base import Example, Source
from phosphene.diffusion.denoiser import Denoiser
from phosphene.diffusion.schedule import Cosine
from phosphene.nets.joint import JointAttention2d
from phosphene.nets.layers import AddedTimeEmbedding, ScaleShiftResBlock
from phosphene.nets.unet import UNet
from phosphene.parts import again
from phosphene.systems.clip import ClipSystem
from phosphene.systems.ddpm import Ddpm
from phosphene.systems.upscale import Upscaler
from phosphene.text.glide import GlideEncoder, GlideTokenizer


class Reduced:
    """The pictures of a source at size × size, the mean of their pixels: what a cascade's first stage makes."""

    def __init__(self, source: Source, size: int):
        self.source, self.side = source, size
        self.name = f"{source.name}, reduced to {size}"
        self.lacks = getattr(source, "lacks", {})

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, i: int) -> Example:
        example = self.source[i]
        return replace(example, image=example.image.resize((self.side, self.side), Image.Resampling.BOX))


def glide_base(words: GlideEncoder, size: int, channels: Sequence[int], attention: Sequence[int]) -> Ddpm:
    """GLIDE's base (Nichol et al. 2021): ε and a learned variance on the cosine schedule of 1000 steps."""
    net = _unet(3, 6, words, channels, attention)
    how = dict(steps=30, guidance=3.0, options={"variance": "learned"})
    return Ddpm(Denoiser(net, Cosine(), learned_variance=True), words, size, **how)


def glide_upscaler(
    words: GlideEncoder, size: int, small: int, channels: Sequence[int], attention: Sequence[int]
) -> Upscaler:
    """GLIDE's upsampler, told the words and the small picture, not guided: v, on the cosine schedule down to no signal.

    The paper's ε on its linear schedule is divided by 0.006 at the noisiest step: after minutes of training, what is
    left of its error there is a coloured ground, where v of pure noise is −x0, which the small picture nearly is.
    """
    net = _unet(6, 3, words, channels, attention)
    return Upscaler(Denoiser(net, Cosine(zero_snr=True), "v"), words, size, small, sampler="ddim", steps=12)


def _unet(seen: int, out: int, words: GlideEncoder, channels: Sequence[int], attention: Sequence[int]) -> UNet:
    """The U-Net of both: what the words say joins the time, and pixels attend to their tokens and to each other."""
    emb_dim = words.proj.out_features
    return UNet(
        seen, out, channels, 1, attention, head_dim=16, context_dim=words.transformer.width, vector_dim=emb_dim,
        emb_dim=emb_dim, block=ScaleShiftResBlock, attend=JointAttention2d, time=AddedTimeEmbedding,
    )  # fmt: skip


def glide_words(clip: ClipSystem, emb_dim: int, length: int = 24, begin: bool = True) -> GlideEncoder:
    """GLIDE's text transformer, of CLIP's shape and with its tokens; with `begin` it begins with CLIP's weights."""
    its = clip.text.transformer
    transformer = again(its, length=length)
    if begin:
        transformer.load_state_dict({**its.state_dict(), "position": its.position[:length]})
    return GlideEncoder(transformer, emb_dim, GlideTokenizer(clip.text.tokenizer.arguments["table"]))


def glide_words_again(words: GlideEncoder, emb_dim: int) -> GlideEncoder:
    """Another stage's text transformer, beginning with what this one has learned."""
    made = GlideEncoder(again(words.transformer), emb_dim, words.tokenizer)
    made.transformer.load_state_dict(words.transformer.state_dict())
    with torch.no_grad():
        made.padding.copy_(words.padding)
    return made
