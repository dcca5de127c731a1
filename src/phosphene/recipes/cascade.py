"""What recipes of cascades build alike: the stages of GLIDE, unCLIP and Imagen, and their plans."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from phosphene.data.base import Example, Source
from phosphene.data.batches import Batches, cached
from phosphene.diffusion.denoiser import Denoiser
from phosphene.diffusion.schedule import Cosine
from phosphene.nets.components import Components
from phosphene.nets.efficient_unet import EfficientUNet
from phosphene.nets.joint import ImagenJointAttention2d, JointAttention2d
from phosphene.nets.layers import AddedTimeEmbedding, ScaleShiftResBlock, SelfAttention2d
from phosphene.nets.unet import UNet
from phosphene.parts import again
from phosphene.recipes.base import Plan
from phosphene.recipes.grids import grid_of
from phosphene.recipes.parts import some_of
from phosphene.systems.base import System
from phosphene.systems.cascade import Cascade
from phosphene.systems.clip import ClipSystem
from phosphene.systems.ddpm import Ddpm
from phosphene.systems.imagen import ImagenUpscaler
from phosphene.systems.unclip import Unclip, UnclipDecoder, joined
from phosphene.systems.upscale import Upscaler
from phosphene.text.deepfloyd import IfEncoder
from phosphene.text.encoders import TextEncoder
from phosphene.text.glide import GlideEncoder, GlideTokenizer
from phosphene.text.hugging import HuggingEncoder
from phosphene.text.unclip import UnclipEncoder, UnclipHead


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


def reduced(pictures: Tensor, side: int) -> Tensor:
    """Pictures (B, 3, H, W) at side × side, the mean of their pixels."""
    return F.interpolate(pictures, size=(side, side), mode="area")


def enlarged(pictures: Tensor, side: int = 32) -> Tensor:
    """Smaller pictures (B, 3, h, w) at side × side, by bicubic; others as they are. Scenes are read from 32×32 on.

    Of 200 scenes reduced to 16×16 and enlarged again the exact parser reads all (docs/lineage/glide.md).
    """
    if pictures.shape[-1] >= side:
        return pictures
    return F.interpolate(pictures, size=(side, side), mode="bicubic").clamp(-1, 1)


def plan_of(
    system: System, source: Source, size: int, batch: int, settings: dict[str, Any], drop: float = 0.1,
    prompts: Sequence[str] = (), grid: dict[str, Any] | None = None, **rest: Any,
) -> Plan:  # fmt: skip
    """The plan of what learns from captioned pictures of this size, which are decoded once and kept.

    drop     how often the caption is left out
    prompts  of the sample grids; grid: what else these are made with
    rest     of the Plan: whole, score, report, card
    """
    batches = cached(Batches(source, size=size, batch=batch, seed=settings["seed"], drop=drop))
    sample = grid_of(prompts, **(grid or {})) if prompts else None
    return Plan(system, batches, settings, sample=sample, **rest)


def stages_of(system: System) -> list[System]:
    """A cascade's stages; of another system, itself."""
    return list(system.stages) if isinstance(system, Cascade) else [system]


def after(system: System) -> Callable[[System], Cascade]:
    """A plan's `whole`: the cascade of this system, or of its stages, and the one that is trained."""
    return lambda it: Cascade([*stages_of(system), it])


def glide_base(words: GlideEncoder, size: int, channels: Sequence[int], attention: Sequence[int]) -> Ddpm:
    """GLIDE's base (Nichol et al. 2021): ε and a learned variance on the cosine schedule of 1000 steps."""
    net = _unet(3, 6, channels, attention, words.proj.out_features, words.transformer.width)
    how = dict(steps=30, guidance=3.0, options={"variance": "learned"})
    return Ddpm(Denoiser(net, Cosine(), learned_variance=True), words, size, **how)


def glide_upscaler(base: Ddpm, size: int, channels: Sequence[int], attention: Sequence[int], emb_dim: int) -> Upscaler:
    """GLIDE's upsampler, told the words and the small picture, not guided: v, on the cosine schedule down to no signal.

    Its text transformer begins with what that of the base has learned.

    The paper's ε on its linear schedule is divided by 0.006 at the noisiest step: after minutes of training, what is
    left of its error there is a coloured ground, where v of pure noise is −x0, which the small picture nearly is.
    """
    its = base.encoder
    words = GlideEncoder(again(its.transformer), emb_dim, its.tokenizer)
    words.transformer.load_state_dict(its.transformer.state_dict())
    with torch.no_grad():
        words.padding.copy_(its.padding)
    net = _unet(6, 3, channels, attention, emb_dim, words.transformer.width)
    return Upscaler(Denoiser(net, Cosine(zero_snr=True), "v"), words, size, base.size, sampler="ddim", steps=12)


def _unet(
    seen: int, out: int, channels: Sequence[int], attention: Sequence[int], emb_dim: int, context_dim: int
) -> UNet:
    """The U-Net of all of them: what is told joins the time, and pixels attend to its tokens and to each other."""
    return UNet(
        seen, out, channels, 1, attention, head_dim=16, context_dim=context_dim, vector_dim=emb_dim, emb_dim=emb_dim,
        block=ScaleShiftResBlock, attend=JointAttention2d, time=AddedTimeEmbedding,
    )  # fmt: skip


