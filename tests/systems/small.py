"""Tiny instances of every system, and something to train them on: what the shared checks use."""

from __future__ import annotations

import torch

from phosphene.data.scenes import Scenes
from phosphene.data.scenes.told import LABELS, WORDS
from phosphene.diffusion.denoiser import Denoiser
from phosphene.diffusion.schedule import Cosine, Flow, Geometric
from phosphene.nets.ar_prior import CodeTransformer, PcaCodes
from phosphene.nets.autoencoder import (
    Autoencoder,
    ConvDecoder,
    ConvEncoder,
    ConvTower,
    PatchCode,
    PatchDiscriminator,
    Thumbnail,
)
from phosphene.nets.classifier import NoisyClassifier
from phosphene.nets.dit import DiT
from phosphene.nets.efficient_unet import EfficientUNet
from phosphene.nets.joint import ImagenJointAttention2d, JointAttention2d
from phosphene.nets.layers import AddedTimeEmbedding, ScaleShiftResBlock, SelfAttention2d, SpatialTransformer
from phosphene.nets.patched import Patched
from phosphene.nets.prior import Prior
from phosphene.nets.quantize import VqAutoencoder
from phosphene.nets.transformer import TextTransformer, VisionTransformer
from phosphene.nets.unet import UNet
from phosphene.parts import again
from phosphene.systems.autoencoder import AutoencoderSystem
from phosphene.systems.base import Batch, System, frozen
from phosphene.systems.binomial import Binomial
from phosphene.systems.classifier import Classifier
from phosphene.systems.clip import ClipSystem
from phosphene.systems.clip_noised import NoisedClip
from phosphene.systems.ddpm import Ddpm
from phosphene.systems.decoder import DiffusionDecoder
from phosphene.systems.glide import ClipEncoder, Inpaint, InpaintUpscaler, Likeness, inpainting
from phosphene.systems.imagen import ImagenUpscaler
from phosphene.systems.latent import Latent
from phosphene.systems.prior import ArPrior, DiffusionPrior
from phosphene.systems.unclip import UnclipDecoder
from phosphene.systems.upscale import Upscaler
from phosphene.systems.vq import VqSystem
from phosphene.text.deepfloyd import IfEncoder
from phosphene.text.encoders import ClassEncoder, TextEncoder
from phosphene.text.glide import GlideEncoder, GlideTokenizer
from phosphene.text.layout import LayoutEncoder
from phosphene.text.maps import MapEncoder
from phosphene.text.tokenizer import Tokenizer
from phosphene.text.unclip import UnclipEncoder, UnclipHead

W = 16


def eight(kind: str = "caption") -> Batch:
    """Eight scenes of 32×32 with their captions, their numbers as classes, their layouts, their maps, or nothing."""
    import numpy as np

    source = Scenes(n=8, objects=(1, 1))
    rows = [source[i] for i in range(8)]
    pictures = torch.from_numpy(np.stack([np.asarray(r.image) for r in rows])).permute(0, 3, 1, 2) / 127.5 - 1
    prompts = {"caption": [r.captions[0] for r in rows], "label": list(range(8)), "none": [None] * 8}
    prompts |= {told: [tell(r) for r in rows] for told, tell in source.tells.items()}
    return Batch(pictures, prompts[kind], torch.arange(8))


def text_encoder() -> TextEncoder:
    captions = (c for i in range(50) for c in Scenes(n=50)[i].captions)
    tokenizer = Tokenizer.train(captions, 400)
    return TextEncoder(tokenizer, TextTransformer(len(tokenizer), 2 * W, 1, 2))


def autoencoder() -> Autoencoder:
    ae = Autoencoder(ConvEncoder(16, (W, W)), ConvDecoder(8, (W, W), 1), 8, 4, PatchCode(4, 8))
    ae.start.fit(eight().image)
    ae.measure(eight().image)
    return ae


def ddpm() -> Ddpm:
    net = UNet(3, 3, (W, 2 * W, 2 * W), 1, (0, 0, 1), head_dim=W)
    return Ddpm(Denoiser(net, Cosine(zero_snr=True), "v"), size=32, sampler="ddim", steps=10)


def ddpm_class() -> Ddpm:
    encoder = ClassEncoder(8, W)
    net = UNet(3, 3, (W, 2 * W, 2 * W), 1, (0, 0, 1), head_dim=W, vector_dim=W)
    return Ddpm(Denoiser(net, Cosine(zero_snr=True), "v"), encoder, size=32, sampler="ddim", steps=10)


