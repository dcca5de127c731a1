"""The names that classes have in bundles: a closed list, so that a file can never name code to run."""

from __future__ import annotations

import functools
import importlib

_KINDS = {
    "adapt.low_rank": "Adapter",
    "adapt.replaced": "Replaced Word",
    "diffusion.denoiser": "Denoiser MinSnr P2 Snr",
    "diffusion.schedule": "Cosine Flow Geometric Karras Linear ScaledLinear Sigmoid Table",
    "nets.ar_prior": "CodeTransformer PcaCodes",
    "nets.autoencoder": "Autoencoder ConvDecoder ConvEncoder ConvTower PatchCode PatchDiscriminator Thumbnail",
    "nets.components": "Components",
    "nets.dit": "DiT",
    "nets.efficient_unet": "EfficientUNet",
    "nets.exact": "Exact",
    "nets.experts": "Experts",
    "nets.layers": "Conventions AddedTimeEmbedding TimeEmbedding ResBlock ScaleShiftResBlock "
    "SelfAttention2d SpatialTransformer CornerDownsample Downsample ResDownsample ResUpsample TransposedUpsample "
    "Upsample PlainResDownsample PlainResUpsample",
    "nets.joint": "CrossAttention2d ImagenCrossAttention2d ImagenJointAttention2d JointAttention2d "
    "NormedJointAttention2d",
    "nets.quantize": "VqAutoencoder",
    "nets.tiny": "TinyAutoencoder",
    "nets.classifier": "AttentionHead MeanHead NoisyClassifier NormedSpatialHead SpatialHead",
    "nets.patched": "Patched",
    "nets.transformer": "TextTransformer VisionTransformer",
    "nets.prior": "Prior",
    "nets.resnet": "ClipResNet",
    "nets.unet": "UNet",
    "systems.autoencoder": "AutoencoderSystem",
    "systems.binomial": "Binomial",
    "systems.cascade": "Cascade",
    "systems.classifier": "Classifier",
    "systems.clip": "ClipSystem Look",
    "systems.clip_noised": "NoisedClip",
    "systems.ddpm": "Ddpm",
    "systems.decoder": "ByDiffusion DiffusionDecoder",
    "systems.glide": "ClipEncoder Inpaint InpaintUpscaler Likeness",
    "systems.imagen": "ImagenUpscaler",
    "systems.latent": "Latent",
    "systems.prior": "ArPrior DiffusionPrior",
    "systems.unclip": "Unclip UnclipDecoder",
    "systems.upscale": "Upscaler",
    "systems.vq": "VqSystem",
    "text.clip": "ClipTextEncoder ClipTokenizer",
    "text.deepfloyd": "IfEncoder",
    "text.encoders": "ClassEncoder NoEncoder TextEncoder",
    "text.layout": "LayoutEncoder",
    "text.maps": "MapEncoder",
    "text.hugging": "HuggingEncoder",
    "text.glide": "GlideEncoder GlideTokenizer",
    "text.tokenizer": "Tokenizer",
    "text.unclip": "ClipWords UnclipEncoder UnclipHead",
    "text.vocabulary": "Vocabulary",
}
# name in files -> "module:Class", imported when first needed; or the class itself, for one's own
KINDS: dict[str, str | type] = {
    name: f"phosphene.{module}:{name}" for module, names in _KINDS.items() for name in names.split()
}


@functools.cache
def _resolved(target: str) -> type:
    module, _, name = target.partition(":")
    return getattr(importlib.import_module(module), name)


def class_of(kind: str) -> type:
    """The class that a kind is the name of, imported when first asked for."""
    target = KINDS[kind]
    return _resolved(target) if isinstance(target, str) else target