def unclip_decoder(
    clip: ClipSystem, size: int, channels: Sequence[int], attention: Sequence[int], begin: bool = True
) -> UnclipDecoder:
    """unCLIP's decoder (Ramesh et al. 2022, §2.1): GLIDE's U-Net and words, told z_i twice. v, down to no signal.

    begin   its words begin with those of the CLIP
    """
    dim, text_dim, emb_dim = clip.arguments["width"], clip.text.width, 6 * channels[0]
    words = glide_words(clip, text_dim, begin=begin)
    head = UnclipHead(dim, emb_dim, text_dim, text_dim=text_dim)
    net = _unet(3, 3, channels, attention, emb_dim, text_dim)
    how = dict(sampler="ddim", steps=30, guidance=3.0)
    denoiser = Denoiser(net, Cosine(zero_snr=True), "v")
    return UnclipDecoder(clip, denoiser, UnclipEncoder(words, head), size, **how)


def unclip_upscaler(size: int, small: int, channels: Sequence[int], **corrupted: float) -> Upscaler:
    """unCLIP's upsamplers (§2.1): convolutions alone, told no words. corrupted: blurred=, noised= of an Upscaler."""
    net = UNet(6, 3, channels, 1, block=ScaleShiftResBlock, attend=[*[SelfAttention2d] * len(channels), None])
    how = dict(sampler="ddim", steps=12, **corrupted)
    return Upscaler(Denoiser(net, Cosine(zero_snr=True), "v"), None, size, small, **how)


def plan_of_decoder(decoder: UnclipDecoder, source: Source, *how: Any, **rest: Any) -> Plan:
    """`plan_of` a decoder: its bundle is an Unclip without a prior, that knows CLIP's principal components."""
    plan = plan_of(decoder, source, *how, **rest)
    components = Components.of(decoder.clip.embed_image(some_of(plan.data, 4096)))
    return replace(plan, whole=lambda it: Unclip([it], None, components))


def after_unclip(unclip: Unclip, prior: System) -> Callable[[System], Unclip]:
    """A plan's `whole`: this prior, these stages and the one that is trained. Raises Problem where two CLIPs meet."""
    prior = joined(prior, unclip.stages[0])
    return lambda it: Unclip([*unclip.stages, it], prior, unclip.components)


def glide_words(clip: ClipSystem, emb_dim: int, length: int = 24, begin: bool = True) -> GlideEncoder:
    """GLIDE's text transformer, of CLIP's shape and with its tokens; with `begin` it begins with CLIP's weights."""
    its = clip.text.transformer
    transformer = again(its, length=length)
    if begin:
        transformer.load_state_dict({**its.state_dict(), "position": its.position[:length]})
    return GlideEncoder(transformer, emb_dim, GlideTokenizer(clip.text.tokenizer.arguments["table"]))


def imagen_words(text: TextEncoder | HuggingEncoder, emb_dim: int, level: float | None = None) -> IfEncoder:
    """Imagen's head on a frozen text encoder: its states, pooled, join the time, and all of them are attended to.

    level is what an upscaler is told of the noise on its small picture, where it is told nothing else; None: a base.
    """
    return IfEncoder(text.width, emb_dim, None, 4, level, 2 * (emb_dim // 8), None, text, padded=False)


def imagen_base(
    words: IfEncoder, size: int, channels: Sequence[int], attention: Sequence[int], quantile: float | None = None
) -> Ddpm:
    """Imagen's base (Saharia et al. 2022): told frozen words; v, where the paper has ε. quantile: of its threshold.

    None clamps x0, which pictures of white grounds and full colours want (`phosphene study threshold`).
    """
    emb_dim = words.pool.norm2.normalized_shape[0]
    net = UNet(
        3, 3, channels, 1, attention, head_dim=16, context_dim=words.dim, vector_dim=emb_dim, emb_dim=emb_dim,
        block=ScaleShiftResBlock, attend=ImagenJointAttention2d, time=AddedTimeEmbedding,
    )  # fmt: skip
    how = dict(sampler="ddim", steps=20, guidance=3.0, threshold=None if quantile is None else (quantile,))
    return Ddpm(Denoiser(net, Cosine(zero_snr=True), "v"), words, size, **how)


def imagen_upscaler(
    before: Ddpm | Cascade, size: int, channels: Sequence[int], depth: Sequence[int], noised: float
) -> ImagenUpscaler:
    """Imagen's super-resolution (there): an Efficient U-Net told the words, the small picture and the noise on it.

    It enlarges what comes before it, and the text is read by the first stage's encoder.

    The first blocks see all pixels of 32×32, which are few; of larger pictures half a side of them, as in the paper.
    """
    schedule, emb_dim = Cosine(zero_snr=True), 8 * channels[0]
    words = imagen_words(stages_of(before)[0].encoder.text, emb_dim, float(schedule.c_noise(noised)))
    strides = [1 if size <= 32 else 2, *[2] * (len(channels) - 1)]
    net = EfficientUNet(
        6, 3, channels, depth, strides, head_dim=16, context_dim=words.dim, vector_dim=emb_dim, emb_dim=emb_dim
    )  # fmt: skip
    how = dict(sampler="ddim", steps=12, guidance=1.0, noised=noised)
    return ImagenUpscaler(Denoiser(net, schedule, "v"), words, size, before.size, **how)