def latent() -> Latent:
    encoder = text_encoder()
    net = UNet(
        8, 8, (2 * W, 2 * W), 1, (1, 1), head_dim=W, context_dim=2 * W, vector_dim=2 * W,
        block=ScaleShiftResBlock, attend=SpatialTransformer,
    )  # fmt: skip
    return Latent(Denoiser(net, Flow(), "flow"), autoencoder(), encoder, size=32, steps=10, guidance=1.0)


def latent_dit() -> Latent:
    encoder = text_encoder()
    net = DiT(8, 8, 1, 3 * W, 3, 3, context_dim=2 * W, vector_dim=2 * W)
    return Latent(Denoiser(net, Flow(), "flow"), autoencoder(), encoder, size=32, steps=10, guidance=1.0)


def vae() -> AutoencoderSystem:
    return AutoencoderSystem(autoencoder())


def vae_gan() -> AutoencoderSystem:
    return AutoencoderSystem(autoencoder(), PatchDiscriminator((W, W)))


def clip() -> ClipSystem:
    return ClipSystem(text_encoder(), ConvTower(2 * W, (W, 2 * W)), 2 * W)


def clip_vit() -> ClipSystem:
    return ClipSystem(text_encoder(), VisionTransformer(32, 8, 2 * W, 1, 2), 2 * W, size=32)


def upscaler() -> Upscaler:
    net = UNet(6, 3, (W, 2 * W), 1, (0, 1), head_dim=W, vector_dim=W)
    return Upscaler(Denoiser(net, Cosine(zero_snr=True), "v"), ClassEncoder(8, W), size=32, small=8, noised=0.1)


def vq() -> VqSystem:
    return VqSystem(VqAutoencoder(ConvEncoder(4, (W, W)), ConvDecoder(4, (W, W), 1), 4, 4, 32))


def enlarger() -> AutoencoderSystem:
    return AutoencoderSystem(Thumbnail(ConvDecoder(3, (W, W), 1), 4), kl=0.0)


def diffusion_decoder() -> DiffusionDecoder:
    net = UNet(11, 3, (W, 2 * W), 1, (0, 1), head_dim=W)
    return DiffusionDecoder(Denoiser(net, Cosine(zero_snr=True), "v"), autoencoder())


def binomial() -> Binomial:
    return Binomial(Patched(UNet(4, 4, (W, 2 * W), 1, (0, 1), head_dim=W)), 10, threshold=0.5)


def ncsn() -> Ddpm:
    """Preconditioned: where σ = 20, an error of ε after few steps is 20 times that in the picture, of any colour."""
    net = UNet(3, 3, (W, 2 * W, 2 * W), 1, (0, 0, 1), head_dim=W, block=ScaleShiftResBlock)
    denoiser = Denoiser(net, Geometric(25, 0.1, 20.0), "edm")
    return Ddpm(denoiser, size=32, sampler="langevin", steps=10, bound=None)


def ddpm_learned() -> Ddpm:
    """v for the same reason: at this schedule's noisiest step ε is divided by α = 0.0005."""
    net = UNet(3, 6, (W, 2 * W, 2 * W), 1, (0, 0, 1), head_dim=W)
    denoiser = Denoiser(net, Cosine(100), "v", learned_variance=True)
    return Ddpm(denoiser, size=32, steps=10, options={"variance": "learned"})


def tower(numbers: int, channels: int = 3, size: int = 32) -> NoisyClassifier:
    return NoisyClassifier(channels, numbers, size, (W, 2 * W), 1, (0, 1), W)


def classifier() -> Classifier:
    return Classifier(tower(8), Cosine(zero_snr=True))


def classifier_of_latents() -> Classifier:
    return Classifier(tower(8, 8, 8), Flow(), autoencoder=autoencoder())


def clip_noised() -> NoisedClip:
    return NoisedClip(text_encoder(), tower(2 * W), Cosine(zero_snr=True))


def glide() -> Ddpm:
    words = text_encoder().tokenizer
    encoder = GlideEncoder(
        TextTransformer(len(words), 2 * W, 1, 2, 16), 4 * W, GlideTokenizer(words.arguments["table"])
    )
    net = UNet(
        3, 3, (W, 2 * W, 2 * W), 1, (0, 0, 1), head_dim=W, context_dim=2 * W, vector_dim=4 * W,
        block=ScaleShiftResBlock, attend=JointAttention2d, time=AddedTimeEmbedding,
    )  # fmt: skip
    return Ddpm(Denoiser(net, Cosine(zero_snr=True), "v"), encoder, size=32, sampler="ddim", steps=10)


