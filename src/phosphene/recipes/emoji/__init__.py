"""Emoji: bilingual text-to-image models, one of them small enough to come with the package (latent.py).

In three parts: a decoder with its encoder, a text encoder from CLIP (both in shared.py), and the denoiser between them,
trained separately and joined. The papers' cascades are one file each.
"""

from phosphene.recipes.emoji.glide import glide, glide_upscale
from phosphene.recipes.emoji.imagen import imagen, imagen_upscale
from phosphene.recipes.emoji.latent import latent
from phosphene.recipes.emoji.shared import autoencoder, clip
from phosphene.recipes.emoji.unclip import prior, unclip, unclip_upscale

__all__ = [
    "autoencoder", "clip", "glide", "glide_upscale", "imagen", "imagen_upscale", "latent", "prior", "unclip",
    "unclip_upscale",
]  # fmt: skip
