"""Scenes: coloured shapes in relations, drawn as they are needed. Nothing to download.

What several systems are built on (shared.py: an autoencoder, a CLIP) is trained once; then one file a system.
"""

from phosphene.recipes.scenes.compressed import in_kl, in_kl8, in_kl16, in_kl48, in_pixels, in_vq, kl8, kl16, kl48
from phosphene.recipes.scenes.ddpm import ddpm
from phosphene.recipes.scenes.decoders import diffused, kl, small, superres, vq
from phosphene.recipes.scenes.glide import glide, glide_inpaint, glide_like, glide_upscale
from phosphene.recipes.scenes.guidance import classifier, clip_noised
from phosphene.recipes.scenes.imagen import imagen, imagen_upscale
from phosphene.recipes.scenes.latent import latent
from phosphene.recipes.scenes.layout import layout, map
from phosphene.recipes.scenes.priors import ar_prior, prior
from phosphene.recipes.scenes.score import ncsn
from phosphene.recipes.scenes.shared import autoencoder, clip
from phosphene.recipes.scenes.unclip import unclip, unclip_upscale

__all__ = [
    "ar_prior", "autoencoder", "classifier", "clip", "clip_noised", "ddpm", "diffused", "glide", "glide_inpaint",
    "glide_like", "glide_upscale", "imagen", "imagen_upscale", "in_kl", "in_kl8", "in_kl16", "in_kl48", "in_pixels",
    "in_vq", "kl", "kl8", "kl16", "kl48", "latent", "layout", "map", "ncsn", "prior", "small", "superres", "unclip",
    "unclip_upscale", "vq",
]  # fmt: skip