def glide_upscaler(small: int = 8) -> Upscaler:
    base = glide()
    net = again(base.denoiser.net, in_channels=6)
    return Upscaler(Denoiser(net, Cosine(zero_snr=True), "v"), base.encoder, 32, small, sampler="ddim", steps=4)


def imagen(text: TextEncoder | None = None) -> Ddpm:
    net = UNet(
        3, 3, (W, 2 * W, 2 * W), 1, (0, 0, 1), head_dim=W, context_dim=2 * W, vector_dim=4 * W,
        block=ScaleShiftResBlock, attend=ImagenJointAttention2d, time=AddedTimeEmbedding,
    )  # fmt: skip
    encoder = IfEncoder(2 * W, 4 * W, None, 2, text=text or text_encoder(), padded=False)
    how = dict(size=32, sampler="ddim", steps=10, threshold=(0.995,))
    return Ddpm(Denoiser(net, Cosine(zero_snr=True), "v"), encoder, **how)


def imagen_upscaler(size: int = 32, small: int = 16, text: TextEncoder | None = None) -> ImagenUpscaler:
    net = EfficientUNet(6, 3, (W, 2 * W), (1, 1), (1, 2), head_dim=W, context_dim=2 * W, vector_dim=4 * W)
    encoder = IfEncoder(2 * W, 4 * W, None, 2, 99.0, W, None, text or text_encoder(), padded=False)
    how = dict(size=size, small=small, sampler="ddim", steps=4, noised=0.1)
    return ImagenUpscaler(Denoiser(net, Cosine(zero_snr=True), "v"), encoder, **how)


def glide_inpaint() -> Inpaint:
    return inpainting(glide())


def glide_inpaint_upscaler() -> InpaintUpscaler:
    return inpainting(glide_upscaler())


def glide_like() -> Likeness:
    base = glide()
    return again(base, Likeness, encoder=ClipEncoder(clip(), 2 * W, 4 * W, 2 * W), size=16)


def unclip_decoder(size: int = 32) -> UnclipDecoder:
    """Told 32 numbers of what CLIP sees, twice, and words by a text encoder that is trained with it."""
    net = UNet(
        3, 3, (W, 2 * W, 2 * W), 1, (0, 0, 1), head_dim=W, context_dim=2 * W, vector_dim=4 * W,
        block=ScaleShiftResBlock, attend=JointAttention2d, time=AddedTimeEmbedding,
    )  # fmt: skip
    encoder = UnclipEncoder(text_encoder(), UnclipHead(2 * W, 4 * W, 2 * W))
    denoiser = Denoiser(net, Cosine(zero_snr=True), "v")
    return UnclipDecoder(clip(), denoiser, encoder, size, sampler="ddim", steps=10)


def unclip_upscaler(small: int = 16) -> Upscaler:
    net = UNet(6, 3, (W, 2 * W), 1, block=ScaleShiftResBlock, attend=[SelfAttention2d, SelfAttention2d, None])
    denoiser = Denoiser(net, Cosine(zero_snr=True), "v")
    return Upscaler(denoiser, None, 32, small, sampler="ddim", steps=4, blurred=0.6)


def diffusion_prior() -> DiffusionPrior:
    system = DiffusionPrior(clip(), Denoiser(Prior(2 * W, 2 * W, 1, 2, 16), Cosine(), "x0"), steps=4)
    system.measure(system.prepare(eight()).image)
    return system


def ar_prior() -> ArPrior:
    net = CodeTransformer(2 * W, 2 * W, 1, 2, 16, components=5, buckets=32, dots=4)
    system = ArPrior(clip(), net, PcaCodes(2 * W, 5, 32))
    batch = eight()
    system.measure(system.prepare(batch).image, system.embed_text(batch.prompts)[0])
    return system


def latent_vq_class() -> Latent:
    """A class as a token, attended to; latents before the codebook."""
    ae = vq().autoencoder
    VqSystem(ae).loss(eight("none"))  # the codebook begins on the data
    ae.measure(eight("none").image)
    net = UNet(
        4, 4, (2 * W, 2 * W), 1, (1, 1), head_dim=W, context_dim=W, vector_dim=W, block=ScaleShiftResBlock,
        attend=SpatialTransformer,
    )  # fmt: skip
    return Latent(Denoiser(net, Flow(), "flow"), ae, ClassEncoder(8, W, tokens=True), size=32, steps=10, guidance=1.0)


def latent_layout() -> Latent:
    net = UNet(
        8, 8, (2 * W, 2 * W), 1, (1, 1), head_dim=W, context_dim=2 * W, vector_dim=2 * W,
        block=ScaleShiftResBlock, attend=SpatialTransformer,
    )  # fmt: skip
    encoder = LayoutEncoder(WORDS, 2 * W, 1, 2)
    return Latent(Denoiser(net, Flow(), "flow"), autoencoder(), encoder, size=32, steps=10, guidance=1.0)


def latent_map() -> Latent:
    encoder = MapEncoder(LABELS, 8)
    net = UNet(8 + encoder.shown, 8, (2 * W, 2 * W), 1, (0, 1), head_dim=W, block=ScaleShiftResBlock)
    return Latent(Denoiser(net, Flow(), "flow"), autoencoder(), encoder, size=32, steps=10, guidance=1.0)


SYSTEMS = {
    "glide": (glide, "caption"),
    "glide_upscaler": (glide_upscaler, "caption"),
    "glide_inpaint": (glide_inpaint, "caption"),
    "glide_inpaint_upscaler": (glide_inpaint_upscaler, "caption"),
    "glide_like": (glide_like, "caption"),
    "unclip_decoder": (unclip_decoder, "caption"),
    "unclip_upscaler": (unclip_upscaler, "none"),
    "diffusion_prior": (diffusion_prior, "caption"),
    "ar_prior": (ar_prior, "caption"),
    "imagen": (imagen, "caption"),
    "imagen_upscaler": (imagen_upscaler, "caption"),
    "classifier": (classifier, "label"),
    "classifier_of_latents": (classifier_of_latents, "label"),
    "clip_noised": (clip_noised, "caption"),
    "binomial": (binomial, "none"),
    "ncsn": (ncsn, "none"),
    "ddpm_learned": (ddpm_learned, "none"),
    "ddpm": (ddpm, "none"),
    "ddpm_class": (ddpm_class, "label"),
    "latent": (latent, "caption"),
    "latent_dit": (latent_dit, "caption"),
    "vae": (vae, "none"),
    "vae_gan": (vae_gan, "none"),
    "clip": (clip, "caption"),
    "clip_vit": (clip_vit, "caption"),
    "upscaler": (upscaler, "label"),
    "vq": (vq, "none"),
    "enlarger": (enlarger, "none"),
    "diffusion_decoder": (diffusion_decoder, "none"),
    "latent_vq_class": (latent_vq_class, "label"),
    "latent_layout": (latent_layout, "layout"),
    "latent_map": (latent_map, "map"),
}
GENERATE = ["glide", "imagen", "unclip_decoder", "ncsn", "ddpm_learned", "ddpm", "ddpm_class", "latent", "latent_dit"]
GENERATE += ["latent_vq_class", "latent_layout", "latent_map"]


def made(name: str, seed: int = 0) -> tuple[System, Batch]:
    """The system, with first weights from the seed, and its eight pictures."""
    torch.manual_seed(seed)
    build, kind = SYSTEMS[name]
    return build(), eight(kind)


def awake(system: System) -> System:
    """Layers that start at zero given numbers, so that pictures depend on everything."""
    torch.manual_seed(1)
    for p in system.parameters():
        if p.requires_grad and not p.any():
            torch.nn.init.normal_(p, std=0.05)
    return system.eval()


def learn_codes(autoencoder: VqAutoencoder, batch: Batch) -> None:
    """The pictures of the batch, which the autoencoder then has by heart; frozen again and measured, as it was."""
    overfit(VqSystem(autoencoder.requires_grad_(True)), batch, 1200, 3e-3)
    frozen(autoencoder).measure(batch.image)


def overfit(system: System, batch: Batch, steps: int, lr: float) -> list[float]:
    """Adam on one batch; the losses of the first turn that has a model."""
    batch = system.prepare(batch)
    optimisers = {turn: torch.optim.Adam(p, lr=lr, betas=(0.9, 0.99)) for turn, p in system.turns.items()}
    losses = []
    for step in range(steps):
        for turn, optimiser in optimisers.items():
            for group in optimiser.param_groups:
                group["lr"] = lr * min(1, 2 * (1 - step / steps))
            optimiser.zero_grad()
            loss = system(batch, turn)
            loss.total.backward()
            optimiser.step()
        losses.append(loss.total.item())
    return losses
